// Package restore brings restore points back as streams: it plans, and it
// carries out what was planned.
//
// # The plan
//
// BuildPlan is a pure function of the restore points and of what is known of
// the target. It says for each stream what will be done and in which order,
// what makes it impossible (problems) and what will be different afterwards
// (warnings, with numbers where they can be known beforehand). A plan with a
// problem is refused as a whole. A feature that the target's server does not
// have is always named: as a problem if the stream would behave differently
// without it, as a warning if it only goes without something.
//
// # What Execute guarantees
//
// Execute never touches a stream that holds a message which it did not put
// there, nor one that was there when it began. It returns
// without an error only if the server reported success, if its state has the
// messages and the sequences of the restore point, if every consumer is there
// with its state, and, unless verification is switched off, if every message
// that was read back equals the stored one. What the stream's own limits
// removed at once (max_age, the messages' TTLs, the acknowledged messages of a
// work queue) is told apart from what is missing by going through all messages.
//
// File streams are restored from an archive in the format of nats-server 2.14
// and older, on all versions: it keeps the created time and the dedupe window
// and appears as a whole or not at all. Memory streams are restored from the
// format of 2.15, which only 2.15 and newer take, and which loses both.
//
// A stream with sources continues after the last message that it had from each
// of its origins, see sources.go for what that takes.
//
// # When it fails
//
// After a failed upload nothing half-done remains, or the error says what
// remains. A stream that was not there before the upload and is there after it
// is deleted if its first message is the restore point's, in time and content,
// and it is a part of the restore point, or if it has had no message and is
// configured like the restore point; any other is somebody else's. A stream
// that reaches to the restore point's end is never deleted: another execution
// of the same task may have brought it, and others rely on it. In a cluster of 2.15 a failed restore occupies the
// stream's name even though there is no stream; that name is freed. A stream
// that was restored and does not pass the checks stays for people to look at,
// and the error says so.
package restore

import (
	"errors"
	"fmt"
)

// Errors of an execution that a caller can tell apart.
var (
	// ErrExists means that the target has a stream of that name.
	ErrExists = errors.New("stream exists")
	// ErrReserved means that the stream is one of jetkeep's own.
	ErrReserved = errors.New("stream is jetkeep's own")
	// ErrRefused means that the plan for the stream has a problem.
	ErrRefused = errors.New("restore is refused")
	// ErrState means that the restored stream does not have the state that
	// the restore point has.
	ErrState = errors.New("restored stream differs from its restore point")
)

// A RefusedError is the plan's reason not to restore a stream.
type RefusedError struct {
	Stream   string
	Problems []Finding
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("restore stream %s: %s: %s", e.Stream, e.Problems[0].Code, e.Problems[0].Text)
}

// Unwrap makes the problem that is tested for most recognisable.
func (e *RefusedError) Unwrap() []error {
	errs := []error{ErrRefused}
	for _, p := range e.Problems {
		switch p.Code {
		case CodeExists:
			errs = append(errs, ErrExists)
		case CodeReserved:
			errs = append(errs, ErrReserved)
		}
	}
	return errs
}
