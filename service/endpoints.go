package service

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"jetkeep/service/api"
)

const (
	// maxRequests is how many requests are at hand at once; more are refused.
	maxRequests = 64
	// requestTimeout bounds one request.
	requestTimeout = 30 * time.Second
)

// An endpoint answers one kind of request.
type endpoint struct {
	api.Endpoint
	// handle decodes the body itself; its errors go through mapError.
	handle func(ctx context.Context, body []byte) (any, error)
	stats  *stats
}

// stats counts what micro cannot count, because requests are answered after
// its handler has returned.
type stats struct {
	requests, errors, pending atomic.Int64
	nanoseconds               atomic.Int64
}

// statsView is in the micro stats of an endpoint.
type statsView struct {
	Answered int64   `json:"answered"`
	Errors   int64   `json:"errors"`
	Pending  int64   `json:"pending"`
	Average  float64 `json:"average_ms"`
	// Of the whole instance, the same in each endpoint.
	RunningTasks int   `json:"running_tasks"`
	StagingUsed  int64 `json:"staging_used"` // bytes
}

func (s *stats) view() statsView {
	v := statsView{Answered: s.requests.Load(), Errors: s.errors.Load(), Pending: s.pending.Load()}
	if v.Answered > 0 {
		v.Average = float64(s.nanoseconds.Load()) / float64(v.Answered) / 1e6
	}
	return v
}

// on makes a handler of a function over decoded types.
func on[Q any, R any](fn func(context.Context, *Q) (*R, error)) func(context.Context, []byte) (any, error) {
	return func(ctx context.Context, body []byte) (any, error) {
		q := new(Q)
		if err := api.Decode(body, q); err != nil {
			return nil, err
		}
		return fn(ctx, q)
	}
}

func (s *Service) makeEndpoints() []*endpoint {
	handlers := map[string]func(context.Context, []byte) (any, error){
		api.BackupCreate:     on(s.backupCreate),
		api.BackupList:       on(s.backupList),
		api.BackupInfo:       on(s.backupInfo),
		api.BackupDelete:     on(s.backupDelete),
		api.BackupPin:        on(s.backupPin),
		api.BackupUnpin:      on(s.backupUnpin),
		api.BackupVerify:     on(s.backupVerify),
		api.BackupDrill:      on(s.backupDrill),
		api.RestorePlan:      on(s.restorePlan),
		api.RestoreCreate:    on(s.restoreCreate),
		api.SessionList:      on(s.sessionList),
		api.SessionInfo:      on(s.sessionInfo),
		api.SessionCancel:    on(s.sessionCancel),
		api.RepositoryList:   on(s.repositoryList),
		api.RepositoryInfo:   on(s.repositoryInfo),
		api.RepositoryVerify: on(s.repositoryVerify),
		api.RepositoryPrune:  on(s.repositoryPrune),
		api.RepositoryAccept: on(s.repositoryAccept),
		api.InstanceList:     on(s.instanceList),
		api.SchedulePut:      s.schedulePut,
		api.ScheduleList:     on(s.scheduleList),
		api.ScheduleInfo:     on(s.scheduleInfo),
		api.ScheduleDelete:   on(s.scheduleDelete),
		api.SchedulePause:    on(s.schedulePause),
		api.ScheduleResume:   on(s.scheduleResume),
		api.ScheduleTrigger:  on(s.scheduleTrigger),
		api.TargetList:       on(s.targetList),
		api.TargetInfo:       on(s.targetInfo),
	}
	var out []*endpoint
	for _, e := range api.Endpoints() {
		out = append(out, &endpoint{Endpoint: e, handle: handlers[e.Name], stats: new(stats)})
	}
	return out
}

