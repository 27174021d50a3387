package jetsnap

// Buffered returns the bytes that wait for the reader.
func (s *Snapshot) Buffered() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buffered
}
