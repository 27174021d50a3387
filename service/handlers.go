package service

import (
	"context"
	"slices"

	"jetkeep/service/api"
	"jetkeep/service/backup"
	"jetkeep/service/natsconn"
	"jetkeep/service/progress"
	"jetkeep/service/restore"
	"jetkeep/service/session"
	"jetkeep/service/worker"
	"jetkeep/store"
)

func (s *Service) handlers() map[api.Kind]worker.Handler {
	return map[api.Kind]worker.Handler{
		api.KindBackup:  backupHandler{s},
		api.KindRestore: restoreHandler{s},
		api.KindVerify:  verifyHandler{s},
		api.KindPrune:   pruneHandler{s},
		api.KindDrill:   drillHandler{s},
	}
}

// backupHandler makes a restore point of a stream.
type backupHandler struct{ s *Service }

// Run implements worker.Handler.
func (h backupHandler) Run(ctx context.Context, t session.Task, run worker.Run) (session.Result, error) {
	repo, err := h.s.repositories.OpenToWrite(ctx, t.Repository)
	if err != nil {
		return session.Result{}, err
	}
	bad, err := h.s.state.Damaged(ctx, repo.Marker().ID)
	if err != nil {
		return session.Result{}, err
	}
	job := backup.Job{
		Dial:       func(ctx context.Context) (*natsconn.Conn, error) { return h.s.targets.Dial(ctx, t.Target) },
		Repository: repo, Staging: h.s.staging,
		Point:    store.Point{Task: t.ID, Backup: run.Session.ID, Target: t.Target, Stream: t.Stream, Tags: run.Session.Tags},
		Suspect:  func(p store.Point) string { return suspect(ctx, repo, bad, p) },
		Progress: meter{run.Progress}, Fence: run.Fence, Log: run.Log, Room: h.s.room.enter,
	}
	missing, err := h.s.rolledBack(ctx, repo, t.Target, t.Stream)
	if err != nil {
		run.Log.Warn("compare the log with what is remembered", "error", err)
	}
	p, err := job.Run(ctx)
	if err != nil {
		return session.Result{}, err
	}
	out := resultOf(p)
	if missing != "" {
		run.Log.Error("repository was rolled back", "what", missing)
		out.Notes = append([]string{missing}, out.Notes...)
		return out, nil // what is remembered stays, or the next backup would not notice
	}
	h.s.rememberHead(ctx, repo, t.Target, t.Stream, run.Log)
	return out, nil
}

// suspect returns the damaged restore point for which nothing is to be built on
// p: itself, or an earlier one of its lineage, for p may refer to the same
// objects though no verification has looked at it yet.
func suspect(ctx context.Context, repo *store.Repository, bad []string, p store.Point) string {
	if slices.Contains(bad, p.ID) {
		return p.ID
	}
	for _, id := range bad {
		b, err := repo.Point(ctx, id)
		if err == nil && b.Chain == p.Chain && b.Lineage == p.Lineage && b.Number < p.Number {
			return id
		}
	}
	return ""
}

// meter counts for a backup, whose every attempt begins at nothing.
type meter struct{ *progress.Tracker }

// Begin implements backup.Progress.
func (m meter) Begin(messages, bytes uint64) {
	m.Set(0, 0)
	m.SetTotal(messages, bytes)
}

func resultOf(p store.Point) session.Result {
	return session.Result{
		RestorePoint: p.ID, Messages: p.Content.Messages, Bytes: p.Content.Bytes,
		StoredBytes: p.Content.StoredBytes, NewBytes: p.Content.NewBytes, Digest: p.Content.Digest, Notes: p.Notes,
	}
}

// restoreHandler brings a restore point back.
type restoreHandler struct{ s *Service }

// Run implements worker.Handler.
func (h restoreHandler) Run(ctx context.Context, t session.Task, run worker.Run) (session.Result, error) {
	repo, err := h.s.openReadable(ctx, t.Repository, run.Session.IdentitySealed)
	if err != nil {
		return session.Result{}, err
	}
	p, err := repo.Point(ctx, t.RestorePoint)
	if err != nil {
		return session.Result{}, err
	}
	conn, err := h.s.targets.Dial(ctx, t.Target)
	if err != nil {
		return session.Result{}, err
	}
	defer conn.Close()
	run.Progress.SetTotal(p.Content.Messages, p.Content.Bytes)
	turn := h.s.turn(t.Target, conn)
	defer turn.end()
	r, err := restore.Execute(ctx, restore.Job{
		Conn: conn, Repo: restore.FromRepository(repo), Point: p, Request: restore.Request{SkipVerify: t.SkipVerify},
		Repeated: t.Attempt > 1, Log: run.Log,
		Fence: func(ctx context.Context) error {
			if err := turn.begin(ctx); err != nil {
				return err
			}
			return run.Fence(ctx)
		},
		Progress: func(x restore.Progress) {
			switch x.Stage {
			case restore.StageUpload:
				run.Progress.Set(x.Messages, x.Bytes)
			case restore.StageCheck:
				turn.end()
			}
		},
	})
	if err != nil {
		return session.Result{}, err
	}
	run.Progress.Set(p.Content.Messages, p.Content.Bytes)
	out := session.Result{
		RestorePoint: p.ID, Messages: r.Messages, Bytes: r.Bytes, Digest: r.Digest, Verified: r.Verified,
	}
	for _, w := range r.Warnings {
		out.Notes = append(out.Notes, w.Text)
	}
	return out, nil
}
