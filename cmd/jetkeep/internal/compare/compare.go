// Package compare tells whether a JetStream account is what it was before.
//
// Take writes all that a client can see of the account's streams into files:
// configuration, created time and state of each stream, every message's
// sequence, time, subject, header and data, every consumer's configuration and
// state, every revision of a KV bucket and every object, read and hashed.
// Diff compares two such recordings and names each difference. It shares no
// code with the rest of jetkeep, so that a mistake in a codec cannot hide
// itself; everything comes from the server's public API.
//
// Memory is bounded whatever the account holds: both sides are read line by
// line. Take fails rather than leave something out, and it fails when the
// account changes under it in a way that it can see.
//
// Only what Volatile and Allowed list may differ without being reported.
package compare

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
)

// The kinds of things that a recording holds, each in a file of its own.
const (
	facetStream   = "stream"
	facetConsumer = "consumer"
	facetMessage  = "message"
	facetRevision = "revision"
	facetObject   = "object"
)

func facets() []string {
	return []string{facetStream, facetConsumer, facetMessage, facetRevision, facetObject}
}

// An Account is the recording of an account, in a directory.
type Account struct {
	dir     string
	Streams []Stream // sorted by name
}

// A Stream is what a recording says of one stream in short.
type Stream struct {
	Name     string
	Storage  string // "file" or "memory"
	Messages uint64
	Bytes    uint64
}

// entry is one line of a facet's file: a thing with a name and its properties.
// The entries of a file rise by Key.
type entry struct {
	Key    string         `json:"key"`
	Fields map[string]any `json:"fields"`
}

// A Difference is one property of one thing that is not as it was.
type Difference struct {
	Stream string `json:"stream"`
	Kind   string `json:"kind"`  // stream, consumer, message, revision, object
	Item   string `json:"item"`  // its name; empty for the stream itself
	Field  string `json:"field"` // empty if the thing as a whole is missing or new
	Before string `json:"before"`
	After  string `json:"after"`
}

func (d Difference) String() string {
	what := d.Stream
	if d.Item != "" {
		what += ": " + d.Kind + " " + d.Item
	}
	if d.Field != "" {
		what += ": " + d.Field
	}
	return fmt.Sprintf("%s: was %s, is %s", what, d.Before, d.After)
}

// What stands in a Difference for a thing that does not exist.
const (
	absent  = "absent"
	present = "present"
)

// An Allowance is a difference that a restore may make.
type Allowance struct {
	Kind    string
	Field   string
	Storage string // only streams of this storage
	Why     string
}

// Allowed lists every difference that is not reported.
func Allowed() []Allowance {
	const why = "only the V2 format restores into memory, and it carries no created time"
	return []Allowance{
		{Kind: facetStream, Field: "created", Storage: "memory", Why: why},
		{Kind: facetConsumer, Field: "created", Storage: "memory", Why: why},
	}
}

// Volatile lists what is not recorded at all, because it says how the server
// is doing at this moment and not what it stores.
func Volatile() map[string][]string {
	return map[string][]string{
		facetStream: {
			"type", "ts", "total", "offset", "limit", "cluster", "alternates",
			"mirror.lag", "mirror.active", "mirror.error", "sources.lag", "sources.active", "sources.error",
		},
		facetConsumer: {
			"ts", "cluster", "num_waiting", "push_bound", "pause_remaining",
			"delivered.last_active", "ack_floor.last_active",
		},
	}
}

// A Result is the outcome of Diff.
type Result struct {
	Streams     []StreamResult // of either side, sorted by name
	Differences []Difference   // at most perStream of each stream
}

// A StreamResult is the outcome for one stream.
type StreamResult struct {
	Name     string
	Messages uint64 // after
	Bytes    uint64
	Compared int // things compared: messages, consumers, revisions, objects
	Count    int // differences, also those beyond the bound
}

// Equal says whether nothing differs.
func (r Result) Equal() bool {
	return !slices.ContainsFunc(r.Streams, func(s StreamResult) bool { return s.Count > 0 })
}

// perStream bounds the differences that are kept of one stream. All are counted.
const perStream = 50

// Diff compares two recordings.
func Diff(before, after *Account) (Result, error) {
	names := map[string]bool{}
	for _, s := range slices.Concat(before.Streams, after.Streams) {
		names[s.Name] = true
	}
	var result Result
	for _, name := range slices.Sorted(maps.Keys(names)) {
		d := differ{stream: name, storage: before.stream(name).Storage}
		for _, facet := range facets() {
			if err := d.facet(before, after, facet); err != nil {
				return Result{}, fmt.Errorf("compare %ss of %s: %w", facet, name, err)
			}
		}
		now := after.stream(name)
		result.Streams = append(result.Streams, StreamResult{
			Name: name, Messages: now.Messages, Bytes: now.Bytes, Compared: d.compared, Count: d.count,
		})
		result.Differences = append(result.Differences, d.found...)
	}
	return result, nil
}

func (a *Account) stream(name string) Stream {
	for _, s := range a.Streams {
		if s.Name == name {
			return s
		}
	}
	return Stream{}
}

// differ compares the entries of one stream.
type differ struct {
	stream, storage string
	compared, count int
	found           []Difference
}

