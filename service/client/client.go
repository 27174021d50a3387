// Package client speaks to a jetkeep service from a Go program.
//
// Each call is one request and one answer, ended by its context or by Timeout,
// whichever comes first. An error that the service answered is an *api.Error,
// to be matched with errors.Is or api.HasCode; ErrNoService means that nobody
// serves the subject. A call that ended without an answer may have been carried
// out: look at session.list before sending backup.create again.
package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"jetkeep/service/api"
)

// ErrNoService means that no service listens on the subjects.
var ErrNoService = errors.New("no jetkeep service answers")

// DefaultTimeout bounds a request. The service takes at most 30 s for one.
const DefaultTimeout = 35 * time.Second

// Options of a client.
type Options struct {
	Prefix  string        // default api.DefaultPrefix
	Timeout time.Duration // of each request, default DefaultTimeout
	// JSDomain and JSAPIPrefix are those of the account's JetStream, needed for
	// replaying events only.
	JSDomain    string
	JSAPIPrefix string
}

// A Client sends requests over a connection, which stays its owner's.
type Client struct {
	nc       *nats.Conn
	subjects api.Subjects
	options  Options
}

// New makes a client.
func New(nc *nats.Conn, o Options) (*Client, error) {
	subjects, err := api.NewSubjects(o.Prefix)
	if err != nil {
		return nil, err
	}
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	return &Client{nc: nc, subjects: subjects, options: o}, nil
}

// Do sends a request to the endpoint and decodes its answer into response. It
// is what the other methods use.
func (c *Client) Do(ctx context.Context, endpoint string, request, response any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("encode request %s: %w", endpoint, err)
	}
	raw, err := c.Raw(ctx, endpoint, body)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, response); err != nil {
		return fmt.Errorf("decode answer of %s: %w", endpoint, err)
	}
	return nil
}

// Raw sends a body as it is and returns the answer's.
func (c *Client) Raw(ctx context.Context, endpoint string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.options.Timeout)
	defer cancel()
	msg, err := c.nc.RequestWithContext(ctx, c.subjects.Endpoint(endpoint), body)
	if errors.Is(err, nats.ErrNoResponders) {
		return nil, fmt.Errorf("request %s: %w", endpoint, ErrNoService)
	}
	if err != nil {
		return nil, fmt.Errorf("request %s: %w", endpoint, err)
	}
	if err := answeredError(msg); err != nil {
		return nil, fmt.Errorf("request %s: %w", endpoint, err)
	}
	return msg.Data, nil
}

// answeredError returns the error that an answer is, or nil.
func answeredError(msg *nats.Msg) error {
	text := msg.Header.Get(api.HeaderError)
	if text == "" {
		return nil
	}
	var r api.ErrorResponse
	if json.Unmarshal(msg.Data, &r) == nil && r.Error != nil {
		return r.Error
	}
	// Something between us and the service made the answer.
	return api.Errorf(api.CodeInternal, "%s", text)
}

func do[R any](ctx context.Context, c *Client, endpoint string, request any) (*R, error) {
	r := new(R)
	if err := c.Do(ctx, endpoint, request, r); err != nil {
		return nil, err
	}
	return r, nil
}

// BackupCreate starts a backup.
func (c *Client) BackupCreate(ctx context.Context, q api.BackupCreateRequest) (*api.Accepted, error) {
	return do[api.Accepted](ctx, c, api.BackupCreate, q)
}

// BackupList lists backups.
func (c *Client) BackupList(ctx context.Context, q api.BackupListRequest) (*api.BackupListResponse, error) {
	return do[api.BackupListResponse](ctx, c, api.BackupList, q)
}

// BackupInfo describes a backup.
func (c *Client) BackupInfo(ctx context.Context, q api.BackupInfoRequest) (*api.BackupInfoResponse, error) {
	return do[api.BackupInfoResponse](ctx, c, api.BackupInfo, q)
}

// BackupDelete forgets a backup or restore points.
func (c *Client) BackupDelete(ctx context.Context, q api.BackupDeleteRequest) (*api.BackupDeleteResponse, error) {
	return do[api.BackupDeleteResponse](ctx, c, api.BackupDelete, q)
}

