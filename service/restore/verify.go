package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"jetkeep/service/jsapi"
	"jetkeep/service/natsconn"
	"jetkeep/store/record"
	"jetkeep/store/seqset"
)

// A MismatchError says how a restored stream differs from its restore point in
// a way that nothing explains.
type MismatchError struct {
	Stream                    string
	Missing, Differing, Extra *seqset.Set
}

func (e *MismatchError) Error() string {
	var parts []string
	for _, p := range []struct {
		what string
		set  *seqset.Set
	}{{"missing", e.Missing}, {"different", e.Differing}, {"too many", e.Extra}} {
		if n := p.set.Len(); n > 0 {
			parts = append(parts, fmt.Sprintf("%d messages %s (%s)", n, p.what, describe(p.set)))
		}
	}
	return fmt.Sprintf("stream %s: %s", e.Stream, strings.Join(parts, ", "))
}

// Unwrap returns ErrState.
func (e *MismatchError) Unwrap() error { return ErrState }

// describe names the first few ranges of a set.
func describe(s *seqset.Set) string {
	var parts []string
	for r := range s.Ranges() {
		switch {
		case len(parts) == 8:
			return strings.Join(append(parts, "…"), ", ")
		case r.First == r.Last:
			parts = append(parts, strconv.FormatUint(r.First, 10))
		default:
			parts = append(parts, fmt.Sprintf("%d-%d", r.First, r.Last))
		}
	}
	return strings.Join(parts, ", ")
}

// verify reads the stream back. If the digest is not that of the restore point,
// it compares message by message.
func (x *execution) verify(ctx context.Context) error {
	var sum record.Sum
	hash := hasher()
	p := x.meter(StageVerify, x.Point.Content.Messages)
	err := x.readBack(ctx, func(r *record.Record) error {
		hash(&sum, r)
		p.add(r)
		return nil
	})
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	p.done()
	x.result.Digest = sum.String()
	if sum.Count() == x.Point.Content.Messages && sum.String() == x.digest() {
		return nil
	}
	return x.compare(ctx)
}

// copied is up to which size a record is copied to be hashed, which is quicker
// than to hash its parts.
const copied = 64 << 10

// hasher returns what adds a record to a digest.
func hasher() func(*record.Sum, *record.Record) {
	var buf []byte
	return func(sum *record.Sum, r *record.Record) {
		if len(r.Header)+len(r.Data) > copied {
			sum.AddHash(record.HashOf(r))
			return
		}
		buf = record.Append(buf[:0], r)
		sum.Add(buf)
	}
}

// digest returns that of the restore point's messages, or nothing if it is not
// known: its own may be over others too, and an execution that takes up what an
// earlier one brought has not read them.
func (x *execution) digest() string {
	switch c := &x.Point.Content; {
	case x.live != nil:
		return x.live.String()
	case c.Extra.Count == 0:
		return c.Digest
	}
	return ""
}

// readBack gives fn what the stream holds of the restore point's sequences.
func (x *execution) readBack(ctx context.Context, fn func(*record.Record) error) error {
	info, err := x.ask(ctx, x.stream)
	if err != nil {
		return err
	}
	x.info = info
	first, last := info.State.FirstSeq, min(info.State.LastSeq, x.Point.State.LastSeq)
	if info.State.Messages == 0 || first > last {
		return nil
	}
	return x.ReadBack(ctx, x.Conn, x.stream, first, last, func(r *record.Record) error {
		if r.Sequence > last {
			return nil
		}
		return fn(r)
	})
}

