// Package queue hands tasks to instances over the work queue stream
// JETKEEP_TASKS.
//
// A task that was submitted is handed to one instance, and to another as soon
// as the first has not been heard of for the lease, however often that takes:
// counting the attempts is for those who keep the task's state. A message goes
// away only by Done. The queue holds at most one message of a task, so
// Submit may be called any number of times.
//
// That a task was handed out twice is unlikely and possible, for the server
// cannot know whether an instance it does not hear of still works. Whoever
// claims a task must fence what it writes. Errors of the connection come back
// as they are; a Claim whose Extend fails for as long as the lease is lost.
package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"jetkeep/service/api"
	"jetkeep/service/natsconn"
)

// ErrSubjects means that the stream belongs to another prefix.
var ErrSubjects = errors.New("stream is for other subjects")

const (
	// DefaultLease is how long an instance may be silent before its task goes
	// to another. Shorter makes failover quicker and stalls more often mistaken
	// for deaths.
	DefaultLease = 20 * time.Second
	// fetchWait is how long the server keeps a request for a task. It hands tasks
	// to the requests of an instance that stands still, too, and each is then
	// lost for a lease: so it must not keep them for long.
	fetchWait = 5 * time.Second
	// duplicates is how long the server remembers message ids. The bound of one
	// message a task does the same for as long as the message is there.
	duplicates = 2 * time.Minute

	// errMaxPerSubject is the server's error for a message too many of one
	// subject; it has the general code of a failed write.
	errMaxPerSubject = "maximum messages per subject exceeded"
)

// Options of the stream and its consumers, used when they are made.
type Options struct {
	Replicas int   // 0 for as many as natsconn.Stream finds possible
	MaxBytes int64 // of the stream, 0 for what is possible
	Lease    time.Duration
}

// A Queue is the work queue.
type Queue struct {
	js       jetstream.JetStream
	stream   jetstream.Stream
	subjects api.Subjects
	options  Options
}

// Open binds the stream and makes it if it is not there. One that is there is
// taken as it is, if only it takes our subjects.
func Open(ctx context.Context, js jetstream.JetStream, subjects api.Subjects, o Options) (*Queue, error) {
	if o.Lease <= 0 {
		o.Lease = DefaultLease
	}
	stream, err := natsconn.Stream(ctx, js, jetstream.StreamConfig{
		Name: api.StreamTasks, Description: "jetkeep: tasks to be done", Subjects: []string{subjects.Tasks()},
		Retention: jetstream.WorkQueuePolicy, Storage: jetstream.FileStorage, Replicas: o.Replicas,
		Discard: jetstream.DiscardNew, DiscardNewPerSubject: true, MaxMsgsPerSubject: 1, Duplicates: duplicates,
		MaxBytes: o.MaxBytes,
	})
	if err != nil {
		return nil, err
	}
	if has := stream.CachedInfo().Config.Subjects; !slices.Contains(has, subjects.Tasks()) {
		return nil, fmt.Errorf("open stream %s: it takes %s and not %s; is the prefix right? %w",
			api.StreamTasks, strings.Join(has, ", "), subjects.Tasks(), ErrSubjects)
	}
	return &Queue{js: js, stream: stream, subjects: subjects, options: o}, nil
}

// Lease returns how long an instance may be silent.
func (q *Queue) Lease() time.Duration { return q.options.Lease }

// Submit puts a task into the queue unless it is there. The attempt tells a
// task that is submitted anew from a request that was sent twice.
func (q *Queue) Submit(ctx context.Context, kind api.Kind, task string, attempt int) error {
	id := task
	if attempt > 0 {
		id = fmt.Sprintf("%s/%d", task, attempt)
	}
	err := natsconn.Publish(ctx, q.js, q.subjects.Task(kind, task), nil,
		jetstream.WithMsgID(id), jetstream.WithExpectStream(api.StreamTasks))
	if isQueued(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("submit task %s: %w", task, err)
	}
	return nil
}

// isQueued tells whether the server refused a message because there is one of
// that task.
func isQueued(err error) bool {
	var e *jetstream.APIError
	return errors.As(err, &e) && strings.Contains(e.Description, errMaxPerSubject)
}

