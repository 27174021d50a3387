package archive

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"jetkeep/store/record"
)

// Names of the entries of a V2 archive that are not messages.
const (
	stateEntry     = "state.json"
	consumerPrefix = "consumers/"
)

// v2State is what must be known of a state.json to check the archive.
type v2State struct {
	Messages  uint64 `json:"messages"`
	FirstSeq  uint64 `json:"first_seq"`
	LastSeq   uint64 `json:"last_seq"`
	Consumers int    `json:"consumer_count"`
}

type v2Reader struct {
	w      *window
	v      Visitor
	sum    Summary
	memory int // that consumers may take yet
	state  v2State
	rec    record.Record
	last   uint64
}

func readV2(w *window, v Visitor) (Summary, error) {
	w.skip(len(record.Magic))
	r := v2Reader{w: w, v: v, sum: Summary{Format: FormatV2}, memory: MaxConsumersMemory}
	if err := r.readState(); err != nil {
		return Summary{}, err
	}
	for range r.state.Consumers {
		if err := r.consumer(); err != nil {
			return Summary{}, err
		}
	}
	for {
		n, err := r.entry()
		if err != nil {
			return Summary{}, fmt.Errorf("entry after message %d: %w", r.last, err)
		}
		if r.rec.Sequence == 0 {
			if r.rec.Time != 0 || n != len(record.AppendEnd(nil)) {
				return Summary{}, corrupt("entry %q where messages or the end belong", name(r.rec.Subject))
			}
			w.skip(n)
			return r.sum, nil
		}
		if err := r.message(); err != nil {
			return Summary{}, err
		}
		w.skip(n)
	}
}

// entry decodes the next entry, which stays unconsumed, and returns its length.
func (r *v2Reader) entry() (int, error) { return r.entryOf(func() int64 { return maxWindow }) }

// metadata is entry where a message would be none.
func (r *v2Reader) metadata() (int, error) {
	return r.entryOf(func() int64 { return r.w.plausible(usualMeta, maxWindow) })
}

func (r *v2Reader) entryOf(limit func() int64) (int, error) {
	for {
		rec, n, err := record.DecodeEntry(r.w.have())
		if err == nil {
			r.rec = rec
			return n, nil
		}
		if !errors.Is(err, record.ErrShort) {
			return 0, corrupt("%v", err)
		}
		r.w.whole = record.EntryLen(r.w.have())
		if n := int64(len(r.w.have())); n > limit() {
			return 0, fmt.Errorf("%w: metadata of more than %d bytes", ErrTooLarge, n)
		}
		if err := r.w.more(); err != nil {
			if err == io.EOF {
				return 0, fmt.Errorf("%w: it has no end entry", ErrTruncated)
			}
			return 0, err
		}
	}
}

func (r *v2Reader) readState() error {
	n, err := r.metadata()
	if err != nil {
		return fmt.Errorf("entry %s: %w", stateEntry, err)
	}
	if string(r.rec.Subject) != stateEntry || r.rec.Sequence != 0 || len(r.rec.Header) > 0 {
		return corrupt("entry %q where %s belongs", name(r.rec.Subject), stateEntry)
	}
	if err := json.Unmarshal(r.rec.Data, &r.state); err != nil {
		return corrupt("%s: %v", stateEntry, err)
	}
	if r.state.Consumers < 0 {
		return corrupt("%s counts %d consumers", stateEntry, r.state.Consumers)
	}
	r.sum.State = append(json.RawMessage{}, r.rec.Data...)
	r.sum.LastSequence = r.state.LastSeq
	r.w.skip(n)
	return nil
}

func (r *v2Reader) consumer() error {
	n, err := r.metadata()
	if err != nil {
		return fmt.Errorf("consumer: %w", err)
	}
	id, ok := strings.CutPrefix(string(r.rec.Subject), consumerPrefix)
	if !ok || id == "" || r.rec.Sequence != 0 || len(r.rec.Header) > 0 {
		return corrupt("entry %q where one of %d consumers belongs", name(r.rec.Subject), r.state.Consumers)
	}
	c, err := decodeV2Consumer(r.rec.Data, r.memory)
	if errors.Is(err, ErrMalformed) {
		return corrupt("consumer %s: %v", id, err)
	}
	if err != nil {
		return fmt.Errorf("consumer %s: %w", id, err)
	}
	c.Name = id
	r.memory -= c.Memory()
	r.w.skip(n)
	r.sum.Consumers++
	return r.v.Consumer(c)
}

// message gives a message to the visitor. There may be fewer than state.json
// counts, as messages can be deleted ahead of the server's cursor, but no more,
// unless it counts none, as that of an edited archive may, and none that came
// later.
func (r *v2Reader) message() error {
	seq := r.rec.Sequence
	switch {
	case seq <= r.last:
		return corrupt("sequence %d follows %d", seq, r.last)
	case seq < r.state.FirstSeq || seq > r.state.LastSeq:
		return corrupt("sequence %d, where %s has %d to %d", seq, stateEntry, r.state.FirstSeq, r.state.LastSeq)
	case r.sum.Records == r.state.Messages && r.state.Messages > 0:
		return corrupt("more than the %d messages of %s", r.state.Messages, stateEntry)
	case len(r.rec.Subject) == 0:
		return corrupt("message %d has no subject", seq)
	}
	r.last = seq
	r.sum.Records++
	r.sum.Bytes += uint64(r.rec.Size())
	return r.v.Record(&r.rec)
}

// name shortens what should be a name for an error.
func name(b []byte) []byte { return b[:min(len(b), 80)] }