// compare goes through the restore point and the stream at the same time.
func (x *execution) compare(ctx context.Context) error {
	reader, err := x.Repo.Open(ctx, x.Point)
	if err != nil {
		return fmt.Errorf("open restore point: %w", err)
	}
	defer reader.Close()
	m := &merge{
		reader: reader, meter: x.meter(StageCompare, x.Point.Content.Messages),
		missing: map[string]*seqset.Set{}, differing: new(seqset.Set), extra: new(seqset.Set),
		explain: &explainer{cfg: x.cfg},
	}
	if !x.info.Time.IsZero() {
		m.explain.ahead = max(time.Until(x.info.Time), 0)
	}
	if err := m.advance(); err != nil {
		return err
	}
	if err := x.readBack(ctx, m.found); err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if err := m.rest(); err != nil {
		return err
	}
	// What removed a message was at work before now, so it is asked for now.
	if err := x.observe(ctx, m.explain); err != nil {
		return err
	}
	m.explainRest()
	return x.judge(m)
}

// observe learns what may have removed messages.
func (x *execution) observe(ctx context.Context, e *explainer) error {
	info, err := x.ask(ctx, x.stream)
	if err != nil {
		return fmt.Errorf("ask for stream: %w", err)
	}
	x.info = info
	e.first, e.grown = info.State.FirstSeq, info.State.LastSeq-min(info.State.LastSeq, x.Point.State.LastSeq)
	if x.cfg.Retention == "workqueue" || x.cfg.Retention == "interest" {
		list, err := x.Conn.API.Consumers(ctx, x.stream)
		if err != nil {
			return fmt.Errorf("list consumers: %w", err)
		}
		for _, c := range list {
			e.delivered = max(e.delivered, c.Delivered.Stream)
		}
		e.idle = len(list) == 0
	}
	return nil
}

func (x *execution) judge(m *merge) error {
	var lost *seqset.Set
	for _, why := range []string{unexplained, expired, ttlOver, consumed, rolled, fired} {
		set := m.set(why)
		if why == unexplained {
			lost = set
		}
		if why == unexplained || set.Empty() {
			continue
		}
		x.result.Expired += set.Len()
		x.warn(CodeRemoved, set.Len(), "%d of %d messages are not there any more: %s (%s)",
			set.Len(), x.Point.Content.Messages, why, describe(set))
	}
	if lost.Empty() && m.differing.Empty() && m.extra.Empty() {
		return nil
	}
	return &MismatchError{Stream: x.stream, Missing: lost, Differing: m.differing, Extra: m.extra}
}

// A merge compares the restore point's records with those read back.
type merge struct {
	reader    Records
	meter     *meter
	head      *record.Record
	missing   map[string]*seqset.Set // by what explains it
	differing *seqset.Set
	extra     *seqset.Set
	explain   *explainer
}

func (m *merge) advance() error {
	r, err := next(m.reader)
	if err != nil {
		return fmt.Errorf("read restore point: %w", err)
	}
	m.head = r
	return nil
}

func (m *merge) found(r *record.Record) error {
	for m.head != nil && m.head.Sequence < r.Sequence {
		m.lack()
		if err := m.advance(); err != nil {
			return err
		}
	}
	m.meter.add(r)
	if m.head == nil || m.head.Sequence > r.Sequence {
		m.extra.Add(r.Sequence)
		return nil
	}
	if !same(m.head, r) {
		m.differing.Add(r.Sequence)
	}
	return m.advance()
}

// lack notes that the stream does not have the head.
func (m *merge) lack() {
	m.set(m.explain.byAge(m.head)).Add(m.head.Sequence)
}

func (m *merge) set(why string) *seqset.Set {
	if m.missing[why] == nil {
		m.missing[why] = new(seqset.Set)
	}
	return m.missing[why]
}

// rest notes that the stream has nothing of what is left.
func (m *merge) rest() error {
	for m.head != nil {
		m.lack()
		if err := m.advance(); err != nil {
			return err
		}
	}
	return nil
}

