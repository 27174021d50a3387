package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"jetkeep/service/api"
	"jetkeep/service/embedded"
	"jetkeep/service/natsconn"
	"jetkeep/service/restore"
	"jetkeep/service/session"
	"jetkeep/service/worker"
	"jetkeep/store"
)

const (
	// scratchPrefix begins the directories of scratch servers; the name of the
	// instance follows, and a point, which no name has.
	scratchPrefix = "jetkeep-drill-"
	// scratchMargin is what a scratch server needs besides the messages.
	scratchMargin = 64 << 20
	// scratchStop bounds the end of a scratch server.
	scratchStop = 15 * time.Second
)

func (s *Service) backupDrill(ctx context.Context, q *api.BackupDrillRequest) (*api.Accepted, error) {
	name, err := s.repositoryName(ctx, q.Repository)
	if err != nil {
		return nil, err
	}
	ses, tasks, err := s.prepareDrill(ctx, name, q)
	if err != nil {
		return nil, err
	}
	return s.startSession(ctx, ses, tasks)
}

// prepareDrill chooses the restore points, a task for each. What it takes to
// read messages is known now and not when the tasks run.
func (s *Service) prepareDrill(ctx context.Context, repository string, q *api.BackupDrillRequest) (*session.Session, []*session.Task, error) {
	repo, err := s.openReadable(ctx, repository, q.Identity)
	if err != nil {
		return nil, nil, err
	}
	backup := q.Backup
	if backup == "" {
		if backup, err = newestBackup(ctx, repo, repository); err != nil {
			return nil, nil, err
		}
	}
	points, err := pointsOfBackup(ctx, repo, repository, &api.RestoreRequest{Backup: backup, Streams: q.Streams, Exclude: q.Exclude})
	if err != nil {
		return nil, nil, err
	}
	var tasks []*session.Task
	for _, p := range points {
		tasks = append(tasks, &session.Task{Stream: p.Stream, RestorePoint: p.ID, Progress: toDo(p.Content.Messages, p.Content.Bytes)})
	}
	return &session.Session{Kind: api.KindDrill, Repository: repository, Backup: backup, IdentitySealed: q.Identity}, tasks, nil
}

func newestBackup(ctx context.Context, repo *store.Repository, name string) (string, error) {
	listed, err := repo.Points(ctx)
	if err != nil {
		return "", err
	}
	newest := ""
	for _, l := range listed {
		newest = max(newest, backupOf(l))
	}
	if newest == "" {
		return "", api.Errorf(api.CodeBackupNotFound, "repository %s has no backup", name)
	}
	return newest, nil
}

// drillHandler restores a restore point into a server of its own, as a restore
// does, compares what came out, and removes it all.
type drillHandler struct{ s *Service }

// Run implements worker.Handler.
func (h drillHandler) Run(ctx context.Context, t session.Task, run worker.Run) (session.Result, error) {
	// One at a time: what it takes on disk is bounded for one.
	select {
	case h.s.drilling <- struct{}{}:
		defer func() { <-h.s.drilling }()
	case <-ctx.Done():
		return session.Result{}, context.Cause(ctx)
	}
	repo, err := h.s.openReadable(ctx, t.Repository, run.Session.IdentitySealed)
	if err != nil {
		return session.Result{}, err
	}
	p, err := repo.Point(ctx, t.RestorePoint)
	if err != nil {
		return session.Result{}, err
	}
	if need := int64(p.Content.Bytes) + scratchMargin; need > h.s.config.Drill.Limit { // far below an overflow
		return session.Result{}, api.Errorf(api.CodeDiskFull, "stream %s takes %d bytes to restore, drill.limit is %d", t.Stream, need, h.s.config.Drill.Limit).
			WithHint("Raise drill.limit, or leave the stream out of the drill.")
	}
	alone, left, err := restore.Alone(p)
	if err != nil {
		return session.Result{}, err
	}
	conn, stop, err := h.s.startScratch(ctx)
	if err != nil {
		return session.Result{}, err
	}
	defer func() {
		if err := stop(); err != nil {
			run.Log.Error("end scratch server", "error", err)
		}
	}()
	run.Progress.SetTotal(p.Content.Messages, p.Content.Bytes)
	r, err := restore.Execute(ctx, restore.Job{
		Conn: conn, Repo: restore.AloneSource(restore.FromRepository(repo)), Point: alone, Log: run.Log,
		Progress: func(x restore.Progress) {
			if x.Stage == restore.StageUpload {
				run.Progress.Set(x.Messages, x.Bytes)
			}
		},
	})
	if err != nil {
		return session.Result{}, fmt.Errorf("drill: %w", err)
	}
	if !r.Verified || r.Messages != p.Content.Messages {
		return session.Result{}, api.Errorf(api.CodeVerifyFailed, "the drill restored %d of %d messages of stream %s", r.Messages, p.Content.Messages, t.Stream)
	}
	run.Progress.Set(p.Content.Messages, p.Content.Bytes)
	out := session.Result{
		RestorePoint: p.ID, Messages: r.Messages, Bytes: r.Bytes, Digest: r.Digest, Verified: true,
		Drilled: &api.Drilled{Seconds: r.Seconds, Consumers: p.Consumers.Count, Server: conn.ServerVersion()},
	}
	for _, w := range r.Warnings {
		out.Notes = append(out.Notes, w.Text)
	}
	if len(left) > 0 {
		out.Notes = append(out.Notes, "the drill left out "+strings.Join(left, ", ")+" of the configuration: the scratch server knows nobody else")
	}
	return out, nil
}

// startScratch starts a server that only this process can reach, in a directory
// of its own.
func (s *Service) startScratch(ctx context.Context) (*natsconn.Conn, func() error, error) {
	if err := os.MkdirAll(s.config.Drill.Dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("drill.dir: %w", err)
	}
	dir, err := os.MkdirTemp(s.config.Drill.Dir, s.scratchName())
	if err != nil {
		return nil, nil, fmt.Errorf("drill.dir: %w", err)
	}
	server, err := embedded.Start(ctx, embedded.Options{Dir: dir, Name: filepath.Base(dir), Hidden: true, MaxStore: s.config.Drill.Limit})
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	stop := func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), scratchStop)
		defer cancel()
		return errors.Join(server.Shutdown(ctx), os.RemoveAll(dir))
	}
	conn, err := natsconn.Dial(ctx, natsconn.Options{InProcess: server.InProcess(), Name: "jetkeep drill", Log: s.log})
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("connect to scratch server: %w", err), stop())
	}
	return conn, func() error { conn.Close(); return stop() }, nil
}

func (s *Service) scratchName() string { return scratchPrefix + s.config.Instance + "." }

// clearScratch removes what a process of this instance that died left. Instances
// may have the same drill.dir.
func (s *Service) clearScratch() {
	left, err := filepath.Glob(filepath.Join(s.config.Drill.Dir, s.scratchName()+"*"))
	if err != nil {
		return
	}
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			s.log.Warn("remove what a drill left", "directory", dir, "error", err)
		}
	}
}