// BackupPin pins a backup or restore points.
func (c *Client) BackupPin(ctx context.Context, q api.BackupPinRequest) (*api.BackupPinResponse, error) {
	return do[api.BackupPinResponse](ctx, c, api.BackupPin, q)
}

// BackupUnpin takes pins away.
func (c *Client) BackupUnpin(ctx context.Context, q api.BackupUnpinRequest) (*api.BackupPinResponse, error) {
	return do[api.BackupPinResponse](ctx, c, api.BackupUnpin, q)
}

// BackupVerify starts a verification of a backup or of restore points.
func (c *Client) BackupVerify(ctx context.Context, q api.BackupVerifyRequest) (*api.Accepted, error) {
	return do[api.Accepted](ctx, c, api.BackupVerify, q)
}

// RestorePlan asks what a restore would do.
func (c *Client) RestorePlan(ctx context.Context, q api.RestoreRequest) (*api.RestorePlanResponse, error) {
	return do[api.RestorePlanResponse](ctx, c, api.RestorePlan, q)
}

// RestoreCreate starts a restore.
func (c *Client) RestoreCreate(ctx context.Context, q api.RestoreRequest) (*api.Accepted, error) {
	return do[api.Accepted](ctx, c, api.RestoreCreate, q)
}

// SessionList lists sessions.
func (c *Client) SessionList(ctx context.Context, q api.SessionListRequest) (*api.SessionListResponse, error) {
	return do[api.SessionListResponse](ctx, c, api.SessionList, q)
}

// SessionInfo describes a session with one page of its tasks.
func (c *Client) SessionInfo(ctx context.Context, q api.SessionInfoRequest) (*api.SessionInfoResponse, error) {
	return do[api.SessionInfoResponse](ctx, c, api.SessionInfo, q)
}