// explainRest finds out what removed those whose own age does not tell.
func (m *merge) explainRest() {
	for r := range m.set(unexplained).Clone().Ranges() {
		for _, why := range []string{consumed, rolled} {
			first, last := m.explain.reach(why)
			lo, hi := max(r.First, first), min(r.Last, last)
			if lo > hi {
				continue
			}
			m.set(why).AddRange(lo, hi)
		}
	}
	m.set(rolled).Subtract(m.set(consumed))
	if m.explain.cfg.MaxBytes <= 0 && m.set(rolled).Len() > m.explain.grown {
		// A message that comes pushes out one at most, unless bytes are counted.
		m.missing[rolled] = new(seqset.Set)
	}
	m.set(unexplained).Subtract(m.set(consumed))
	m.set(unexplained).Subtract(m.set(rolled))
}

// What may have removed a message.
const (
	unexplained = ""
	expired     = "expired by max_age"
	ttlOver     = "expired by their own TTL"
	consumed    = "consumed"
	rolled      = "removed by the stream's limits as new messages came"
	fired       = "schedules that were due"
)

type explainer struct {
	cfg       streamConfig
	ahead     time.Duration // of the server's clock before ours
	first     uint64        // sequence that the stream begins with now
	grown     uint64        // how many new messages came
	delivered uint64        // highest sequence delivered to a consumer
	idle      bool          // no consumer at all
}

// byAge says why a message may be gone by what it says itself.
func (e *explainer) byAge(r *record.Record) string {
	age := time.Since(time.Unix(0, r.Time)) + e.ahead
	c := e.cfg
	if c.MaxAge > 0 && age >= c.MaxAge {
		return expired
	}
	if c.AllowMsgTTL {
		if ttl := messageTTL(r.Header); ttl > 0 && age >= ttl {
			return ttlOver
		}
	}
	if c.Schedules && headerValue(r.Header, "Nats-Schedule:") != "" {
		return fired
	}
	return unexplained
}

// reach returns the sequences that something may have removed.
func (e *explainer) reach(why string) (first, last uint64) {
	c := e.cfg
	switch {
	case why == consumed && c.Retention == "interest" && e.idle:
		return 1, math.MaxUint64
	case why == consumed && (c.Retention == "interest" || c.Retention == "workqueue"):
		return 1, e.delivered
	case why == rolled && e.grown > 0 && c.MaxMsgsPer > 0:
		return 1, math.MaxUint64
	case why == rolled && e.grown > 0 && (c.MaxMsgs > 0 || c.MaxBytes > 0) && e.first > 1:
		return 1, e.first - 1
	}
	return 1, 0
}

// messageTTL returns the TTL that a message's header gives it, 0 if none.
func messageTTL(header []byte) time.Duration {
	v := headerValue(header, "Nats-TTL:")
	if v == "" || v == "never" {
		return 0
	}
	if n, err := strconv.ParseInt(v, 10, 64); err == nil {
		return time.Duration(n) * time.Second
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		return 0
	}
	return d
}

// next returns the next record of a reader, nil at its proven end.
func next(r Records) (*record.Record, error) {
	rec, err := r.Next()
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	return rec, err
}

func same(a, b *record.Record) bool {
	return a.Sequence == b.Sequence && a.Time == b.Time && bytes.Equal(a.Subject, b.Subject) &&
		bytes.Equal(a.Header, b.Header) && bytes.Equal(a.Data, b.Data)
}

// ReadMessages is the ReadBack that works on every stream: with a consumer of
// its own where that leaves no trace, message by message elsewhere.
func ReadMessages(ctx context.Context, conn *natsconn.Conn, stream string, first, last uint64, fn func(*record.Record) error) error {
	err := conn.API.ReadStream(ctx, stream, first, last, fn)
	if !errors.Is(err, jsapi.ErrConsumerRefused) {
		return err
	}
	info, err := conn.API.StreamInfo(ctx, stream, jsapi.InfoOptions{DeletedDetails: true})
	if err != nil {
		return err
	}
	seqs := new(seqset.Set)
	seqs.AddRange(first, last)
	seqs.Subtract(info.State.Deleted)
	return conn.API.Messages(ctx, stream, seqs, func(_ uint64, r *record.Record) error {
		if r == nil {
			return nil
		}
		return fn(r)
	})
}
