package restore

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"jetkeep/store/record"
)

// How far a stream came with each of its sources is not part of its
// configuration. A server finds it out when the stream starts: it looks for the
// last message from that source, whose Nats-Stream-Source header holds the
// sequence in the origin. Three things make it begin at the origin's first
// message instead, and source all messages a second time:
//
//   - Since 2.15 the header also holds a hash of the origin's created time. If
//     the origin now has another one, it counts as a new stream. That is so for
//     every origin that was restored into memory or into a cluster.
//   - Servers before 2.9 do not understand the longer header of newer ones.
//   - No message from that source is left in the stream, but it had some: they
//     were consumed, expired or deleted.
//
// In these cases the restored configuration says where to start, by
// opt_start_seq or opt_start_time of that source, which a server uses only if
// it does not know better. The setting has to stay: the server asks the same
// question again whenever the stream's leader starts, until the first new
// message answers it.
//
// There is no remedy if messages of a source are left and later ones are gone,
// where the server believes the header that it finds: those that were removed
// are sourced again. That is named.

const sourceHeader = "Nats-Stream-Source:"

// A sourced is what the last message of one source says.
type sourced struct {
	seq    uint64 // in the origin; 0 if there is no such message
	ident  string // of the origin's life, empty if the header has none
	fields int    // of the header
	at     uint64 // its sequence in the stream
	after  uint64 // how many messages follow it
}

// A sourceScan finds the last message of each source. It is given all records
// in the order of the stream.
type sourceScan struct {
	keys []string // of each source, as the header names it
	last []sourced
}

func newSourceScan(sources []origin) *sourceScan {
	s := &sourceScan{last: make([]sourced, len(sources))}
	for _, o := range sources {
		s.keys = append(s.keys, o.key())
	}
	return s
}

func (s *sourceScan) add(r *record.Record) {
	for i := range s.last {
		s.last[i].after++
	}
	fields := strings.Split(headerValue(r.Header, sourceHeader), " ")
	if len(fields) < 2 {
		return
	}
	seq, err := strconv.ParseUint(fields[1], 10, 64)
	if err != nil {
		return
	}
	m := sourced{seq: seq, fields: len(fields), at: r.Sequence}
	if len(fields) >= 6 {
		m.ident = fields[5]
	}
	for i, key := range s.keys {
		if matches(fields, key) {
			s.last[i] = m
		}
	}
}

func matches(fields []string, key string) bool {
	if len(fields) >= 4 {
		return fields[0]+" "+fields[2]+" "+fields[3] == key
	}
	name, _, _ := strings.Cut(key, " ")
	return fields[0] == name
}

// key is how a server names the source in headers: the origin's name with a
// hash of where it is, the subjects taken and the subjects they get.
func (o origin) key() string {
	name := o.Name
	var x struct {
		API string `json:"api"`
	}
	if !o.local() && json.Unmarshal(o.External, &x) == nil {
		name += ":" + serverHash(x.API)
	}
	if o.Consumer.Name != "" {
		name += ":C=" + serverHash(o.Consumer.Name)
	}
	if len(o.Transforms) == 0 {
		return name + " " + orAll(o.FilterSubject) + " >"
	}
	var from, to []string
	for _, t := range o.Transforms {
		from, to = append(from, orAll(t.Source)), append(to, orAll(t.Destination))
	}
	return name + " " + strings.Join(from, "\f") + " " + strings.Join(to, "\f")
}

func orAll(subject string) string {
	if subject == "" {
		return ">"
	}
	return subject
}

// serverHash is how a server shortens a name.
func serverHash(s string) string {
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	sum := sha256.Sum256([]byte(s))
	var b [8]byte
	for i := range b {
		b[i] = digits[int(sum[i])%len(digits)]
	}
	return string(b[:])
}

// identity is how a server of 2.15 notes a stream's life in source headers. If
// a later one does it differently, no header matches, and every source is told
// where to start, which is harmless.
func identity(created time.Time) string {
	return serverHash(created.UTC().Format(time.RFC3339Nano))
}