// SessionTasks describes a session with all its tasks.
func (c *Client) SessionTasks(ctx context.Context, session string) (*api.SessionInfoResponse, error) {
	r, err := c.SessionInfo(ctx, api.SessionInfoRequest{Session: session})
	for err == nil && r.Next != "" {
		var more *api.SessionInfoResponse
		more, err = c.SessionInfo(ctx, api.SessionInfoRequest{Session: session, Limit: api.MaxLimit, Cursor: r.Next})
		if err == nil {
			r.SessionView, r.TaskList, r.Next = more.SessionView, append(r.TaskList, more.TaskList...), more.Next
		}
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// SessionCancel cancels a session.
func (c *Client) SessionCancel(ctx context.Context, q api.SessionCancelRequest) (*api.SessionCancelResponse, error) {
	return do[api.SessionCancelResponse](ctx, c, api.SessionCancel, q)
}

// RepositoryList lists the repositories.
func (c *Client) RepositoryList(ctx context.Context) (*api.RepositoryListResponse, error) {
	return do[api.RepositoryListResponse](ctx, c, api.RepositoryList, api.RepositoryListRequest{})
}

// RepositoryInfo describes a repository.
func (c *Client) RepositoryInfo(ctx context.Context, q api.RepositoryInfoRequest) (*api.RepositoryInfoResponse, error) {
	return do[api.RepositoryInfoResponse](ctx, c, api.RepositoryInfo, q)
}

// BackupDrill starts a drill.
func (c *Client) BackupDrill(ctx context.Context, q api.BackupDrillRequest) (*api.Accepted, error) {
	return do[api.Accepted](ctx, c, api.BackupDrill, q)
}

// RepositoryVerify starts a verification of a repository.
func (c *Client) RepositoryVerify(ctx context.Context, q api.RepositoryVerifyRequest) (*api.Accepted, error) {
	return do[api.Accepted](ctx, c, api.RepositoryVerify, q)
}

// RepositoryPrune starts a prune, or asks for its plan.
func (c *Client) RepositoryPrune(ctx context.Context, q api.RepositoryPruneRequest) (*api.RepositoryPruneResponse, error) {
	return do[api.RepositoryPruneResponse](ctx, c, api.RepositoryPrune, q)
}

// RepositoryAccept accepts a repository that was replaced, or describes it.
func (c *Client) RepositoryAccept(ctx context.Context, q api.RepositoryAcceptRequest) (*api.RepositoryAcceptResponse, error) {
	return do[api.RepositoryAcceptResponse](ctx, c, api.RepositoryAccept, q)
}

// InstanceList lists the instances of the service.
func (c *Client) InstanceList(ctx context.Context) (*api.InstanceListResponse, error) {
	return do[api.InstanceListResponse](ctx, c, api.InstanceList, api.InstanceListRequest{})
}

// SchedulePut makes a schedule, or changes of the one of that name what is not
// empty in q. ScheduleChange does more.
func (c *Client) SchedulePut(ctx context.Context, q api.Schedule) (*api.SchedulePutResponse, error) {
	return c.ScheduleChange(ctx, api.SchedulePutRequest{Schedule: q})
}

// ScheduleChange makes a schedule, or changes what is given of the one of that
// name. What is empty is not given: Reset names what is to be empty.
func (c *Client) ScheduleChange(ctx context.Context, q api.SchedulePutRequest) (*api.SchedulePutResponse, error) {
	return do[api.SchedulePutResponse](ctx, c, api.SchedulePut, q)
}

// ScheduleList lists schedules.
func (c *Client) ScheduleList(ctx context.Context, q api.ScheduleListRequest) (*api.ScheduleListResponse, error) {
	return do[api.ScheduleListResponse](ctx, c, api.ScheduleList, q)
}

// ScheduleInfo describes a schedule.
func (c *Client) ScheduleInfo(ctx context.Context, q api.ScheduleNameRequest) (*api.ScheduleInfoResponse, error) {
	return do[api.ScheduleInfoResponse](ctx, c, api.ScheduleInfo, q)
}

// ScheduleDelete deletes a schedule.
func (c *Client) ScheduleDelete(ctx context.Context, q api.ScheduleNameRequest) (*api.ScheduleDeleteResponse, error) {
	return do[api.ScheduleDeleteResponse](ctx, c, api.ScheduleDelete, q)
}

// SchedulePause pauses a schedule.
func (c *Client) SchedulePause(ctx context.Context, q api.ScheduleNameRequest) (*api.SchedulePutResponse, error) {
	return do[api.SchedulePutResponse](ctx, c, api.SchedulePause, q)
}

// ScheduleResume resumes a schedule.
func (c *Client) ScheduleResume(ctx context.Context, q api.ScheduleNameRequest) (*api.SchedulePutResponse, error) {
	return do[api.SchedulePutResponse](ctx, c, api.ScheduleResume, q)
}

// ScheduleTrigger runs a schedule now.
func (c *Client) ScheduleTrigger(ctx context.Context, q api.ScheduleNameRequest) (*api.Accepted, error) {
	return do[api.Accepted](ctx, c, api.ScheduleTrigger, q)
}

// TargetList lists the targets.
func (c *Client) TargetList(ctx context.Context) (*api.TargetListResponse, error) {
	return do[api.TargetListResponse](ctx, c, api.TargetList, api.TargetListRequest{})
}

// TargetInfo describes a target.
func (c *Client) TargetInfo(ctx context.Context, q api.TargetInfoRequest) (*api.TargetInfoResponse, error) {
	return do[api.TargetInfoResponse](ctx, c, api.TargetInfo, q)
}

// pollInterval is how often Wait asks, in case that it misses an event.
const pollInterval = 2 * time.Second

// Wait waits until a session has ended and returns it, as session.info does
// for its first page of tasks. onEvent, if not nil, is given every event of the
// session from now on, progress included, one at a time.
func (c *Client) Wait(ctx context.Context, session string, onEvent func(api.Event)) (*api.SessionInfoResponse, error) {
	ended := make(chan struct{}, 1)
	stop, err := c.Subscribe(session, func(e api.Event) {
		if onEvent != nil {
			onEvent(e)
		}
		if e.Event.Final() {
			select {
			case ended <- struct{}{}:
			default:
			}
		}
	})
	if err != nil {
		return nil, err
	}
	defer stop()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	var failures int
	for {
		// Events tell when to look; what counts is the session's state.
		r, err := c.SessionInfo(ctx, api.SessionInfoRequest{Session: session})
		var answered *api.Error
		switch {
		case err == nil && r.State.Final():
			return r, nil
		case err == nil:
			failures = 0
		case ctx.Err() != nil || errors.As(err, &answered) && answered.Code < 500:
			return nil, fmt.Errorf("wait for session %s: %w", session, err)
		default:
			// The service may be restarting.
			if failures++; failures >= maxPollFailures {
				return nil, fmt.Errorf("wait for session %s: %w", session, err)
			}
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for session %s: %w", session, ctx.Err())
		case <-ended:
		case <-tick.C:
		}
	}
}

// maxPollFailures in a row, two seconds apart, make Wait give up.
const maxPollFailures = 30

// Subscribe calls fn with every event of a session that is published from now
// on, of all sessions if session is empty. The returned function ends it and
// waits for a call of fn that is under way; it must not be called from fn.
func (c *Client) Subscribe(session string, fn func(api.Event)) (stop func(), err error) {
	subject := c.subjects.Events()
	if session != "" {
		subject = c.subjects.SessionEvents(session)
	}
	msgs := make(chan *nats.Msg, eventBuffer)
	sub, err := c.nc.ChanSubscribe(subject, msgs)
	if err != nil {
		return nil, fmt.Errorf("subscribe to %s: %w", subject, err)
	}
	// Once the server knows of the subscription, no event is missed.
	if err := c.nc.FlushTimeout(c.options.Timeout); err != nil {
		_ = sub.Unsubscribe() // the first error counts
		return nil, fmt.Errorf("subscribe to %s: %w", subject, err)
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-quit:
				return
			case m := <-msgs:
				if e, ok := decodeEvent(m.Data); ok {
					fn(e)
				}
			}
		}
	}()
	return func() {
		_ = sub.Unsubscribe() // fails only if the connection is gone, and with it the subscription
		close(quit)
		<-done
	}, nil
}

