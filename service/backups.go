package service

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"jetkeep/service/api"
	"jetkeep/service/session"
	"jetkeep/store"
)

func (s *Service) backupCreate(ctx context.Context, q *api.BackupCreateRequest) (*api.Accepted, error) {
	target, err := s.targetName(q.Target)
	if err != nil {
		return nil, err
	}
	repository, err := s.repositoryName(q.Repository)
	if err != nil {
		return nil, err
	}
	// A repository that cannot be opened is better known now than from every
	// task.
	if _, err := s.repositories.Open(ctx, repository); err != nil {
		return nil, err
	}
	conn, err := s.dial(ctx, target)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	all, err := conn.API.StreamNames(ctx)
	if err != nil {
		return nil, fmt.Errorf("list streams of target %s: %w", target, err)
	}
	streams, err := selectStreams(all, q.Streams, q.Exclude)
	if err != nil {
		return nil, err
	}
	return s.startSession(ctx, &session.Session{
		Kind: api.KindBackup, Target: target, Repository: repository, Tags: q.Tags,
	}, s.backupTasks(ctx, conn.API, streams))
}

func (s *Service) backupList(ctx context.Context, q *api.BackupListRequest) (*api.BackupListResponse, error) {
	repository, listed, err := s.points(ctx, q.Repository)
	if err != nil {
		return nil, err
	}
	views := groupBackups(listed, q.Target, q.Stream)
	part, next := page(views, func(v api.BackupView) string { return v.Backup }, descending, q.Cursor, q.Limit)
	return &api.BackupListResponse{Repository: repository, Total: len(views), Backups: part, Next: next}, nil
}

func (s *Service) backupInfo(ctx context.Context, q *api.BackupInfoRequest) (*api.BackupInfoResponse, error) {
	repository, err := s.repositoryName(q.Repository)
	if err != nil {
		return nil, err
	}
	repo, err := s.repositories.Open(ctx, repository)
	if err != nil {
		return nil, err
	}
	listed, err := repo.PointsOf(ctx, q.Backup)
	if err != nil {
		return nil, err
	}
	views := groupBackups(listed, "", "")
	if len(views) == 0 {
		return nil, api.Errorf(api.CodeBackupNotFound, "repository %s has no backup %s", repository, q.Backup)
	}
	part, next := page(listed, func(l store.Listed) string { return l.ID }, ascending, q.Cursor, q.Limit)
	r := &api.BackupInfoResponse{Repository: repository, BackupView: views[0], RestorePoints: []api.RestorePointView{}, Next: next}
	for _, l := range part {
		r.RestorePoints = append(r.RestorePoints, pointView(l))
	}
	return r, nil
}

// points reads the restore points of a repository.
func (s *Service) points(ctx context.Context, name string) (string, []store.Listed, error) {
	name, err := s.repositoryName(name)
	if err != nil {
		return "", nil, err
	}
	repo, err := s.repositories.Open(ctx, name)
	if err != nil {
		return "", nil, err
	}
	listed, err := repo.Points(ctx)
	return name, listed, err
}

// groupBackups sums up restore points by backup, newest first. A backup is in
// it if it is of the target and one of its streams matches, where those are
// given; its sums are over all its streams then.
func groupBackups(listed []store.Listed, target, stream string) []api.BackupView {
	byID := map[string]*api.BackupView{}
	wanted := map[string]bool{}
	for _, l := range listed {
		id := backupOf(l)
		v := byID[id]
		if v == nil {
			v = &api.BackupView{Backup: id}
			byID[id] = v
		}
		if l.Err != nil {
			v.Damaged++
			// What cannot be read might match.
			wanted[id] = true
			continue
		}
		p := l.Point
		v.Target, v.Tags = p.Target, p.Tags
		v.Streams++
		v.Messages += p.Content.Messages
		v.Bytes += p.Content.Bytes
		v.StoredBytes += p.Content.StoredBytes
		v.NewBytes += p.Content.NewBytes
		if p.Time.After(v.Time) {
			v.Time = p.Time
		}
		if (target == "" || p.Target == target) && (stream == "" || match(stream, p.Stream)) {
			wanted[id] = true
		}
	}
	out := []api.BackupView{}
	for id, v := range byID {
		if wanted[id] {
			out = append(out, *v)
		}
	}
	slices.SortFunc(out, func(a, b api.BackupView) int { return cmp.Compare(b.Backup, a.Backup) })
	return out
}

// backupOf returns a restore point's backup, which its id begins with.
func backupOf(l store.Listed) string {
	if l.Err == nil && l.Point.Backup != "" {
		return l.Point.Backup
	}
	id, _, _ := strings.Cut(l.ID, ".")
	return id
}

func pointView(l store.Listed) api.RestorePointView {
	if l.Err != nil {
		return api.RestorePointView{RestorePoint: l.ID, Error: mapError(l.Err)}
	}
	p := l.Point
	return api.RestorePointView{
		RestorePoint: p.ID, Stream: p.Stream, Time: p.Time, Created: p.Created,
		Messages: p.Content.Messages, Bytes: p.Content.Bytes, FirstSeq: p.State.FirstSeq, LastSeq: p.State.LastSeq,
		Consumers: p.Consumers.Count, Digest: p.Content.Digest, Engine: p.Engine, Server: p.Server,
		StoredBytes: p.Content.StoredBytes, NewBytes: p.Content.NewBytes, Notes: p.Notes,
	}
}
