package natsconn

// ReadWait is how long a question that nobody answers is asked again.
const ReadWait = readWait
