package service

import (
	"context"
	"slices"
	"time"

	"jetkeep/service/api"
	"jetkeep/store"
)

// chosen returns the ids of the restore points that a request names: those of a
// backup, or single ones.
func chosen(ctx context.Context, repo *store.Repository, repository, backup string, points []string) ([]string, error) {
	if backup == "" {
		return points, nil
	}
	listed, err := repo.PointsOf(ctx, backup)
	if err != nil {
		return nil, err
	}
	if len(listed) == 0 {
		return nil, api.Errorf(api.CodeBackupNotFound, "repository %s has no backup %s", repository, backup)
	}
	ids := make([]string, len(listed))
	for i, l := range listed {
		ids[i] = l.ID
	}
	slices.Sort(ids)
	return ids, nil
}

// there fails if one of the restore points is not.
func there(ctx context.Context, repo *store.Repository, repository string, ids []string) error {
	known := map[string]map[string]bool{}
	for _, id := range ids {
		backup := backupOfID(id)
		if known[backup] == nil {
			listed, err := repo.PointsOf(ctx, backup)
			if err != nil {
				return err
			}
			known[backup] = map[string]bool{}
			for _, l := range listed {
				known[backup][l.ID] = true
			}
		}
		if !known[backup][id] {
			return api.Errorf(api.CodeBackupNotFound, "repository %s has no restore point %s", repository, id)
		}
	}
	return nil
}

func (s *Service) backupDelete(ctx context.Context, q *api.BackupDeleteRequest) (*api.BackupDeleteResponse, error) {
	repository, repo, ids, err := s.chosenToWrite(ctx, q.Repository, q.Backup, q.Points)
	if err != nil {
		return nil, err
	}
	pins, err := repo.Pins(ctx)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		if pin, ok := pinned(pins, id); ok {
			return nil, api.Errorf(api.CodePinned, "restore point %s is pinned (%s)", id, reasonOf(pin))
		}
	}
	r := &api.BackupDeleteResponse{Repository: repository, Backup: q.Backup, DryRun: q.DryRun, Points: ids}
	if q.DryRun {
		if err := repo.CheckForget(ctx, ids); err != nil {
			return nil, err
		}
		return r, nil
	}
	if err := repo.Forget(ctx, ids); err != nil {
		return nil, err
	}
	s.measures.Forgot(repository, len(ids), time.Now())
	s.log.Info("restore points forgotten", "repository", repository, "backup", q.Backup, "count", len(ids))
	return r, nil
}

// backupPin pins restore points, or a backup with what it may still get.
func (s *Service) backupPin(ctx context.Context, q *api.BackupPinRequest) (*api.BackupPinResponse, error) {
	repository, repo, ids, err := s.chosenToWrite(ctx, q.Repository, q.Backup, q.Points)
	if err != nil {
		return nil, err
	}
	for _, id := range pinNames(q.Backup, ids) {
		if err := repo.Pin(ctx, id, q.Reason); err != nil {
			return nil, err
		}
	}
	return &api.BackupPinResponse{Repository: repository, Backup: q.Backup, Points: ids}, nil
}

func (s *Service) backupUnpin(ctx context.Context, q *api.BackupUnpinRequest) (*api.BackupPinResponse, error) {
	repository, repo, ids, err := s.chosenToWrite(ctx, q.Repository, q.Backup, q.Points)
	if err != nil {
		return nil, err
	}
	pins, err := repo.Pins(ctx)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		if _, ok := pins[backupOfID(id)]; ok && q.Backup == "" {
			return nil, api.Errorf(api.CodePinned, "restore point %s is pinned with its whole backup", id).
				WithHint("Take the pin of the backup away, and pin its other restore points.")
		}
	}
	names := ids
	if q.Backup != "" {
		names = append([]string{q.Backup}, ids...)
	}
	for _, id := range names {
		if _, ok := pins[id]; !ok {
			continue
		}
		if err := repo.Unpin(ctx, id); err != nil {
			return nil, err
		}
	}
	return &api.BackupPinResponse{Repository: repository, Backup: q.Backup, Points: ids}, nil
}

// pinNames returns what to pin.
func pinNames(backup string, ids []string) []string {
	if backup != "" {
		return []string{backup}
	}
	return ids
}

// pinned tells whether a restore point is pinned, by itself or with its backup.
func pinned(pins map[string]store.Pin, id string) (store.Pin, bool) {
	if pin, ok := pins[id]; ok {
		return pin, true
	}
	pin, ok := pins[backupOfID(id)]
	return pin, ok
}

// chosenToWrite opens a repository and finds the restore points that something
// is to be done about; all of them are there.
func (s *Service) chosenToWrite(ctx context.Context, name, backup string, points []string) (string, *store.Repository, []string, error) {
	name, err := s.repositoryName(ctx, name)
	if err != nil {
		return "", nil, nil, err
	}
	repo, err := s.repositories.OpenToWrite(ctx, name)
	if err != nil {
		return "", nil, nil, err
	}
	ids, err := chosen(ctx, repo, name, backup, points)
	if err == nil && backup == "" {
		err = there(ctx, repo, name, ids)
	}
	return name, repo, ids, err
}

func reasonOf(p store.Pin) string {
	switch {
	case isLocked(p.Err):
		return "the reason is sealed"
	case p.Err != nil:
		return "the reason cannot be read"
	case p.Reason == "":
		return "no reason was given"
	}
	return p.Reason
}
