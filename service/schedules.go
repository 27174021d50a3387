package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"jetkeep/service/api"
	"jetkeep/service/scheduler"
	"jetkeep/service/session"
)

// shownSlots is how many of the next slots are told.
const shownSlots = 5

func (s *Service) scheduleList(ctx context.Context, q *api.ScheduleListRequest) (*api.ScheduleListResponse, error) {
	all, err := s.schedules.List(ctx)
	if err != nil {
		return nil, err
	}
	part, next := page(all, func(l scheduler.Listed) string { return l.Spec.Name }, ascending, q.Cursor, q.Limit)
	r := &api.ScheduleListResponse{Total: len(all), Schedules: []api.ScheduleView{}, Next: next}
	for _, l := range part {
		v, _ := viewSchedule(l, time.Now())
		r.Schedules = append(r.Schedules, v)
	}
	return r, nil
}

func (s *Service) scheduleInfo(ctx context.Context, q *api.ScheduleNameRequest) (*api.ScheduleInfoResponse, error) {
	spec, revision, err := s.schedules.Look(ctx, q.Name)
	if err == nil && spec == nil {
		err = noSchedule(q.Name, scheduler.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	st, _, err := s.schedules.State(ctx, q.Name)
	if err != nil {
		return nil, err
	}
	r := &api.ScheduleInfoResponse{Recent: append([]api.ScheduleRun{}, st.Recent...)}
	r.ScheduleView, r.Next = viewSchedule(scheduler.Listed{Spec: *spec, Revision: revision, State: st}, time.Now())
	return r, nil
}

// viewSchedule describes a schedule, and says when it is due next.
func viewSchedule(l scheduler.Listed, now time.Time) (api.ScheduleView, []api.ScheduleSlot) {
	v := api.ScheduleView{Schedule: l.Spec, Revision: l.Revision, Running: l.State.Running, LastSuccess: l.State.LastSuccess, LastSkipped: l.State.LastSkipped}
	if len(l.State.Recent) > 0 {
		v.LastRun = &l.State.Recent[0]
	}
	next := []api.ScheduleSlot{}
	if d, err := scheduler.Parse(l.Spec); err == nil {
		next = d.Upcoming(l.State.Settled, now, shownSlots)
	}
	if len(next) > 0 {
		v.NextRun = &next[0]
	}
	return v, next
}

func (s *Service) findSchedule(ctx context.Context, name string) (*api.Schedule, error) {
	spec, err := s.schedules.Spec(ctx, name)
	return spec, noSchedule(name, err)
}

// noSchedule says of which schedule there is none.
func noSchedule(name string, err error) error {
	if errors.Is(err, scheduler.ErrNotFound) {
		return api.Errorf(api.CodeScheduleNotFound, "there is no schedule %s", name)
	}
	return err
}

func (s *Service) scheduleDelete(ctx context.Context, q *api.ScheduleNameRequest) (*api.ScheduleDeleteResponse, error) {
	if _, err := s.findSchedule(ctx, q.Name); err != nil {
		return nil, err
	}
	if err := s.schedules.Delete(ctx, q.Name); err != nil {
		return nil, err
	}
	s.log.Info("schedule deleted", "schedule", q.Name)
	return &api.ScheduleDeleteResponse{Name: q.Name}, nil
}

func (s *Service) schedulePause(ctx context.Context, q *api.ScheduleNameRequest) (*api.SchedulePutResponse, error) {
	return s.setPaused(ctx, q.Name, true)
}

func (s *Service) scheduleResume(ctx context.Context, q *api.ScheduleNameRequest) (*api.SchedulePutResponse, error) {
	return s.setPaused(ctx, q.Name, false)
}

func (s *Service) setPaused(ctx context.Context, name string, paused bool) (*api.SchedulePutResponse, error) {
	now := time.Now()
	changed, err := s.schedules.Pause(ctx, name, paused, now)
	if err != nil {
		return nil, noSchedule(name, err)
	}
	d, err := scheduler.Parse(*changed.New)
	if err != nil {
		return nil, err
	}
	s.log.Info("schedule put", "schedule", name, "cron", d.Cron, "zone", d.Zone, "paused", paused)
	return scheduleAnswer(changed, d, now)
}

func (s *Service) scheduleTrigger(ctx context.Context, q *api.ScheduleNameRequest) (*api.Accepted, error) {
	spec, err := s.findSchedule(ctx, q.Name)
	if err != nil {
		return nil, err
	}
	d, err := scheduler.Parse(*spec)
	if err != nil {
		return nil, err
	}
	return s.scheduler.Trigger(ctx, d)
}

// scheduled starts and describes sessions for the scheduler.
type scheduled struct{ s *Service }

// Start implements scheduler.Sessions.
func (x scheduled) Start(ctx context.Context, id string, d *scheduler.Definition, run api.ScheduleRun) error {
	var err error
	switch run.Stage {
	case scheduler.StageVerify:
		err = x.verify(ctx, id, d, run)
	case scheduler.StageDrill:
		err = x.drill(ctx, id, d, run)
	case scheduler.StagePrune:
		err = x.prune(ctx, id, d)
	default:
		err = x.backup(ctx, id, d)
	}
	if errors.Is(err, session.ErrExists) || errors.Is(err, scheduler.ErrExists) {
		return scheduler.ErrExists
	}
	if err != nil {
		e := mapError(err)
		if e.ErrCode == api.CodeInternal {
			x.s.log.Warn("scheduled session cannot be started", "schedule", d.Name, "session", id, "error", err)
		}
		return e
	}
	return nil
}

func (x scheduled) backup(ctx context.Context, id string, d *scheduler.Definition) error {
	// What exists needs neither the target nor the repository.
	if _, err := x.s.store.Session(ctx, id); err == nil {
		return session.ErrExists
	}
	if _, err := x.s.repositories.OpenToWrite(ctx, d.Repository); err != nil {
		return err
	}
	conn, err := x.s.dial(ctx, d.Target)
	if err != nil {
		return err
	}
	defer conn.Close()
	infos, err := conn.API.Streams(ctx)
	if err != nil {
		return fmt.Errorf("list streams of target %s: %w", d.Target, err)
	}
	var all, opted []string
	for _, info := range infos {
		all = append(all, info.Name())
		if labelOf(info.Config) == d.Name && !api.Reserved(info.Name()) && !matchAny(d.Exclude, info.Name()) {
			opted = append(opted, info.Name())
		}
	}
	streams := opted
	if !d.OptIn || len(d.Streams) > 0 {
		named, err := selectStreams(all, d.Streams, d.Exclude)
		if err != nil && (len(opted) == 0 || !api.HasCode(err, api.CodeNoStreams)) {
			return err
		}
		streams = slices.Compact(slices.Sorted(slices.Values(append(named, opted...))))
	}
	if len(streams) == 0 {
		return api.Errorf(api.CodeNoStreams, "no stream's metadata has %s=%s", api.ScheduleLabel, d.Name)
	}
	_, err = x.s.startSession(ctx, &session.Session{
		ID: id, Kind: api.KindBackup, Target: d.Target, Repository: d.Repository, Tags: tagsOf(d),
	}, x.s.backupTasks(ctx, conn.API, streams))
	return err
}

// tagsOf returns the tags of a schedule's backups.
func tagsOf(d *scheduler.Definition) map[string]string {
	tags := map[string]string{}
	maps.Copy(tags, d.Tags)
	tags[api.ScheduleTag] = d.Name
	return tags
}

// labelOf returns the schedule that a stream's metadata names.
func labelOf(config json.RawMessage) string {
	var c struct {
		Metadata map[string]string `json:"metadata"`
	}
	if json.Unmarshal(config, &c) != nil {
		return ""
	}
	return c.Metadata[api.ScheduleLabel]
}

func (x scheduled) verify(ctx context.Context, id string, d *scheduler.Definition, run api.ScheduleRun) error {
	if d.Verify == api.LevelRecords {
		if _, err := x.s.openReadable(ctx, d.Repository, ""); err != nil {
			return err
		}
	}
	_, err := x.s.startSession(ctx, &session.Session{
		ID: id, Kind: api.KindVerify, Repository: d.Repository, Backup: run.Session, Verify: &session.Verify{Level: d.Verify},
		Tags: map[string]string{api.ScheduleTag: d.Name},
	}, []*session.Task{{}})
	return err
}

func (x scheduled) drill(ctx context.Context, id string, d *scheduler.Definition, run api.ScheduleRun) error {
	if _, err := x.s.store.Session(ctx, id); err == nil {
		return session.ErrExists
	}
	ses, tasks, err := x.s.prepareDrill(ctx, d.Repository, &api.BackupDrillRequest{Backup: run.Session})
	if err != nil {
		return err
	}
	ses.ID, ses.Tags = id, map[string]string{api.ScheduleTag: d.Name}
	_, err = x.s.startSession(ctx, ses, tasks)
	return err
}

func (x scheduled) prune(ctx context.Context, id string, d *scheduler.Definition) error {
	return x.startPrune(ctx, &session.Session{
		ID: id, Kind: api.KindPrune, Repository: d.Repository,
		Prune: &session.Prune{Own: &session.OwnPolicy{Keep: d.Keep, Schedule: d.Name, Target: d.Target}},
		Tags:  map[string]string{api.ScheduleTag: d.Name},
	})
}

// Fail implements scheduler.Sessions.
func (x scheduled) Fail(ctx context.Context, id string, d *scheduler.Definition, run api.ScheduleRun, why error) error {
	ses := &session.Session{ID: id, Repository: d.Repository, Tags: map[string]string{api.ScheduleTag: d.Name}}
	switch run.Stage {
	case scheduler.StageVerify:
		ses.Kind, ses.Backup = api.KindVerify, run.Session
	case scheduler.StageDrill:
		ses.Kind, ses.Backup = api.KindDrill, run.Session
	case scheduler.StagePrune:
		ses.Kind = api.KindPrune
	default:
		ses.Kind, ses.Target, ses.Backup, ses.Tags = api.KindBackup, d.Target, id, tagsOf(d)
	}
	err := x.s.store.CreateFailed(ctx, ses, mapError(why), time.Now().UTC())
	if errors.Is(err, session.ErrExists) {
		return scheduler.ErrExists
	}
	if err == nil {
		x.s.worker.Conductor.Notify(id)
	}
	return err
}

// View implements scheduler.Sessions.
func (x scheduled) View(ctx context.Context, id string) (*scheduler.View, error) {
	ses, err := x.s.store.Session(ctx, id)
	if errors.Is(err, session.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	v := &scheduler.View{State: ses.State, Ended: ses.Ended, Reason: ses.Reason, Unready: !ses.Ready}
	if ses.Error != nil {
		v.Reason = ses.Error.Error()
	}
	if v.Reason == "" && ses.State != api.StateSucceeded {
		v.Reason = "session " + id + " is " + string(ses.State)
	}
	return v, nil
}

// Cancel implements scheduler.Sessions.
func (x scheduled) Cancel(ctx context.Context, id, reason string) error {
	_, err := x.s.sessionCancel(ctx, &api.SessionCancelRequest{Session: id, Reason: reason})
	if api.HasCode(err, api.CodeSessionFinal) || api.HasCode(err, api.CodeSessionNotFound) {
		return nil
	}
	return err
}

// Watch implements scheduler.Sessions.
func (x scheduled) Watch(ctx context.Context, ended func(id string)) error {
	return x.s.store.WatchSessions(ctx, func(ses *session.Session) bool {
		if ses.State.Final() {
			ended(ses.ID)
		}
		return true
	})
}

// Forget implements scheduler.Sessions.
func (x scheduled) Forget(ctx context.Context, ids []string) error {
	for _, id := range ids {
		if err := x.s.store.Delete(ctx, id); err != nil {
			return err
		}
	}
	return nil
}
