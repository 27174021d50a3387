package service

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"jetkeep/service/api"
	"jetkeep/service/natsconn"
)

const (
	// eventAge is how long events can be replayed.
	eventAge = 7 * 24 * time.Hour
	// eventDuplicates is how long an event that is published again is known.
	eventDuplicates = 10 * time.Minute
)

// events publishes events into JETKEEP_EVENTS.
type events struct {
	nc       *nats.Conn
	js       jetstream.JetStream
	subjects api.Subjects
	log      *slog.Logger
}

// openEvents makes the stream of events if it is not there, and otherwise
// takes it as it is, if only it takes our subjects.
func openEvents(ctx context.Context, nc *nats.Conn, js jetstream.JetStream, subjects api.Subjects, replicas int, maxBytes int64, log *slog.Logger) (*events, error) {
	stream, err := natsconn.Stream(ctx, js, jetstream.StreamConfig{
		Name: api.StreamEvents, Description: "jetkeep: events of sessions", Subjects: []string{subjects.Events()},
		Retention: jetstream.LimitsPolicy, Storage: jetstream.FileStorage, Replicas: replicas,
		MaxAge: eventAge, MaxBytes: maxBytes, Discard: jetstream.DiscardOld, Duplicates: eventDuplicates,
		AllowDirect: true,
	})
	if err != nil {
		return nil, err
	}
	if has := stream.CachedInfo().Config.Subjects; !slices.Contains(has, subjects.Events()) {
		return nil, fmt.Errorf("open stream %s: it takes %s and not %s; is the prefix right?",
			api.StreamEvents, strings.Join(has, ", "), subjects.Events())
	}
	return &events{nc: nc, js: js, subjects: subjects, log: log}, nil
}

// Publish implements worker.Publisher.
func (p *events) Publish(ctx context.Context, e api.Event) error {
	b, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode event %s: %w", e.ID, err)
	}
	err = natsconn.Publish(ctx, p.js, p.subjects.Event(e.Kind, e.Session, e.Event), b, jetstream.WithMsgID(e.ID))
	if err != nil {
		return fmt.Errorf("publish event %s: %w", e.ID, err)
	}
	return nil
}

// PublishProgress implements worker.Publisher. Progress goes out without
// waiting: the next one is half a second away.
func (p *events) PublishProgress(e api.Event) {
	b, err := json.Marshal(e)
	if err == nil {
		err = p.nc.Publish(p.subjects.Event(e.Kind, e.Session, e.Event), b)
	}
	if err != nil {
		p.log.Debug("publish progress", "event", e.ID, "error", err)
	}
}
