package archive

import (
	"fmt"
	"io"
	"time"

	"github.com/klauspost/compress/s2"

	"jetkeep/store/record"
)

// State is the stream that a V2 archive holds. Bytes is what the server counts
// as the stream's size and reserves while it restores.
type State struct {
	Messages  uint64
	Bytes     uint64
	FirstSeq  uint64
	LastSeq   uint64
	FirstTime time.Time
	LastTime  time.Time

	Compression Compression
}

// writtenChunk is how much is encoded before it is compressed.
const writtenChunk = 1 << 20

// A V2Writer writes a V2 archive. The first error is kept and returned by all
// later calls. A writer that is not to be finished needs no closing.
type V2Writer struct {
	s2    *s2.Writer
	buf   []byte
	state State
	count uint64
	last  uint64
	err   error
}

// NewV2Writer begins an archive of a stream that will have exactly the given
// number of messages within the given sequences. Errors show at the next call.
func NewV2Writer(w io.Writer, st State, consumers []Consumer) *V2Writer {
	v := &V2Writer{s2: newS2(w, st.Compression), state: st}
	v.err = v.begin(consumers)
	return v
}

func (v *V2Writer) begin(consumers []Consumer) error {
	st := &v.state
	if st.Messages == 0 && st.LastSeq > 0 {
		// Servers refuse any other first sequence of an empty stream.
		st.FirstSeq = st.LastSeq + 1
	}
	if span := st.LastSeq - st.FirstSeq + 1; st.Messages > 0 && (st.FirstSeq == 0 || st.FirstSeq > st.LastSeq || st.Messages > span) {
		return fmt.Errorf("%w: %d messages from %d to %d", ErrOrder, st.Messages, st.FirstSeq, st.LastSeq)
	}
	state, err := encodeJSON(struct {
		Messages  uint64    `json:"messages"`
		Bytes     uint64    `json:"bytes"`
		FirstSeq  uint64    `json:"first_seq"`
		FirstTime time.Time `json:"first_ts"`
		LastSeq   uint64    `json:"last_seq"`
		LastTime  time.Time `json:"last_ts"`
		Consumers int       `json:"consumer_count"`
	}{st.Messages, st.Bytes, st.FirstSeq, st.FirstTime.UTC(), st.LastSeq, st.LastTime.UTC(), len(consumers)})
	if err != nil {
		return err
	}
	now := time.Now().UnixNano()
	v.buf = record.AppendHead(v.buf)
	v.buf = record.Append(v.buf, &record.Record{Subject: []byte(stateEntry), Time: now, Data: state})
	for _, c := range consumers {
		if err := v.consumer(c, now); err != nil {
			return err
		}
	}
	return nil
}

func (v *V2Writer) consumer(c Consumer, now int64) error {
	if !writable(c.Name) {
		return fmt.Errorf("write archive: invalid consumer name %q", c.Name)
	}
	o, err := parseObject(c.Config)
	if err != nil {
		return fmt.Errorf("configuration of consumer %s: %w", c.Name, err)
	}
	// Servers before 2.9 did not put the name into the configuration; 2.15
	// restores an ephemeral consumer under its name only if it is there.
	if o, err = o.with("name", c.Name); err != nil {
		return err
	}
	config, err := o.encode()
	if err != nil {
		return err
	}
	b, err := encodeJSON(consumerJSON{Config: config, State: newStateJSON(c.State)})
	if err != nil {
		return err
	}
	if len(b) > record.MaxBody {
		return fmt.Errorf("%w: state of consumer %s takes %d bytes", ErrTooLarge, c.Name, len(b))
	}
	return v.append(&record.Record{Subject: []byte(consumerPrefix + c.Name), Time: now, Data: b})
}

// Record adds a message, whose sequence must be higher than the last.
func (v *V2Writer) Record(r *record.Record) error {
	if v.err == nil {
		v.err = v.record(r)
	}
	return v.err
}

func (v *V2Writer) record(r *record.Record) error {
	switch {
	case r.Sequence <= v.last || r.Sequence < v.state.FirstSeq || r.Sequence > v.state.LastSeq:
		return fmt.Errorf("%w: message %d after message %d in %d to %d", ErrOrder, r.Sequence, v.last, v.state.FirstSeq, v.state.LastSeq)
	case len(r.Subject) == 0:
		return fmt.Errorf("message %d: %w", r.Sequence, record.ErrInvalid)
	case minRec+4+len(r.Subject)+len(r.Header)+len(r.Data) > maxWritten:
		return fmt.Errorf("%w: message %d takes %d bytes, servers read up to %d", ErrTooLarge, r.Sequence, r.Size(), maxWritten)
	}
	v.last = r.Sequence
	v.count++
	return v.append(r)
}

func (v *V2Writer) append(r *record.Record) error {
	if len(r.Header)+len(r.Data) >= writtenChunk {
		// What is large is not copied.
		v.buf = record.AppendFields(v.buf, r)
		return v.write(v.flush(), r.Header, r.Data)
	}
	v.buf = record.Append(v.buf, r)
	if len(v.buf) < writtenChunk {
		return nil
	}
	return v.flush()
}

func (v *V2Writer) flush() error {
	err := v.write(nil, v.buf)
	v.buf = v.buf[:0]
	return err
}

// write writes the parts, unless there was an error before.
func (v *V2Writer) write(err error, parts ...[]byte) error {
	for _, b := range parts {
		if err == nil && len(b) > 0 {
			_, err = v.s2.Write(b)
		}
	}
	return err
}

// Close ends the archive. It fails if there were not as many messages as said.
func (v *V2Writer) Close() error {
	if v.err != nil {
		return v.err
	}
	if v.count != v.state.Messages {
		v.err = fmt.Errorf("%w: %d messages instead of %d", ErrOrder, v.count, v.state.Messages)
		return v.err
	}
	v.err = fmt.Errorf("%w: archive is closed", ErrOrder)
	if _, err := v.s2.Write(record.AppendEnd(v.buf)); err != nil {
		return err
	}
	return v.s2.Close()
}