// addMicro registers the micro service. The channel is closed when it stops,
// for whatever reason.
func (s *Service) addMicro(ctx context.Context) (registration, <-chan struct{}, error) {
	stopped := make(chan struct{})
	byName := map[string]*endpoint{}
	for _, e := range s.endpoints {
		byName[microName(e.Name)] = e
	}
	svc, err := micro.AddService(s.conn.NC, micro.Config{
		Name: api.Service, Version: s.version, Description: "Backups and restores of NATS JetStream",
		QueueGroup: api.Service,
		Metadata:   map[string]string{"instance": s.config.Instance, "prefix": s.config.Prefix, "xkey": s.publicXKey()},
		StatsHandler: func(e *micro.Endpoint) any {
			if ep := byName[e.Name]; ep != nil {
				v := ep.stats.view()
				v.RunningTasks = s.worker.Running()
				if s.staging != nil {
					v.StagingUsed = s.staging.Used()
				}
				return v
			}
			return nil
		},
		DoneHandler: func(micro.Service) { close(stopped) },
		ErrorHandler: func(_ micro.Service, err *micro.NATSError) {
			s.log.Error("micro service reports an error", "subject", err.Subject, "error", err.Description)
		},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("register micro service: %w", err)
	}
	for _, e := range s.endpoints {
		err := svc.AddEndpoint(microName(e.Name), micro.HandlerFunc(func(r micro.Request) { s.accept(ctx, e, r) }),
			micro.WithEndpointSubject(s.subjects.Endpoint(e.Name)),
			micro.WithEndpointMetadata(map[string]string{
				"description":     e.Description,
				"request_schema":  api.SchemaID(e.Request),
				"response_schema": api.SchemaID(e.Response),
			}))
		if err != nil {
			_ = svc.Stop() // the first error counts
			return nil, nil, fmt.Errorf("register endpoint %s: %w", e.Name, err)
		}
	}
	return svc, stopped, nil
}

// microName makes a name that micro accepts: without dots.
func microName(name string) string {
	b := []byte(name)
	for i, c := range b {
		if c == '.' {
			b[i] = '-'
		}
	}
	return string(b)
}

// accept runs on the subscription's goroutine and therefore only hands the
// request on.
func (s *Service) accept(ctx context.Context, e *endpoint, r micro.Request) {
	select {
	case s.slots <- struct{}{}:
	default:
		s.reply(e, r.Reply(), nil, api.Errorf(api.CodeBusy, "%d requests are at hand", maxRequests))
		return
	}
	e.stats.pending.Add(1)
	s.requests.Go(func() {
		defer func() { <-s.slots }()
		defer e.stats.pending.Add(-1)
		begin := time.Now()
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		response, err := s.answer(ctx, e, r.Data())
		e.stats.requests.Add(1)
		e.stats.nanoseconds.Add(int64(time.Since(begin)))
		s.reply(e, r.Reply(), response, err)
	})
}

func (s *Service) answer(ctx context.Context, e *endpoint, body []byte) (response any, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("endpoint panics", "endpoint", e.Name, "panic", p, "stack", string(debug.Stack()))
			response, err = nil, fmt.Errorf("endpoint panics: %v", p)
		}
	}()
	return e.handle(ctx, body)
}

// reply sends an answer, or the error in its place.
func (s *Service) reply(e *endpoint, to string, response any, err error) {
	if to == "" {
		return
	}
	msg := nats.NewMsg(to)
	if err == nil {
		msg.Data, err = json.Marshal(response)
		if limit := s.conn.NC.MaxPayload(); err == nil && int64(len(msg.Data)) > limit {
			err = api.Errorf(api.CodeResponseTooLarge, "the answer has %d bytes, the server takes %d", len(msg.Data), limit)
		}
	}
	if err != nil {
		e.stats.errors.Add(1)
		msg = errorMessage(to, s.publicError(e.Name, err))
	}
	if err := s.conn.NC.PublishMsg(msg); err != nil {
		s.log.Warn("answer request", "endpoint", e.Name, "error", err)
	}
}

// publicError maps an error and keeps the details of an unknown one in the
// log.
func (s *Service) publicError(what string, err error) *api.Error {
	e, known := classify(err)
	if !known {
		s.log.Error("request failed", "endpoint", what, "error", err)
	}
	return e
}

// errorMessage makes an answer as ADR-32 has it.
func errorMessage(to string, e *api.Error) *nats.Msg {
	msg := nats.NewMsg(to)
	msg.Header.Set(api.HeaderError, headerText(e.Description))
	msg.Header.Set(api.HeaderErrorCode, strconv.Itoa(e.Code))
	b, err := json.Marshal(api.ErrorResponse{Error: e})
	if err != nil {
		b = []byte(`{"error":{"code":500,"err_code":"internal","description":"error cannot be encoded"}}`)
	}
	msg.Data = b
	return msg
}

// headerText makes one line of a text, for a line break would end the header.
func headerText(s string) string {
	const most = 512
	b := []byte(s)
	for i, c := range b {
		if c < ' ' || c == 0x7f {
			b[i] = ' '
		}
	}
	if len(b) > most {
		b = b[:most]
	}
	if len(b) == 0 {
		return "error"
	}
	return string(b)
}
