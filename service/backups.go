package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"jetkeep/service/api"
	"jetkeep/service/session"
	"jetkeep/store"
)

func (s *Service) backupCreate(ctx context.Context, q *api.BackupCreateRequest) (*api.Accepted, error) {
	target, err := s.targetName(ctx, q.Target)
	if err != nil {
		return nil, err
	}
	repository, err := s.repositoryName(ctx, q.Repository)
	if err != nil {
		return nil, err
	}
	// A repository that cannot be opened is better known now than from every
	// task.
	if _, err := s.repositories.OpenToWrite(ctx, repository); err != nil {
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
	name, err := s.repositoryName(ctx, q.Repository)
	if err != nil {
		return nil, err
	}
	repo, err := s.repositories.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	r, err := ListBackups(ctx, repo, q)
	if err != nil {
		return nil, err
	}
	r.Repository = name
	return r, nil
}

// ListBackups returns a page of the backups of a repository that was opened.
func ListBackups(ctx context.Context, repo *store.Repository, q *api.BackupListRequest) (*api.BackupListResponse, error) {
	if err := q.Validate(); err != nil {
		return nil, err
	}
	listed, err := repo.Points(ctx)
	if err != nil {
		return nil, err
	}
	pins, err := repo.Pins(ctx)
	if err != nil {
		return nil, err
	}
	views := groupBackups(listed, pins, q.Target, q.Stream)
	part, next := page(views, func(v api.BackupView) string { return v.Backup }, descending, q.Cursor, q.Limit)
	return &api.BackupListResponse{Total: len(views), Backups: part, Next: next}, nil
}

func (s *Service) backupInfo(ctx context.Context, q *api.BackupInfoRequest) (*api.BackupInfoResponse, error) {
	name, err := s.repositoryName(ctx, q.Repository)
	if err != nil {
		return nil, err
	}
	repo, err := s.repositories.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	r, err := DescribeBackup(ctx, repo, q)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, api.Errorf(api.CodeBackupNotFound, "repository %s has no backup %s", name, q.Backup)
	}
	r.Repository = name
	return r, nil
}

// DescribeBackup returns a page of the restore points of a backup, nil if there
// is no such backup.
func DescribeBackup(ctx context.Context, repo *store.Repository, q *api.BackupInfoRequest) (*api.BackupInfoResponse, error) {
	if err := q.Validate(); err != nil {
		return nil, err
	}
	listed, err := repo.PointsOf(ctx, q.Backup)
	if err != nil {
		return nil, err
	}
	pins, err := repo.Pins(ctx)
	if err != nil {
		return nil, err
	}
	views := groupBackups(listed, pins, "", "")
	if len(views) == 0 {
		return nil, nil
	}
	part, next := page(listed, func(l store.Listed) string { return l.ID }, ascending, q.Cursor, q.Limit)
	r := &api.BackupInfoResponse{BackupView: views[0], RestorePoints: []api.RestorePointView{}, Next: next}
	for _, l := range part {
		r.RestorePoints = append(r.RestorePoints, pointView(l, pins))
	}
	return r, nil
}

// groupBackups sums up restore points by backup, newest first. A backup is in
// it if it is of the target and one of its streams matches, where those are
// given; its sums are over all its streams then.
func groupBackups(listed []store.Listed, pins map[string]store.Pin, target, stream string) []api.BackupView {
	byID := map[string]*api.BackupView{}
	wanted := map[string]bool{}
	for _, l := range listed {
		id := backupOf(l)
		v := byID[id]
		if v == nil {
			v = &api.BackupView{Backup: id}
			byID[id] = v
		}
		if _, ok := pinned(pins, l.ID); ok {
			v.Pinned++
		}
		// What cannot be read might match.
		wanted[id] = wanted[id] || l.Err != nil || (target == "" || l.Point.Target == target) && (stream == "" || api.Match(stream, l.Point.Stream))
		addPoint(v, l)
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

// addPoint adds a restore point to its backup's sums.
func addPoint(v *api.BackupView, l store.Listed) {
	p := l.Point
	switch {
	case isLocked(l.Err):
		v.Locked++
	case l.Err != nil:
		v.Damaged++
		return
	default:
		v.Target, v.Tags = p.Target, p.Tags
	}
	v.Streams++
	v.Messages += p.Content.Messages
	v.Bytes += p.Content.Bytes
	v.StoredBytes += p.Content.StoredBytes
	v.NewBytes += p.Content.NewBytes
	if p.Time.After(v.Time) {
		v.Time = p.Time
	}
}

// isLocked tells whether a restore point is sealed, of which the outside is
// known.
func isLocked(err error) bool {
	return errors.Is(err, store.ErrLocked) || errors.Is(err, store.ErrWrongIdentity)
}

// backupOf returns a restore point's backup, which its id begins with.
func backupOf(l store.Listed) string {
	if l.Err == nil && l.Point.Backup != "" {
		return l.Point.Backup
	}
	return backupOfID(l.ID)
}

func backupOfID(id string) string {
	backup, _, _ := strings.Cut(id, ".")
	return backup
}

func pointView(l store.Listed, pins map[string]store.Pin) api.RestorePointView {
	if l.Err != nil && !isLocked(l.Err) {
		return api.RestorePointView{RestorePoint: l.ID, Pinned: pinView(pins, l.ID), Error: mapError(l.Err)}
	}
	p := l.Point
	var retained *time.Time
	if !p.Retained.IsZero() {
		retained = &p.Retained
	}
	return api.RestorePointView{
		RestorePoint: l.ID, Stream: p.Stream, Time: p.Time, Created: p.Created,
		Messages: p.Content.Messages, Bytes: p.Content.Bytes, FirstSeq: p.State.FirstSeq, LastSeq: p.State.LastSeq,
		Consumers: p.Consumers.Count, Digest: p.Content.Digest, Engine: p.Engine, Server: p.Server,
		StoredBytes: p.Content.StoredBytes, NewBytes: p.Content.NewBytes, Notes: p.Notes,
		Retained: retained, Locked: l.Err != nil, Pinned: pinView(pins, l.ID),
	}
}

func pinView(pins map[string]store.Pin, id string) *api.PinView {
	pin, ok := pinned(pins, id)
	if !ok {
		return nil
	}
	v := &api.PinView{Reason: reasonOf(pin)}
	if !pin.Time.IsZero() {
		v.Since = &pin.Time
	}
	return v
}
