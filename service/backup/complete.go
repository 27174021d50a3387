package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"jetkeep/service/jsapi"
	"jetkeep/store/record"
	"jetkeep/store/seqset"
)

// complete asks what the stream holds and reads what was not captured yet,
// again and again until one answer is covered in full. That answer is the
// restore point's definition.
func (c *capture) complete(ctx context.Context) (*jsapi.StreamInfo, error) {
	var vanished *seqset.Set
	for round := 1; ; round++ {
		info, err := c.info(ctx)
		if err != nil {
			return nil, err
		}
		missing := alive(info)
		missing.Subtract(c.captured)
		if missing.Len() == 0 {
			return info, nil
		}
		// What was captured so far must still be there before newer messages
		// hide it from the check at the end.
		if err := c.checkFork(ctx); err != nil {
			return nil, err
		}
		for r := range missing.Clip(0, c.bound).Ranges() {
			c.repaired.AddRange(r.First, r.Last)
		}
		vanished, err = c.read(ctx, info, missing)
		if err != nil {
			return nil, err
		}
		c.repaired.Subtract(vanished)
		if vanished.Len() == 0 {
			return info, nil
		}
		if round == maxRounds {
			return c.giveUp(ctx, info, vanished)
		}
	}
}

// read captures the missing messages and returns those that are not there any
// more. A server that says so of a message said that it is deleted.
func (c *capture) read(ctx context.Context, info *jsapi.StreamInfo, missing *seqset.Set) (*seqset.Set, error) {
	left := missing
	if (missing.Len() > smallSet || large(info)) && retention(info) == "limits" {
		if err := c.readRange(ctx, missing); err != nil {
			return nil, err
		}
		left = missing.Clone()
		left.Subtract(c.captured)
	}
	vanished := new(seqset.Set)
	if left.Len() == 0 {
		return vanished, nil
	}
	err := c.t.Messages(ctx, c.stream, left, func(seq uint64, r *record.Record) error {
		if r == nil {
			vanished.Add(seq)
			return nil
		}
		return c.add(r)
	})
	if err != nil {
		return nil, fmt.Errorf("read messages of stream %s: %w", c.stream, err)
	}
	return vanished, nil
}

// large says whether the messages are so large that an answer to a request for a
// single one, which the client library holds twice and in base64, should be
// avoided.
func large(info *jsapi.StreamInfo) bool {
	return info.State.Messages > 0 && info.State.Bytes/info.State.Messages > largeMessage
}

// readRange reads a large part of the stream in one go. Whatever it leaves out
// is asked for one by one afterwards, so it need not be complete.
func (c *capture) readRange(ctx context.Context, missing *seqset.Set) error {
	err := c.t.ReadStream(ctx, c.stream, missing.First(), missing.Last(), func(r *record.Record) error {
		if !missing.Contains(r.Sequence) {
			return nil
		}
		return c.add(r)
	})
	if errors.Is(err, jsapi.ErrConsumerRefused) {
		c.log.Debug("server refuses a consumer, reading single messages", "reason", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("read stream %s: %w", c.stream, err)
	}
	return nil
}

// giveUp ends a capture that found messages vanished in every round. In a work
// queue or interest stream they were acknowledged, which is what such a stream
// is for; elsewhere the restore point would have a gap.
func (c *capture) giveUp(ctx context.Context, info *jsapi.StreamInfo, vanished *seqset.Set) (*jsapi.StreamInfo, error) {
	if retention(info) == "limits" {
		return nil, &IncompleteError{
			Stream: c.stream, Missing: vanished,
			Reason: fmt.Sprintf("it changes faster than it can be read: in each of %d rounds messages went away before they were read", maxRounds),
		}
	}
	c.note("%d messages were acknowledged while they were captured and are left out", vanished.Len())
	return without(info, vanished), nil
}

// without returns the state as it is with the given messages gone.
func without(info *jsapi.StreamInfo, gone *seqset.Set) *jsapi.StreamInfo {
	out := *info
	rest := alive(info)
	rest.Subtract(gone)
	st := &out.State
	st.Messages = rest.Len()
	if rest.Empty() {
		st.FirstSeq, st.Deleted, st.NumDeleted = st.LastSeq+1, new(seqset.Set), 0
		return &out
	}
	st.FirstSeq = rest.First()
	st.Deleted = new(seqset.Set)
	st.Deleted.AddRange(st.FirstSeq, st.LastSeq)
	st.Deleted.Subtract(rest)
	st.NumDeleted = st.Deleted.Len()
	return &out
}

// A fingerprint identifies the newest record that was captured.
type fingerprint struct {
	seq  uint64
	size int
	buf  []byte   // its encoding, if it is small: most are followed by another one
	sum  [32]byte // else its hash
}

func (f *fingerprint) set(r *record.Record) {
	f.seq, f.size, f.buf = r.Sequence, r.Size(), f.buf[:0]
	if f.size > smallMessage {
		f.sum = record.HashOf(r)
		return
	}
	f.buf = record.Append(f.buf, r)
}

func (f *fingerprint) hash() [32]byte {
	if f.size > smallMessage {
		return f.sum
	}
	return record.Hash(f.buf)
}

// checkFork reads the newest captured message again. A server that lost its
// last writes in a crash gives their sequences to other messages; the stream's
// created time does not tell.
func (c *capture) checkFork(ctx context.Context) error {
	seq := c.newest.seq
	if seq == 0 {
		return nil
	}
	want := c.newest.hash()
	compare := func(r *record.Record) error {
		if r != nil && record.HashOf(r) != want { // nil: deleted since
			return fmt.Errorf("stream %s: message %d is not the one that was captured: %w", c.stream, seq, ErrRecreated)
		}
		return nil
	}
	if c.newest.size > largeMessage {
		err := c.t.ReadStream(ctx, c.stream, seq, seq, compare)
		if !errors.Is(err, jsapi.ErrConsumerRefused) {
			return err
		}
	}
	return c.t.Messages(ctx, c.stream, seqset.Of(seq), func(_ uint64, r *record.Record) error { return compare(r) })
}

func retention(info *jsapi.StreamInfo) string {
	var cfg struct {
		Retention string `json:"retention"`
	}
	if json.Unmarshal(info.Config, &cfg) != nil || cfg.Retention == "" {
		return "limits"
	}
	return cfg.Retention
}

// moment is the time of the answer by the server's clock, or ours if the
// server is older than 2.10 and does not say.
func moment(info *jsapi.StreamInfo) time.Time {
	if info.Time.IsZero() {
		return time.Now().UTC()
	}
	return info.Time.UTC()
}
