package jetsnap

import (
	"context"
	"fmt"
	"io"
)

// source reads ahead of an upload, so that the server's patience does not
// depend on the reader's.
type source struct {
	r     io.Reader
	parts chan part
	free  chan []byte
	quit  chan struct{}
	done  chan struct{}
}

type part struct {
	data []byte // nil at the end
	err  error
}

func newSource(r io.Reader, size int) *source {
	s := &source{
		r: r, parts: make(chan part, 1), free: make(chan []byte, 3),
		quit: make(chan struct{}), done: make(chan struct{}),
	}
	for range cap(s.free) {
		s.free <- make([]byte, size)
	}
	go s.run()
	return s
}

func (s *source) run() {
	defer close(s.done)
	for {
		var buf []byte
		select {
		case buf = <-s.free:
		case <-s.quit:
			return
		}
		n, err := fillFrom(s.r, buf[:cap(buf)])
		last := part{}
		if err != nil && err != io.EOF {
			last.err = fmt.Errorf("read archive: %w", err)
		}
		if n > 0 && last.err == nil && !s.give(part{data: buf[:n]}) {
			return
		}
		if err != nil {
			s.give(last)
			return
		}
	}
}

// fillFrom reads until buf is full or r ends. Unlike with io.ReadFull, an
// unexpected end that r itself reports stays an error.
func fillFrom(r io.Reader, buf []byte) (int, error) {
	for n := 0; ; {
		m, err := r.Read(buf[n:])
		if n += m; err != nil || n == len(buf) {
			return n, err
		}
	}
}

func (s *source) give(p part) bool {
	select {
	case s.parts <- p:
		return true
	case <-s.quit:
		return false
	}
}

// first returns the first chunk.
func (s *source) first(ctx context.Context) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	select {
	case p := <-s.parts:
		if p.err == nil && p.data == nil {
			p.err = fmt.Errorf("read archive: %w", io.ErrUnexpectedEOF)
		}
		return p.data, p.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (s *source) recycle(buf []byte) { s.free <- buf }

// close ends the reading. The writer at the other end of a pipe learns why.
func (s *source) close(err error) {
	close(s.quit)
	if pipe, ok := s.r.(*io.PipeReader); ok {
		_ = pipe.CloseWithError(err) // returns nil
		<-s.done
	}
}