// eventBuffer is how many events may wait; 500 tasks make as many in half a
// second.
const eventBuffer = 4096

// decodeEvent leaves out what is none: others may publish below the prefix.
func decodeEvent(data []byte) (api.Event, bool) {
	var e api.Event
	if json.Unmarshal(data, &e) != nil || e.Type == "" || e.Session == "" {
		return api.Event{}, false
	}
	return e, true
}

// Replay calls fn with the events that the stream JETKEEP_EVENTS holds of a
// session, oldest first, of all sessions if session is empty. It ends with the
// newest one at its beginning, or with an error of fn.
func (c *Client) Replay(ctx context.Context, session string, fn func(api.Event) error) error {
	subject := c.subjects.Events()
	if session != "" {
		subject = c.subjects.SessionEvents(session)
	}
	js, err := c.jetStream()
	if err != nil {
		return fmt.Errorf("replay events: %w", err)
	}
	cons, err := js.OrderedConsumer(ctx, api.StreamEvents, jetstream.OrderedConsumerConfig{FilterSubjects: []string{subject}})
	if err != nil {
		return fmt.Errorf("replay events: %w", err)
	}
	left := cons.CachedInfo().NumPending
	if left == 0 {
		return nil
	}
	msgs, err := cons.Messages()
	if err != nil {
		return fmt.Errorf("replay events: %w", err)
	}
	defer msgs.Stop()
	for left > 0 {
		msg, err := msgs.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("replay events: %w", err)
		}
		md, err := msg.Metadata()
		if err != nil {
			return fmt.Errorf("replay events: %w", err)
		}
		// What expires meanwhile is not waited for.
		left = min(left-1, md.NumPending)
		if e, ok := decodeEvent(msg.Data()); ok {
			if err := fn(e); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Client) jetStream() (jetstream.JetStream, error) {
	switch {
	case c.options.JSAPIPrefix != "":
		return jetstream.NewWithAPIPrefix(c.nc, c.options.JSAPIPrefix)
	case c.options.JSDomain != "":
		return jetstream.NewWithDomain(c.nc, c.options.JSDomain)
	}
	return jetstream.New(c.nc)
}
