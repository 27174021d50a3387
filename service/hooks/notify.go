package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"jetkeep/service/api"
	"jetkeep/service/config"
)

const (
	// nextWait is how long an event is waited for before the consumer is looked
	// at again.
	nextWait = 20 * time.Second
	// ackMargin is how much longer than a call an event is ours.
	ackMargin = 15 * time.Second
	// consumerAge is how long the consumer of a notification that nobody has any
	// more stays: longer than the events.
	consumerAge = 8 * 24 * time.Hour
	// retryWait is how long to wait when events cannot be had.
	retryWait = 2 * time.Second
	// stopWait is how long sending goes on when the service stops.
	stopWait = 3 * time.Second
	// maxTries is how often an event is sent; with the delays below for a day and
	// a half.
	maxTries = 40
)

// delays between tries; the last one counts for all that follow.
var delays = []time.Duration{time.Second, 5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, time.Hour}

// errUnsendable means that trying again does not help.
var errUnsendable = errors.New("the templates make nothing of this event that can be sent")

// A Notifier sends events on. Every instance has one, and they share a durable
// consumer for each notification: an event is sent by one of them, at least
// once, in spite of whatever stops meanwhile. Events from before a notification
// was first configured are not sent.
type Notifier struct {
	JS            jetstream.JetStream
	Subjects      api.Subjects
	Notifications []config.Notification
	Caller        *Caller
	Log           *slog.Logger
	Count         func(name string, err error)
}

// Run sends events until ctx is done.
func (n *Notifier) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for i := range n.Notifications {
		wg.Go(func() { n.run(ctx, &n.Notifications[i]) })
	}
	wg.Wait()
}

// Consumer returns the name of the durable consumer of a notification.
func Consumer(name string) string { return "notify_" + name }

func (n *Notifier) consumer(ctx context.Context, to *config.Notification) (jetstream.Consumer, error) {
	var filters []string
	kinds := to.Kinds
	if len(kinds) == 0 {
		kinds = []string{"*"}
	}
	for _, kind := range kinds {
		for _, e := range to.Events {
			filters = append(filters, n.Subjects.Event(api.Kind(kind), "*", api.EventName(e)))
		}
	}
	// The server refuses one that is there twice.
	filters = slices.Compact(slices.Sorted(slices.Values(filters)))
	c, err := n.JS.CreateOrUpdateConsumer(ctx, api.StreamEvents, jetstream.ConsumerConfig{
		Durable: Consumer(to.Name), Description: "jetkeep: notification " + to.Name, FilterSubjects: filters,
		DeliverPolicy: jetstream.DeliverNewPolicy, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: to.Timeout + ackMargin, MaxDeliver: maxTries, InactiveThreshold: consumerAge,
	})
	if err != nil {
		return nil, fmt.Errorf("consumer of notification %s: %w", to.Name, err)
	}
	return c, nil
}

func (n *Notifier) run(ctx context.Context, to *config.Notification) {
	log := n.Log.With("notification", to.Name)
	for ctx.Err() == nil {
		c, err := n.consumer(ctx, to)
		for err == nil && ctx.Err() == nil {
			var m jetstream.Msg
			if m, err = next(ctx, c); err == nil {
				n.handle(ctx, to, m, log)
			} else if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, jetstream.ErrNoMessages) || errors.Is(err, nats.ErrTimeout) {
				err = nil
			}
		}
		if ctx.Err() != nil {
			return
		}
		log.Warn("events cannot be had", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(retryWait):
		}
	}
}

// next waits a while for an event.
func next(ctx context.Context, c jetstream.Consumer) (jetstream.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, nextWait)
	defer cancel()
	return c.Next(jetstream.FetchContext(ctx)) // the caller tells errors apart
}

// handle sends an event, or sees to it that it comes again.
func (n *Notifier) handle(ctx context.Context, to *config.Notification, m jetstream.Msg, log *slog.Logger) {
	var e api.Event
	if err := json.Unmarshal(m.Data(), &e); err != nil {
		log.Error("event is not understood", "subject", m.Subject(), "error", err)
		_ = m.Term()
		return
	}
	if !matches(to.Targets, e.Target) || !matches(to.Schedules, e.Tags[api.ScheduleTag]) {
		_ = m.Ack() // it comes again otherwise, and is left out again
		return
	}
	log = log.With("event", e.ID)
	tries := uint64(1)
	if meta, err := m.Metadata(); err == nil {
		tries = meta.NumDelivered
	}
	// What is on its way when the service stops would be sent again otherwise.
	sctx, done := lingering(ctx)
	defer done()
	err := n.send(sctx, to, &e)
	if ctx.Err() != nil && err != nil {
		_ = m.Nak() // another instance, or this one when it runs again
		return
	}
	n.Count(to.Name, err)
	switch {
	case err == nil:
		log.Info("notification was sent")
		if err := m.DoubleAck(sctx); err != nil {
			log.Warn("acknowledge event; it may be sent again", "error", err)
		}
	case tries >= maxTries || errors.Is(err, errUnsendable):
		log.Error("notification was not sent, and is not tried again", "tries", tries, "error", err)
		_ = m.Term()
	default:
		delay := delays[min(int(tries), len(delays))-1]
		log.Warn("notification was not sent", "tries", tries, "again_in", delay.String(), "error", err)
		_ = m.NakWithDelay(delay)
	}
}

// lingering returns a context that ends a while after another.
func lingering(ctx context.Context) (context.Context, context.CancelFunc) {
	out, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(stopWait, cancel) })
	return out, func() {
		stop()
		cancel()
	}
}

func (n *Notifier) send(ctx context.Context, to *config.Notification, e *api.Event) error {
	ctx, cancel := context.WithTimeout(ctx, to.Timeout)
	defer cancel()
	body, err := config.Render("body", to.Body, e)
	if err != nil {
		return fmt.Errorf("%w: body: %w", errUnsendable, err)
	}
	if to.Subject == "" {
		_, err = n.Caller.post(ctx, &to.Call, to.ContentType, e.Type, body)
		return err
	}
	subject, err := config.Render("subject", to.Subject, e)
	if err == nil {
		err = config.CheckSubject(string(subject)) // a server takes one that nobody can hear
	}
	if err != nil {
		return fmt.Errorf("%w: subject: %w", errUnsendable, err)
	}
	return n.Caller.publish(ctx, &to.Call, e.Target, string(subject), to.ContentType, e.Type, e.ID, body)
}