// facet merges the two files of a facet, which rise by key.
func (d *differ) facet(before, after *Account, facet string) error {
	x, err := before.open(d.stream, facet)
	if err != nil {
		return err
	}
	defer x.close()
	y, err := after.open(d.stream, facet)
	if err != nil {
		return err
	}
	defer y.close()
	a, errA := x.next()
	b, errB := y.next()
	for {
		if err := firstFault(errA, errB); err != nil {
			return err
		}
		switch {
		case errA == io.EOF && errB == io.EOF:
			return nil
		case errB == io.EOF || errA == nil && a.Key < b.Key:
			d.add(Difference{Kind: facet, Item: shown(facet, a.Key), Before: present, After: absent})
			a, errA = x.next()
		case errA == io.EOF || b.Key < a.Key:
			d.add(Difference{Kind: facet, Item: shown(facet, b.Key), Before: absent, After: present})
			b, errB = y.next()
		default:
			d.entries(facet, a, b)
			a, errA = x.next()
			b, errB = y.next()
		}
	}
}

func firstFault(errs ...error) error {
	for _, err := range errs {
		if err != nil && err != io.EOF {
			return err
		}
	}
	return nil
}

// shown makes a key readable: the stream's only entry needs no name, and
// sequences are padded so that they sort.
func shown(facet, key string) string {
	switch facet {
	case facetStream:
		return ""
	case facetMessage, facetRevision:
		return strings.TrimLeft(key, "0")
	default:
		return key
	}
}

func (d *differ) entries(facet string, a, b entry) {
	d.compared++
	if reflect.DeepEqual(a.Fields, b.Fields) {
		return
	}
	x, y := map[string]string{}, map[string]string{}
	flatten(x, "", a.Fields)
	flatten(y, "", b.Fields)
	for field := range y {
		if _, ok := x[field]; !ok {
			x[field] = absent
		}
	}
	for _, field := range slices.Sorted(maps.Keys(x)) {
		is, ok := y[field]
		if !ok {
			is = absent
		}
		if x[field] != is && !d.allowed(facet, field) {
			d.add(Difference{Kind: facet, Item: shown(facet, a.Key), Field: field, Before: x[field], After: is})
		}
	}
}

func (d *differ) allowed(facet, field string) bool {
	return slices.ContainsFunc(Allowed(), func(a Allowance) bool {
		return a.Kind == facet && a.Field == field && a.Storage == d.storage
	})
}

func (d *differ) add(x Difference) {
	d.count++
	if len(d.found) < perStream {
		x.Stream = d.stream
		d.found = append(d.found, x)
	}
}

// flatten names every leaf of a JSON value by its path. Empty objects and
// lists are leaves of their own, so that {} and nothing stay apart.
func flatten(into map[string]string, path string, value any) {
	join := func(key string) string {
		if path == "" {
			return key
		}
		return path + "." + key
	}
	switch v := value.(type) {
	case map[string]any:
		if len(v) == 0 && path != "" {
			into[path] = "{}"
		}
		for key, member := range v {
			flatten(into, join(key), member)
		}
	case []any:
		if len(v) == 0 {
			into[path] = "[]"
		}
		for i, member := range v {
			flatten(into, join(fmt.Sprint(i)), member)
		}
	case string:
		into[path] = fmt.Sprintf("%q", v)
	default:
		into[path] = fmt.Sprint(v)
	}
}

// writer writes the entries of one facet, each of which must follow the last.
type writer struct {
	file *os.File
	buf  *bufio.Writer
	last string
	any  bool
}

func (a *Account) create(stream, facet string) (*writer, error) {
	file, err := os.Create(a.path(stream, facet))
	if err != nil {
		return nil, err
	}
	return &writer{file: file, buf: bufio.NewWriterSize(file, 1<<16)}, nil
}

func (w *writer) add(key string, fields map[string]any) error {
	if w.any && key <= w.last {
		return fmt.Errorf("%s follows %s", key, w.last)
	}
	w.last, w.any = key, true
	line, err := json.Marshal(entry{Key: key, Fields: fields})
	if err != nil {
		return err
	}
	_, err = w.buf.Write(append(line, '\n'))
	return err
}

func (w *writer) close() error {
	return errors.Join(w.buf.Flush(), w.file.Close())
}

// path hex encodes the name: on some systems two streams whose names differ
// only in case would share a file.
func (a *Account) path(stream, facet string) string {
	return filepath.Join(a.dir, fmt.Sprintf("%x.%s", stream, facet))
}

type reader struct {
	file *os.File
	json *json.Decoder
}

// open opens the entries of a facet; a stream that does not exist has none.
func (a *Account) open(stream, facet string) (*reader, error) {
	file, err := os.Open(a.path(stream, facet))
	if errors.Is(err, os.ErrNotExist) && !slices.ContainsFunc(a.Streams, func(s Stream) bool { return s.Name == stream }) {
		return &reader{json: json.NewDecoder(bytes.NewReader(nil))}, nil
	}
	if err != nil {
		return nil, err
	}
	r := &reader{file: file, json: json.NewDecoder(bufio.NewReaderSize(file, 1<<16))}
	r.json.UseNumber()
	return r, nil
}

func (r *reader) next() (entry, error) {
	var e entry
	err := r.json.Decode(&e)
	return e, err
}

func (r *reader) close() {
	if r.file != nil {
		_ = r.file.Close()
	}
}
