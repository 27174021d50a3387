package jetsnap

// Buffered returns the bytes that wait for the reader.
func (s *Snapshot) Buffered() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buffered
}

// Over tells whether nothing more comes from the server, and why if that is an error.
func (s *Snapshot) Over() (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended || s.err != nil, s.err
}

// PaceInterval is the time between two acknowledgements while the reader stalls.
const PaceInterval = paceInterval
