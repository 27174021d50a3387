package compare

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// requestTimeout bounds the wait for one answer of the server, which nobody asks
// for again: a server on a busy machine may be slow.
const requestTimeout = 2 * time.Minute

// taker records one account.
type taker struct {
	nc      *nats.Conn
	js      jetstream.JetStream
	account *Account
}

// Take records the streams of the connection's account that include picks into
// a directory, which it makes.
func Take(ctx context.Context, nc *nats.Conn, dir string, include func(stream string) bool) (*Account, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory for the recording: %w", err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	t := &taker{nc: nc, js: js, account: &Account{dir: dir}}
	names, err := t.names(ctx)
	if err != nil {
		return nil, fmt.Errorf("list streams: %w", err)
	}
	for _, name := range slices.Sorted(slices.Values(names)) {
		if !include(name) {
			continue
		}
		if err := t.stream(ctx, name); err != nil {
			return nil, fmt.Errorf("record stream %s: %w", name, err)
		}
	}
	return t.account, nil
}

// api asks the JetStream API and decodes the answer, numbers as they are written.
func (t *taker) api(ctx context.Context, subject string, request any) (map[string]any, error) {
	body, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	reply, err := t.nc.RequestWithContext(ctx, "$JS.API."+subject, body)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", subject, err)
	}
	answer, err := decode(reply.Data)
	if err != nil {
		return nil, fmt.Errorf("read answer of %s: %w", subject, err)
	}
	if fault, ok := answer["error"].(map[string]any); ok {
		return nil, fmt.Errorf("ask %s: %w", subject, &apiError{
			code: fmt.Sprint(fault["err_code"]), description: fmt.Sprint(fault["description"]),
		})
	}
	return answer, nil
}

type apiError struct{ code, description string }

func (e *apiError) Error() string { return fmt.Sprintf("%s (%s)", e.description, e.code) }

func decode(data []byte) (map[string]any, error) {
	d := json.NewDecoder(strings.NewReader(string(data)))
	d.UseNumber()
	var value map[string]any
	err := d.Decode(&value)
	return value, err
}

// page calls next with rising offsets until it has seen the total.
func (t *taker) page(ctx context.Context, subject, list string, each func(any)) error {
	for offset := 0; ; {
		answer, err := t.api(ctx, subject, map[string]any{"offset": offset})
		if err != nil {
			return err
		}
		items, _ := answer[list].([]any)
		for _, item := range items {
			each(item)
		}
		offset += len(items)
		if total := number(answer["total"]); len(items) == 0 || uint64(offset) >= total {
			if uint64(offset) < total {
				return fmt.Errorf("%s listed %d of %d", subject, offset, total)
			}
			return nil
		}
	}
}

func (t *taker) names(ctx context.Context) ([]string, error) {
	var names []string
	err := t.page(ctx, "STREAM.NAMES", "streams", func(item any) { names = append(names, fmt.Sprint(item)) })
	return names, err
}

func number(value any) uint64 {
	n, _ := value.(json.Number)
	var u uint64
	_, _ = fmt.Sscan(n.String(), &u)
	return u
}

// drop removes what is volatile from an answer.
func drop(value map[string]any, paths []string) {
	for _, path := range paths {
		head, tail, nested := strings.Cut(path, ".")
		if !nested {
			delete(value, head)
			continue
		}
		switch member := value[head].(type) {
		case map[string]any:
			drop(member, []string{tail})
		case []any:
			for _, m := range member {
				if m, ok := m.(map[string]any); ok {
					drop(m, []string{tail})
				}
			}
		}
	}
}

func (t *taker) stream(ctx context.Context, name string) error {
	info, err := t.api(ctx, "STREAM.INFO."+name, struct{}{})
	if err != nil {
		return err
	}
	drop(info, Volatile()[facetStream])
	config, _ := info["config"].(map[string]any)
	state, _ := info["state"].(map[string]any)
	if config == nil || state == nil {
		return errors.New("the server's answer has no configuration or state")
	}
	t.account.Streams = append(t.account.Streams, Stream{
		Name: name, Storage: fmt.Sprint(config["storage"]),
		Messages: number(state["messages"]), Bytes: number(state["bytes"]),
	})
	if err := t.write(name, facetStream, func(w *writer) error { return w.add(name, info) }); err != nil {
		return err
	}
	// Consumers come first: reading a bucket makes one for a moment.
	if err := t.write(name, facetConsumer, func(w *writer) error { return t.consumers(ctx, name, w) }); err != nil {
		return err
	}
	if err := t.write(name, facetMessage, func(w *writer) error { return t.messages(ctx, name, state, w) }); err != nil {
		return err
	}
	if err := t.write(name, facetRevision, func(w *writer) error { return t.revisions(ctx, name, w) }); err != nil {
		return err
	}
	if err := t.write(name, facetObject, func(w *writer) error { return t.objects(ctx, name, w) }); err != nil {
		return err
	}
	return t.settle(ctx, name, number(state["consumer_count"]))
}

