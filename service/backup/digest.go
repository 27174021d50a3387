package backup

import (
	"context"
	"runtime"
	"sync"

	"jetkeep/store/record"
)

// ReadBack reads a stream as Capture does and hands each record to fn, mostly
// in ascending order. The outcome names the records that were deleted since
// they were handed over.
func ReadBack(ctx context.Context, t Target, stream string, o Options, fn func(*record.Record) error) (*Outcome, error) {
	return Capture(ctx, t, stream, funcSink(fn), o)
}

type funcSink func(*record.Record) error

func (f funcSink) Append(r *record.Record) error       { return f(r) }
func (f funcSink) AppendRepair(r *record.Record) error { return f(r) }

// Digest reads a stream as Capture does and returns the digest of all its
// records. If the outcome's Deleted is not empty, the digest covers those
// records, too: the stream was changing.
func Digest(ctx context.Context, t Target, stream string, o Options) (record.Sum, *Outcome, error) {
	s := newSummer()
	out, err := Capture(ctx, t, stream, s, o)
	sum := s.finish()
	return sum, out, err
}

const sumBatch = 1 << 20

// A summer is a sink that hashes records on all cores: batches of encoded
// records go to workers, each of which adds up its own.
type summer struct {
	batch []byte
	ends  []int
	work  chan sumWork
	free  chan sumWork
	wg    sync.WaitGroup
	mu    sync.Mutex
	total record.Sum
}

type sumWork struct {
	buf  []byte
	ends []int
}

func newSummer() *summer {
	n := runtime.GOMAXPROCS(0)
	s := &summer{work: make(chan sumWork, n), free: make(chan sumWork, 2*n+1)}
	for range n {
		s.wg.Go(s.worker)
	}
	return s
}

func (s *summer) worker() {
	var sum record.Sum
	for w := range s.work {
		from := 0
		for _, end := range w.ends {
			sum.Add(w.buf[from:end])
			from = end
		}
		select {
		case s.free <- w:
		default:
		}
	}
	s.mu.Lock()
	s.total.Merge(sum)
	s.mu.Unlock()
}

func (s *summer) Append(r *record.Record) error {
	s.batch = record.Append(s.batch, r)
	s.ends = append(s.ends, len(s.batch))
	if len(s.batch) >= sumBatch {
		s.flush()
	}
	return nil
}

func (s *summer) AppendRepair(r *record.Record) error { return s.Append(r) }

func (s *summer) flush() {
	if len(s.ends) == 0 {
		return
	}
	s.work <- sumWork{s.batch, s.ends}
	select {
	case w := <-s.free:
		s.batch, s.ends = w.buf[:0], w.ends[:0]
	default:
		s.batch, s.ends = nil, nil
	}
}

// finish must be called once; it ends the workers.
func (s *summer) finish() record.Sum {
	s.flush()
	close(s.work)
	s.wg.Wait()
	return s.total
}
