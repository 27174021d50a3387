package compare

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

// Messages are asked for one by one, because that works on every kind of
// stream and leaves no trace; several ranges at a time hide the round trips.
const (
	rangeLength = 32
	inFlight    = 64
)

// noMessage is the server's code for "there is none at or after this sequence".
const noMessage = "10037"

type message struct {
	sequence uint64
	fields   map[string]any
}

// messages records every message of a stream in the order of the sequences.
func (t *taker) messages(ctx context.Context, stream string, state map[string]any, w *writer) error {
	first, last := number(state["first_seq"]), number(state["last_seq"])
	want := number(state["messages"])
	if want == 0 {
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	// A queue of ranges being read, in order: the writer takes the oldest.
	queue := make(chan chan []message, inFlight)
	group.Go(func() error {
		defer close(queue)
		for from := first; from <= last; from += rangeLength {
			part := make(chan []message, 1)
			select {
			case queue <- part:
			case <-ctx.Done():
				return ctx.Err()
			}
			group.Go(func() error {
				found, err := t.between(ctx, stream, from, min(from+rangeLength-1, last))
				part <- found
				return err
			})
		}
		return nil
	})
	count := uint64(0)
	group.Go(func() error {
		for part := range queue {
			select {
			case found := <-part:
				for _, m := range found {
					if err := w.add(sequenceKey(m.sequence), m.fields); err != nil {
						return err
					}
				}
				count += uint64(len(found))
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	if err := group.Wait(); err != nil {
		return err
	}
	if count != want {
		return fmt.Errorf("read %d messages, the stream's state says %d", count, want)
	}
	return nil
}

// between reads the messages of a range of sequences, skipping gaps.
func (t *taker) between(ctx context.Context, stream string, from, to uint64) ([]message, error) {
	var found []message
	for sequence := from; sequence <= to; {
		answer, err := t.api(ctx, "STREAM.MSG.GET."+stream, map[string]any{"seq": sequence, "next_by_subj": ">"})
		if fault := new(apiError); errors.As(err, &fault) && fault.code == noMessage {
			return found, nil
		}
		if err != nil {
			return found, err
		}
		m, err := parseMessage(answer)
		if err != nil {
			return found, fmt.Errorf("read message at %d: %w", sequence, err)
		}
		if m.sequence < sequence {
			return found, fmt.Errorf("asked for message %d, got %d", sequence, m.sequence)
		}
		if m.sequence > to {
			return found, nil
		}
		found = append(found, m)
		sequence = m.sequence + 1
	}
	return found, nil
}

func parseMessage(answer map[string]any) (message, error) {
	body, ok := answer["message"].(map[string]any)
	if !ok {
		return message{}, errors.New("the answer holds no message")
	}
	fields := map[string]any{}
	for name, value := range body {
		switch name {
		case "seq":
		case "hdrs", "data":
			text, _ := value.(string)
			raw, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				return message{}, fmt.Errorf("decode %s: %w", name, err)
			}
			fields[name] = content(raw)
		default:
			fields[name] = value
		}
	}
	return message{sequence: number(body["seq"]), fields: fields}, nil
}

// content stands for bytes that are too many to keep.
func content(data []byte) string {
	return fmt.Sprintf("sha256:%x (%d bytes)", sha256.Sum256(data), len(data))
}

// sequenceKey sorts as its number does.
func sequenceKey(sequence uint64) string { return fmt.Sprintf("%020d", sequence) }

func timeText(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
