package natsconn

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// Stream binds a stream, and makes it if it is not there. One that is there is
// taken as it is, whatever its replicas, storage or limits: an operator may have
// had reasons. Without a number of replicas it gets Replicated of them if the
// servers and the account allow that, else one; one of jetkeep's own without
// MaxBytes gets a bound where the account wants one, and a smaller one where it
// has no room.
func Stream(ctx context.Context, js jetstream.JetStream, c jetstream.StreamConfig) (jetstream.Stream, error) {
	stream, err := js.Stream(ctx, c.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		given := c.MaxBytes
		err = replicated(c.Replicas, func(n int) error {
			return fit(ctx, js, c.Name, given, func(bytes int64) (err error) {
				c.Replicas, c.MaxBytes = n, bytes
				stream, err = js.CreateStream(ctx, c)
				return err
			})
		})
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			stream, err = js.Stream(ctx, c.Name) // another instance was quicker
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open stream %s: %w", c.Name, err)
	}
	return stream, nil
}

// Bucket does for a KV bucket what Stream does for a stream. What is written into
// it waits for an election of its leader, and a key is not there only if its leader
// says so.
func Bucket(ctx context.Context, js jetstream.JetStream, c jetstream.KeyValueConfig) (jetstream.KeyValue, error) {
	kv, err := js.KeyValue(ctx, c.Bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		given := c.MaxBytes
		err = replicated(c.Replicas, func(n int) error {
			return fit(ctx, js, "KV_"+c.Bucket, given, func(bytes int64) (err error) {
				c.Replicas, c.MaxBytes = n, bytes
				kv, err = js.CreateKeyValue(ctx, c)
				return err
			})
		})
		if errors.Is(err, jetstream.ErrBucketExists) {
			kv, err = js.KeyValue(ctx, c.Bucket) // another instance was quicker
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", c.Bucket, err)
	}
	return bucket{kv, leaders(js)}, nil
}

// Replicated is how many replicas a stream or bucket of ours has where that is
// possible: with three it stays there while one server is lost.
const Replicated = 3

// replicated calls create with a number of replicas. If none is given, that is
// Replicated, or one if three are refused for good.
func replicated(given int, create func(replicas int) error) error {
	if given > 0 {
		return create(given)
	}
	err := create(Replicated)
	switch {
	case err == nil:
		return nil
	case refusesReplicas(err):
		return create(1)
	case refusesBytes(err) || serverCode(err) == bytesRequired:
		return err // fewer replicas change nothing
	}
	return fmt.Errorf("with %d replicas, of which the setting replicas may ask for fewer: %w", Replicated, err)
}

// refusesReplicas tells whether an error means that there are no three servers
// for a stream, or that the account has no room for three replicas. A server
// that is away for now makes neither: nobody would add the replicas later.
func refusesReplicas(err error) bool {
	const (
		noPeers        = 10005 // no suitable peers for placement
		maximumStreams = 10027 // of the account, or its tier of three replicas
		notClustered   = 10074
		noTier         = 10120 // of three replicas, of those that the account has
	)
	var e *jetstream.APIError
	if !errors.As(err, &e) {
		return false
	}
	switch e.ErrorCode {
	case noPeers:
		return !strings.Contains(e.Description, "offline") && !strings.Contains(e.Description, "miscellaneous")
	case noResources, maximumStreams, noStorage, notClustered, noTier:
		return true
	}
	return false
}
