package natsconn

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"jetkeep/service/jsapi"
)

// leaderTimeout bounds a question to a leader.
const leaderTimeout = 5 * time.Second

// leaders returns what asks the leaders of streams.
func leaders(js jetstream.JetStream) *jsapi.Client {
	o := js.Options()
	return jsapi.New(js.Conn(), jsapi.Options{Domain: o.Domain, APIPrefix: o.APIPrefix, Timeout: leaderTimeout})
}

// readWait is how long a question that nobody answers is asked again: an election
// takes up to 9 s, and new replicas answer no reads for some. Whoever has a task is
// told by then whether he still has it.
const readWait = 15 * time.Second

// Get reads a key. Any replica answers that, and one that lags behind, or that is
// cut off from the others, knows nothing of what they have. So whether there is
// nothing only the leader says; what is there may still be older than what the
// leader has. While nobody can say either, it is asked again.
func (b bucket) Get(ctx context.Context, key string) (jetstream.KeyValueEntry, error) {
	for begun := time.Now(); ; {
		e, err := b.KeyValue.Get(ctx, key)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			e, err = b.ofLeader(ctx, key)
		}
		if err == nil || errors.Is(err, jetstream.ErrKeyNotFound) || !unanswered(err) || time.Since(begun) > readWait {
			return e, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(electionPause):
		}
	}
}

// unanswered tells whether a question may be answered a moment later.
func unanswered(err error) bool {
	return errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, jsapi.ErrNoReply) || errors.Is(err, jsapi.ErrNotReady) || errors.Is(err, jsapi.ErrConnectionLost) ||
		jsapi.IsConnectionError(err) && !errors.Is(err, nats.ErrConnectionClosed)
}

func (b bucket) ofLeader(ctx context.Context, key string) (jetstream.KeyValueEntry, error) {
	name := b.Bucket()
	found, err := b.leader.LastMessage(ctx, "KV_"+name, "$KV."+name+"."+key)
	if errors.Is(err, jsapi.ErrNoMessage) {
		return nil, jetstream.ErrKeyNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("ask the leader of bucket %s for key %s: %w", name, key, err)
	}
	if len(found.Header) > 0 {
		header, err := nats.DecodeHeadersMsg(found.Header)
		if err != nil {
			return nil, fmt.Errorf("header of key %s in bucket %s: %w", key, name, err)
		}
		if header.Get("KV-Operation") != "" || header.Get(jetstream.MarkerReasonHeader) != "" {
			return nil, jetstream.ErrKeyNotFound // it says that the key was deleted
		}
	}
	return &entry{bucket: name, key: key, value: found.Data, revision: found.Sequence, created: time.Unix(0, found.Time).UTC()}, nil
}

// An entry is a value that a leader handed out.
type entry struct {
	bucket, key string
	value       []byte
	revision    uint64
	created     time.Time
}

func (e *entry) Bucket() string                  { return e.bucket }
func (e *entry) Key() string                     { return e.key }
func (e *entry) Value() []byte                   { return e.value }
func (e *entry) Revision() uint64                { return e.revision }
func (e *entry) Created() time.Time              { return e.created }
func (e *entry) Delta() uint64                   { return 0 }
func (e *entry) Operation() jetstream.KeyValueOp { return jetstream.KeyValuePut }