// Queued returns which tasks of a session the queue holds, those handed out
// included.
func (q *Queue) Queued(ctx context.Context, session string) (map[string]bool, error) {
	info, err := q.stream.Info(ctx, jetstream.WithSubjectFilter(q.subjects.SessionTasks(session)))
	if err != nil {
		return nil, fmt.Errorf("list queued tasks of session %s: %w", session, err)
	}
	out := make(map[string]bool, len(info.State.Subjects))
	for s := range info.State.Subjects {
		if i := strings.Index(s, session); i >= 0 {
			out[s[i:]] = true
		}
	}
	return out, nil
}

// Depth returns how many tasks the queue holds, those handed out included.
func (q *Queue) Depth(ctx context.Context) (uint64, error) {
	info, err := q.stream.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("count queued tasks: %w", err)
	}
	return info.State.Msgs, nil
}

// Consumer binds the consumer of one kind of tasks, which all instances share,
// and makes it or gives it the lease if needed.
func (q *Queue) Consumer(ctx context.Context, kind api.Kind) (*Consumer, error) {
	c, err := q.js.CreateOrUpdateConsumer(ctx, api.StreamTasks, jetstream.ConsumerConfig{
		Durable: string(kind), FilterSubject: q.subjects.TasksOf(kind), AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: q.options.Lease, MaxDeliver: -1, MaxAckPending: 4096, DeliverPolicy: jetstream.DeliverAllPolicy,
	})
	if err != nil {
		return nil, fmt.Errorf("make consumer of %s tasks: %w", kind, err)
	}
	return &Consumer{c: c}, nil
}

// A Consumer hands out tasks of one kind.
type Consumer struct{ c jetstream.Consumer }

// Next waits for a task. It fails with ErrNone if there was none for a while.
func (c *Consumer) Next(ctx context.Context) (*Claim, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("claim a task: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, fetchWait)
	defer cancel()
	batch, err := c.c.Fetch(1, jetstream.FetchContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("claim a task: %w", err)
	}
	for msg := range batch.Messages() {
		return newClaim(msg)
	}
	if err := batch.Error(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("claim a task: %w", err)
	}
	return nil, ErrNone
}

// ErrNone means that no task came.
var ErrNone = errors.New("no task")

// A Claim is one task handed to us.
type Claim struct {
	Task       string
	Message    uint64 // its number in the stream
	Deliveries uint64 // of the message, up to this one
	msg        jetstream.Msg
	heard      atomic.Pointer[time.Time] // when the server last heard of us, as far as we know
}

// Age returns for how long the server has not heard of us.
func (c *Claim) Age() time.Duration { return time.Since(*c.heard.Load()) }

func (c *Claim) hear() {
	now := time.Now()
	c.heard.Store(&now)
}

func newClaim(msg jetstream.Msg) (*Claim, error) {
	// <prefix>.task.<kind>.<session>.<number>
	tokens := strings.Split(msg.Subject(), ".")
	n := len(tokens)
	if n < 4 {
		return nil, fmt.Errorf("claim a task: subject %s is of none", msg.Subject())
	}
	c := &Claim{Task: tokens[n-2] + "." + tokens[n-1], msg: msg}
	c.hear()
	if md, err := msg.Metadata(); err == nil {
		c.Message, c.Deliveries = md.Sequence.Stream, md.NumDelivered
	}
	return c, nil
}

// Extend tells the server that we are alive. It does not wait for an answer.
func (c *Claim) Extend() error {
	if err := c.msg.InProgress(); err != nil {
		return fmt.Errorf("extend claim on task %s: %w", c.Task, err)
	}
	c.hear()
	return nil
}

// Done takes the task out of the queue, and knows that it is out when it
// returns without an error.
func (c *Claim) Done(ctx context.Context) error {
	if err := c.msg.DoubleAck(ctx); err != nil {
		return fmt.Errorf("take task %s out of the queue: %w", c.Task, err)
	}
	return nil
}

// Release gives the task back, to be handed out again after the delay.
func (c *Claim) Release(delay time.Duration) error {
	if err := c.msg.NakWithDelay(max(delay, time.Millisecond)); err != nil {
		return fmt.Errorf("release task %s: %w", c.Task, err)
	}
	return nil
}
