package state

import (
	"context"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"jetkeep/service/api"
	"jetkeep/service/natsconn"
)

const (
	// uploadsKept is how long a pack is remembered that no restore point may
	// ever need.
	uploadsKept = 72 * time.Hour
	// uploadsTimeout bounds one request. A journal that is slow must not be
	// slower than what it spares.
	uploadsTimeout = 2 * time.Second
)

// Uploads is the journal of packs uploaded into encrypted repositories, in the
// bucket JETKEEP_UPLOADS: whichever instance makes the next attempt uses what
// arrived. The bucket is made when it is needed first. It implements
// store.Journal.
type Uploads struct {
	js   jetstream.JetStream
	opt  Options
	log  *slog.Logger
	once chan struct{} // holds one token: who has it may set kv
	kv   jetstream.KeyValue
}

// NewUploads returns the journal.
func NewUploads(js jetstream.JetStream, o Options, log *slog.Logger) *Uploads {
	u := &Uploads{js: js, opt: o, log: log, once: make(chan struct{}, 1)}
	u.once <- struct{}{}
	return u
}

func (u *Uploads) bucket(ctx context.Context) (jetstream.KeyValue, error) {
	select {
	case <-u.once:
		defer func() { u.once <- struct{}{} }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if u.kv != nil {
		return u.kv, nil
	}
	kv, err := natsconn.Bucket(ctx, u.js, jetstream.KeyValueConfig{
		Bucket: api.BucketUploads, Description: "jetkeep: packs that were uploaded into encrypted repositories",
		History: 1, TTL: uploadsKept, MaxValueSize: 4 << 10, Storage: jetstream.FileStorage, Replicas: u.opt.Replicas, MaxBytes: u.opt.MaxBytes,
	})
	if err != nil {
		return nil, err
	}
	u.kv = kv
	return kv, nil
}

// Uploaded returns what was noted under a key, nil for nothing.
func (u *Uploads) Uploaded(ctx context.Context, key string) []byte {
	ctx, cancel := context.WithTimeout(ctx, uploadsTimeout)
	defer cancel()
	kv, err := u.bucket(ctx)
	if err != nil {
		return nil // noting says why
	}
	e, err := kv.Get(ctx, key)
	if err != nil {
		return nil // there is none, or it is uploaded again
	}
	return e.Value()
}

// NoteUpload notes a pack that is about to be uploaded.
func (u *Uploads) NoteUpload(ctx context.Context, key string, value []byte) {
	ctx, cancel := context.WithTimeout(ctx, uploadsTimeout)
	defer cancel()
	kv, err := u.bucket(ctx)
	if err == nil {
		_, err = kv.Put(ctx, key, value)
	}
	if err != nil {
		u.log.Warn("a pack could not be noted, another attempt would upload it again", "error", err)
	}
}