func (t *taker) write(stream, facet string, fill func(*writer) error) error {
	w, err := t.account.create(stream, facet)
	if err != nil {
		return err
	}
	if err := errors.Join(fill(w), w.close()); err != nil {
		return fmt.Errorf("record %ss: %w", facet, err)
	}
	return nil
}

func (t *taker) consumers(ctx context.Context, stream string, w *writer) error {
	found := map[string]map[string]any{}
	err := t.page(ctx, "CONSUMER.LIST."+stream, "consumers", func(item any) {
		if info, ok := item.(map[string]any); ok {
			drop(info, Volatile()[facetConsumer])
			found[fmt.Sprint(info["name"])] = info
		}
	})
	if err != nil {
		return err
	}
	return addSorted(w, found)
}

func addSorted(w *writer, found map[string]map[string]any) error {
	keys := make([]string, 0, len(found))
	for key := range found {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		if err := w.add(key, found[key]); err != nil {
			return err
		}
	}
	return nil
}

// revisions records a KV bucket as its users see it.
func (t *taker) revisions(ctx context.Context, stream string, w *writer) error {
	bucket, ok := strings.CutPrefix(stream, "KV_")
	if !ok {
		return nil
	}
	kv, err := t.js.KeyValue(ctx, bucket)
	if err != nil {
		return fmt.Errorf("open bucket %s: %w", bucket, err)
	}
	watcher, err := kv.WatchAll(ctx, jetstream.IncludeHistory())
	if err != nil {
		return fmt.Errorf("watch bucket %s: %w", bucket, err)
	}
	defer func() { _ = watcher.Stop() }()
	for {
		// The watch ends silently when its consumer is lost, so the wait is bounded.
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(requestTimeout):
			return fmt.Errorf("watch bucket %s: %w", bucket, nats.ErrTimeout)
		case e := <-watcher.Updates():
			if e == nil {
				return nil // all that is stored has been seen
			}
			if err := w.add(sequenceKey(e.Revision()), map[string]any{
				"key": e.Key(), "operation": e.Operation().String(), "delta": e.Delta(),
				"created": timeText(e.Created()), "value": content(e.Value()),
			}); err != nil {
				return err
			}
		}
	}
}

// objects records an object store as its users see it: every object is read,
// which lets nats.go check its digest, and hashed once more.
func (t *taker) objects(ctx context.Context, stream string, w *writer) error {
	bucket, ok := strings.CutPrefix(stream, "OBJ_")
	if !ok {
		return nil
	}
	store, err := t.js.ObjectStore(ctx, bucket)
	if err != nil {
		return fmt.Errorf("open bucket %s: %w", bucket, err)
	}
	infos, err := store.List(ctx, jetstream.ListObjectsShowDeleted())
	if err != nil && !errors.Is(err, jetstream.ErrNoObjectsFound) {
		return fmt.Errorf("list objects of %s: %w", bucket, err)
	}
	found := map[string]map[string]any{}
	for _, info := range infos {
		text, err := json.Marshal(info)
		if err != nil {
			return err
		}
		if found[info.Name], err = decode(text); err != nil {
			return err
		}
		if info.Deleted {
			continue
		}
		hash, err := readObject(ctx, store, info.Name)
		if err != nil {
			return fmt.Errorf("read object %s: %w", info.Name, err)
		}
		found[info.Name]["content"] = hash
	}
	return addSorted(w, found)
}

func readObject(ctx context.Context, store jetstream.ObjectStore, name string) (string, error) {
	object, err := store.Get(ctx, name)
	if err != nil {
		return "", err
	}
	hash := sha256.New()
	n, err := io.Copy(hash, object)
	if err := errors.Join(err, object.Error(), object.Close()); err != nil {
		return "", err
	}
	return fmt.Sprintf("sha256:%x (%d bytes)", hash.Sum(nil), n), nil
}

// settle waits until the consumers by which the buckets were read are gone:
// a backup that follows would keep them.
func (t *taker) settle(ctx context.Context, stream string, consumers uint64) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		info, err := t.api(ctx, "STREAM.INFO."+stream, struct{}{})
		if err != nil {
			return err
		}
		state, _ := info["state"].(map[string]any)
		now := number(state["consumer_count"])
		if now == consumers {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("it has %d consumers, had %d: %w", now, consumers, ctx.Err())
		case <-poll.C:
		}
	}
}
