package restore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"jetkeep/service/archive"
	"jetkeep/service/jsapi"
)

// checkState compares the restored stream with the restore point as far as the
// server's description goes. Publishers may be at work on the stream already.
func (x *execution) checkState(ctx context.Context) error {
	x.Progress(Progress{Stage: StageCheck})
	want, got := x.Point.State, x.info.State
	if got.LastSeq < want.LastSeq {
		return fmt.Errorf("%w: last sequence is %d instead of %d", ErrState, got.LastSeq, want.LastSeq)
	}
	if n := x.Point.Content.Messages; got.LastSeq == want.LastSeq && got.Messages > n {
		return fmt.Errorf("%w: it has %d messages instead of %d", ErrState, got.Messages, n)
	}
	if got.Messages < x.Point.Content.Messages {
		if err := x.fewer(got); err != nil {
			return err
		}
	}
	if x.plan.Method == MethodV1 && !x.target.Clustered && !x.info.Created.Equal(x.Point.Created) {
		x.warn(CodeCreatedLost, 0, "the stream's created time is %s instead of %s",
			x.info.Created.Format(time.RFC3339Nano), x.Point.Created.Format(time.RFC3339Nano))
	}
	return x.checkConfig()
}

// fewer judges a stream with too few messages: if nothing in its configuration
// removes messages by itself, they are missing. Otherwise the read-back says
// which, and without one the number is told.
func (x *execution) fewer(got jsapi.StreamState) error {
	n := x.Point.Content.Messages - got.Messages
	c := x.cfg
	removing := c.MaxAge > 0 || c.AllowMsgTTL || c.Schedules || c.Retention == "workqueue" || c.Retention == "interest" || got.LastSeq > x.Point.State.LastSeq
	if !removing {
		return fmt.Errorf("%w: it has %d messages instead of %d", ErrState, got.Messages, x.Point.Content.Messages)
	}
	if x.SkipVerify {
		x.warn(CodeRemoved, n, "%d of %d messages are not there, which its limits or consumers may have removed", n, x.Point.Content.Messages)
	}
	return nil
}

// checkConfig tells of settings that the server did not take as they were sent.
func (x *execution) checkConfig() error {
	diff, err := differences(x.plan.config, x.info.Config)
	if err != nil {
		return fmt.Errorf("stream %s: %w", x.stream, err)
	}
	for _, d := range diff {
		x.warn(CodeConfigChanged, 0, "the server has %s", d)
	}
	return nil
}

// differences lists where a stream's configuration is not what was wanted.
func differences(want, got json.RawMessage) ([]string, error) {
	w, err := decodeObject(want)
	if err != nil {
		return nil, err
	}
	g, err := decodeObject(got)
	if err != nil {
		return nil, err
	}
	for _, o := range []map[string]json.RawMessage{w, g} {
		if err := filterMetadata(o, func(key, _ string) bool { return !strings.HasPrefix(key, "_nats.") }); err != nil {
			return nil, err
		}
	}
	var diff []string
	for _, field := range sortedKeys(w) {
		if (!isZero(w[field]) || !isZero(g[field])) && !sameJSON(w[field], g[field]) {
			diff = append(diff, fmt.Sprintf("%s %s instead of %s", field, orNothing(g[field]), w[field]))
		}
	}
	return diff, nil
}

func orNothing(v json.RawMessage) string {
	if len(v) == 0 {
		return "unset"
	}
	return string(v)
}

// sameJSON compares two values regardless of the order of members.
func sameJSON(a, b json.RawMessage) bool {
	ca, errA := canonical(a)
	cb, errB := canonical(b)
	return errA == nil && errB == nil && bytes.Equal(ca, cb)
}

func canonical(v json.RawMessage) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(v))
	d.UseNumber()
	var x any
	if err := d.Decode(&x); err != nil {
		return nil, err
	}
	return json.Marshal(prune(x))
}

// prune drops members that are unset, which servers add to nested objects.
func prune(v any) any {
	switch t := v.(type) {
	case map[string]any:
		for k, m := range t {
			if b, err := json.Marshal(m); err == nil && isZero(b) {
				delete(t, k)
				continue
			}
			t[k] = prune(m)
		}
	case []any:
		for i := range t {
			t[i] = prune(t[i])
		}
	}
	return v
}

// consumersSettle is how long the consumers of a cluster's stream may take to
// be there with their state: they are assigned after the restore has ended.
const consumersSettle = 15 * time.Second

// checkConsumers waits until every consumer is there and as far as it was.
func (x *execution) checkConsumers(ctx context.Context) error {
	deadline := time.Now().Add(consumersSettle)
	for {
		list, err := x.Conn.API.Consumers(ctx, x.stream)
		if missing := new(jsapi.MissingError); errors.As(err, &missing) {
			list = nil // not yet with a leader
		} else if err != nil {
			return fmt.Errorf("list consumers: %w", err)
		}
		diff, ephemeral := compareConsumers(x.plan.consumers, list)
		if diff == "" {
			for _, name := range ephemeral {
				x.warn(CodeConsumerGone, 0, "ephemeral consumer %s is gone, as nobody used it", name)
			}
			return nil
		}
		if !time.Now().Before(deadline) {
			return fmt.Errorf("%w: %s", ErrState, diff)
		}
		if err := sleep(ctx, poll); err != nil {
			return err
		}
	}
}

// compareConsumers names the first consumer that is missing or not as far as it
// was, and the ephemeral ones that are missing. Clients may have moved a
// consumer on already, never back.
func compareConsumers(want []archive.Consumer, got []*jsapi.ConsumerInfo) (diff string, ephemeral []string) {
	byName := map[string]*jsapi.ConsumerInfo{}
	for _, c := range got {
		byName[c.Name] = c
	}
	for _, w := range want {
		g := byName[w.Name]
		switch {
		case g == nil && !durable(w.Config):
			ephemeral = append(ephemeral, w.Name)
		case g == nil:
			return fmt.Sprintf("consumer %s is missing", w.Name), nil
		case g.Delivered.Stream < w.State.Delivered.Stream:
			return fmt.Sprintf("consumer %s was delivered up to %d instead of %d", w.Name, g.Delivered.Stream, w.State.Delivered.Stream), nil
		case g.AckFloor.Stream < w.State.AckFloor.Stream:
			return fmt.Sprintf("consumer %s is acknowledged up to %d instead of %d", w.Name, g.AckFloor.Stream, w.State.AckFloor.Stream), nil
		}
	}
	return "", ephemeral
}

func durable(config json.RawMessage) bool {
	var c struct {
		Durable string `json:"durable_name"`
	}
	return json.Unmarshal(config, &c) == nil && c.Durable != ""
}
