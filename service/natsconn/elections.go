package natsconn

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"jetkeep/service/jsapi"
)

const (
	// electionWait is how long a message that no leader of its stream took is
	// sent again: a new stream has none for a moment, and one whose leader steps
	// down. It is less than the 5 s that `nats req` waits for an answer.
	electionWait = 4 * time.Second
	// electionPause is between two tries.
	electionPause = 250 * time.Millisecond
)

// Publish publishes into a stream and waits for an election of its leader.
func Publish(ctx context.Context, js jetstream.JetStream, subject string, data []byte, o ...jetstream.PublishOpt) error {
	o = append(o, jetstream.WithRetryWait(electionPause), jetstream.WithRetryAttempts(int(electionWait/electionPause)))
	_, err := js.Publish(ctx, subject, data, o...)
	return err
}

// A bucket is a bucket whose writes wait for an election as Publish does, and in
// which nothing is missing because a replica lags behind. To write again is safe,
// for nobody took what was written before.
type bucket struct {
	jetstream.KeyValue

	leader *jsapi.Client
}

func patiently(ctx context.Context, write func() error) error {
	for begun := time.Now(); ; {
		err := write()
		if !errors.Is(err, jetstream.ErrNoStreamResponse) || time.Since(begun) > electionWait {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(electionPause):
		}
	}
}

func (b bucket) Create(ctx context.Context, key string, value []byte, o ...jetstream.KVCreateOpt) (revision uint64, err error) {
	err = patiently(ctx, func() (err error) {
		revision, err = b.KeyValue.Create(ctx, key, value, o...)
		return err
	})
	return revision, err
}

func (b bucket) Put(ctx context.Context, key string, value []byte) (revision uint64, err error) {
	err = patiently(ctx, func() (err error) {
		revision, err = b.KeyValue.Put(ctx, key, value)
		return err
	})
	return revision, err
}

func (b bucket) PutString(ctx context.Context, key, value string) (uint64, error) {
	return b.Put(ctx, key, []byte(value))
}

func (b bucket) Update(ctx context.Context, key string, value []byte, last uint64) (revision uint64, err error) {
	err = patiently(ctx, func() (err error) {
		revision, err = b.KeyValue.Update(ctx, key, value, last)
		return err
	})
	return revision, err
}

func (b bucket) Delete(ctx context.Context, key string, o ...jetstream.KVDeleteOpt) error {
	return patiently(ctx, func() error { return b.KeyValue.Delete(ctx, key, o...) })
}

func (b bucket) Purge(ctx context.Context, key string, o ...jetstream.KVDeleteOpt) error {
	return patiently(ctx, func() error { return b.KeyValue.Purge(ctx, key, o...) })
}
