package service_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"jetkeep/service/natstest"
	"jetkeep/store/record"
)

// A stream as the server's API shows it.
type seen struct {
	info      natstest.StreamInfo
	records   []record.Record
	consumers []natstest.ConsumerInfo
}

func look(t testing.TB, nc *nats.Conn, name string) seen {
	t.Helper()
	return seen{natstest.Info(t, nc, name), natstest.Records(t, nc, name), natstest.Consumers(t, nc, name)}
}

// compare says in what a restored stream differs from its original. dropped
// are the descriptions of what the plan said would be lost, version is that of
// the server which has the stream now.
func compare(want, got seen, dropped []string, version string) string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if d := natstest.Diff(want.records, got.records); d != "" {
		say("%s", d)
	}
	w, g := want.info.State, got.info.State
	if w.Messages == 0 && g.Messages == 0 {
		w.FirstSeq, g.FirstSeq = 0, 0 // 31 or 0 in an empty stream that ended at 30, by version and history
	}
	if w.Messages != g.Messages || w.FirstSeq != g.FirstSeq || w.LastSeq != g.LastSeq {
		say("state %d messages %d to %d, want %d messages %d to %d", g.Messages, g.FirstSeq, g.LastSeq, w.Messages, w.FirstSeq, w.LastSeq)
	}
	if !want.info.Created.Equal(got.info.Created) {
		say("created %s, want %s", got.info.Created, want.info.Created)
	}
	if d := compareConfig(want.info.Config, got.info.Config, dropped); d != "" {
		say("configuration: %s", d)
	}
	if len(want.consumers) != len(got.consumers) {
		say("%d consumers, want %d", len(got.consumers), len(want.consumers))
		return strings.Join(out, "\n")
	}
	for i, w := range want.consumers {
		g := got.consumers[i]
		old := version == "2.6.1" || version == "2.8.2"
		if old && w.Delivered.Consumer == 0 && w.Delivered.Stream < want.info.State.FirstSeq {
			// Nothing delivered yet: these show the sequence before the first.
			w.Delivered.Stream, w.AckFloor.Stream = g.Delivered.Stream, g.AckFloor.Stream
		}
		if w.Name != g.Name || w.Delivered != g.Delivered || w.AckFloor != g.AckFloor ||
			w.NumAckPending != g.NumAckPending || w.NumRedelivered != g.NumRedelivered {
			say("consumer %s: %s, want %s: %s", g.Name, state(g), w.Name, state(w))
		}
		// Compared with the messages and not with the original's count, which
		// 2.10 gets wrong after deletes; the oldest get it wrong in any case.
		if n := toCome(g, got.records); g.NumPending != n && !old {
			say("consumer %s: %d messages to come, the stream has %d", g.Name, g.NumPending, n)
		}
		if d := compareConfig(w.Config, g.Config, dropped); d != "" {
			say("consumer %s: configuration: %s", w.Name, d)
		}
	}
	return strings.Join(out, "\n")
}

// toCome counts the messages that a consumer with at most one filter has not
// delivered.
func toCome(c natstest.ConsumerInfo, records []record.Record) (n uint64) {
	var config struct {
		Filter string `json:"filter_subject"`
	}
	if err := json.Unmarshal(c.Config, &config); err != nil {
		return 0
	}
	filter := strings.Split(config.Filter, ".")
	for i := range records {
		if records[i].Sequence > c.Delivered.Stream && (config.Filter == "" || matches(filter, strings.Split(string(records[i].Subject), "."))) {
			n++
		}
	}
	return n
}

func matches(filter, subject []string) bool {
	for i, f := range filter {
		if f == ">" {
			return len(subject) > i
		}
		if i >= len(subject) || f != "*" && f != subject[i] {
			return false
		}
	}
	return len(filter) == len(subject)
}

func state(c natstest.ConsumerInfo) string {
	return fmt.Sprintf("delivered %v, floor %v, %d to be acknowledged, %d redelivered, %d to come",
		c.Delivered, c.AckFloor, c.NumAckPending, c.NumRedelivered, c.NumPending)
}

// compareConfig compares field by field. What only one side has counts if it
// says something else than its absence.
func compareConfig(want, got json.RawMessage, dropped []string) string {
	w, errW := fields(want)
	g, errG := fields(got)
	if errW != nil || errG != nil {
		return fmt.Sprintf("cannot be read: %v, %v", errW, errG)
	}
	var out []string
	if w["name"] == w["durable_name"] && g["name"] == "" {
		delete(w, "name") // a consumer's, which is younger than durable_name
	}
	for name := range w {
		if _, ok := g[name]; !ok {
			g[name] = "null"
		}
	}
	for name, value := range g {
		if w[name] == value || plain(w[name]) && plain(value) {
			continue
		}
		if slices.ContainsFunc(dropped, func(d string) bool { return strings.Contains(d, " "+name+" ") }) {
			continue
		}
		out = append(out, fmt.Sprintf("%s is %s, was %s", name, value, w[name]))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// plain tells whether a value says the same as its absence.
func plain(v string) bool {
	return slices.Contains([]string{"", "null", "false", "0", "-1", `""`, "[]", "{}", `"none"`, `"default"`}, v)
}

// fields returns a configuration's fields in compact JSON, without what servers
// add to the metadata on their own.
func fields(raw json.RawMessage) (map[string]string, error) {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, err
	}
	if meta := map[string]string{}; json.Unmarshal(m["metadata"], &meta) == nil {
		for k := range meta {
			if strings.HasPrefix(k, "_nats.") {
				delete(meta, k)
			}
		}
		b, err := json.Marshal(meta)
		if err != nil {
			return nil, err
		}
		m["metadata"] = b
	}
	out := map[string]string{}
	for k, v := range m {
		var b bytes.Buffer
		if err := json.Compact(&b, v); err != nil {
			return nil, err
		}
		out[k] = b.String()
	}
	return out, nil
}
