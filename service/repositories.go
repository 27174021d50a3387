package service

import (
	"context"
	"time"

	"jetkeep/service/api"
)

func (s *Service) repositoryList(context.Context, *api.RepositoryListRequest) (*api.RepositoryListResponse, error) {
	return &api.RepositoryListResponse{Repositories: s.repositories.List()}, nil
}

// repositoryInfo opens the repository, so that its answer proves that it can
// be read.
func (s *Service) repositoryInfo(ctx context.Context, q *api.RepositoryInfoRequest) (*api.RepositoryInfoResponse, error) {
	name, err := s.repositoryName(q.Repository)
	if err != nil {
		return nil, err
	}
	repo, err := s.repositories.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	listed, err := repo.Points(ctx)
	if err != nil {
		return nil, err
	}
	m := repo.Marker()
	r := &api.RepositoryInfoResponse{ID: m.ID, Format: m.Format, Created: &m.Created}
	for _, v := range s.repositories.List() {
		if v.Repository == name {
			r.RepositoryView = v
		}
	}
	streams := map[string]bool{}
	var newest time.Time
	for _, l := range listed {
		if l.Err != nil {
			r.Damaged++
			continue
		}
		r.RestorePoints++
		streams[l.Point.Target+" "+l.Point.Stream] = true
		r.NewBytes += l.Point.Content.NewBytes
		if l.Point.Time.After(newest) {
			newest = l.Point.Time
		}
	}
	r.Backups, r.Streams = len(groupBackups(listed, "", "")), len(streams)
	if !newest.IsZero() {
		r.Newest = &newest
	}
	return r, nil
}