// headerValue returns the first value of a header, given with its colon.
func headerValue(header []byte, name string) string {
	for line := range bytes.SplitSeq(header, []byte("\r\n")) {
		if len(line) >= len(name) && string(line[:len(name)]) == name {
			return strings.TrimLeft(string(line[len(name):]), " ")
		}
	}
	return ""
}

// A pin says where a source has to start.
type pin struct {
	source int
	seq    uint64    // the next sequence of the origin, or
	time   time.Time // the time from which on the origin's messages are new
	why    string
}

// sourceFacts is what the decision about a stream's sources depends on.
type sourceFacts struct {
	version   version
	clustered bool
	// origins are the streams of the target by name.
	origins map[string]Existing
	// removed tells whether the stream has had messages that are not in it.
	removed bool
	last    uint64    // sequence of the stream
	moment  time.Time // of the backup
}

// pins decides for each source whether the server will find by itself where to
// go on, and says where otherwise.
func pins(sources []origin, last []sourced, f sourceFacts) (out []pin, warnings []Finding) {
	for i, o := range sources {
		m := last[i]
		p := pin{source: i, seq: m.seq + 1}
		switch {
		case m.seq == 0 && f.removed:
			p.seq, p.time, p.why = 0, f.moment, "no message from it is left in the stream"
		case m.seq == 0:
		case f.version.before(version{2, 9, 0}) && m.fields > 2:
			p.why = "server " + f.version.String() + " does not understand the messages' note of it"
		case m.ident != "" && !f.version.before(identities):
			p.why = f.recreated(o, m.ident)
		}
		if p.why != "" {
			out = append(out, p)
			warnings = append(warnings, p.finding(o))
		} else if n := f.last - min(m.at+m.after, f.last); m.seq > 0 && n > 0 {
			warnings = append(warnings, Finding{Code: CodeSourceAgain, Messages: n, Text: fmt.Sprintf(
				"%d messages after sequence %d were removed from the stream before the backup; those of source %s are sourced again", n, m.at, o.Name)})
		}
	}
	return out, warnings
}

// recreated says why a server will take the origin for another stream than the
// one that the messages came from, or nothing.
func (f sourceFacts) recreated(o origin, ident string) string {
	if !o.local() {
		return "" // in another account, which this restore does not touch
	}
	x, ok := f.origins[o.Name]
	switch {
	case !ok:
		return "it is not there, and restored later it may count as another stream"
	case f.clustered:
		return "in a cluster a restored origin counts as another stream"
	case identity(x.Created) != ident:
		return "its created time is another, so that it counts as another stream"
	}
	return ""
}

func (p pin) finding(o origin) Finding {
	start := fmt.Sprintf("opt_start_seq %d", p.seq)
	if p.seq == 0 {
		start = "opt_start_time " + p.time.UTC().Format(time.RFC3339Nano)
	}
	return Finding{Code: CodeSourcePinned, Text: fmt.Sprintf(
		"source %s has %s now, or its messages would be sourced again: %s", o.Name, start, p.why)}
}

// applyPins writes the starts into the configuration.
func applyPins(config json.RawMessage, list []pin) (json.RawMessage, error) {
	if len(list) == 0 {
		return config, nil
	}
	object, err := decodeObject(config)
	if err != nil {
		return nil, err
	}
	var sources []map[string]any
	d := json.NewDecoder(bytes.NewReader(object["sources"]))
	d.UseNumber()
	if err := d.Decode(&sources); err != nil {
		return nil, fmt.Errorf("decode sources: %w", err)
	}
	for _, p := range list {
		s := sources[p.source]
		if p.seq > 0 {
			delete(s, "opt_start_time")
			s["opt_start_seq"] = max(p.seq, number(s["opt_start_seq"]))
		} else if number(s["opt_start_seq"]) == 0 {
			s["opt_start_time"] = p.time.UTC().Format(time.RFC3339Nano)
		}
	}
	if object["sources"], err = json.Marshal(sources); err != nil {
		return nil, fmt.Errorf("encode sources: %w", err)
	}
	return json.Marshal(object)
}

func number(v any) uint64 {
	n, _ := v.(json.Number)
	u, _ := strconv.ParseUint(string(n), 10, 64)
	return u
}
