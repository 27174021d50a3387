package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"jetkeep/service/api"
	"jetkeep/store"
	"jetkeep/store/object"
	"jetkeep/store/seal"
)

func (s *Service) repositoryList(ctx context.Context, _ *api.RepositoryListRequest) (*api.RepositoryListResponse, error) {
	views := s.repositories.List()
	if err := s.pruneViews(ctx, views); err != nil {
		return nil, err
	}
	return &api.RepositoryListResponse{Repositories: views}, nil
}

// repositoryInfo opens the repository, so that its answer proves that it can
// be read.
func (s *Service) repositoryInfo(ctx context.Context, q *api.RepositoryInfoRequest) (*api.RepositoryInfoResponse, error) {
	name, err := s.repositoryName(ctx, q.Repository)
	if err != nil {
		return nil, err
	}
	repo, err := s.repositories.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	r, err := Describe(ctx, repo, q.Probe)
	if err != nil {
		return nil, err
	}
	r.XKey = s.publicXKey()
	views := s.repositories.List()
	views = slices.DeleteFunc(views, func(v api.RepositoryView) bool { return v.Repository != name })
	if err := s.pruneViews(ctx, views); err != nil {
		return nil, err
	}
	if len(views) > 0 {
		r.RepositoryView = views[0]
	}
	return r, s.describeTrust(r, name)
}

// Describe says what can be said of a repository that was opened: what is in
// it, who can read it, and, unless that is not asked for, whether its store
// works.
func Describe(ctx context.Context, repo *store.Repository, try *bool) (*api.RepositoryInfoResponse, error) {
	listed, err := repo.Points(ctx)
	if err != nil {
		return nil, err
	}
	pins, err := repo.Pins(ctx)
	if err != nil {
		return nil, err
	}
	m := repo.Marker()
	r := &api.RepositoryInfoResponse{
		ID: m.ID, Format: m.Format, Created: &m.Created, Pinned: len(pins),
		Encrypted: repo.Encrypted(), Readable: repo.Readable(), Recipient: m.Recipient,
	}
	if err := describeOperators(ctx, r, repo); err != nil {
		return nil, err
	}
	describePoints(r, listed)
	if keeper, ok := repo.Bucket().Retainer(); ok {
		r.RetainFor = keeper.RetainFor().String()
	}
	r.Probe = probe(ctx, try, repo.Bucket())
	return r, nil
}

// probeTimeout bounds the trying, so that an answer comes within the time of a
// request even if the store gives none.
const probeTimeout = 12 * time.Second

// probe tries whether the store works. Where everything that is written stays
// for a promised time it does so only if it is asked to.
func probe(ctx context.Context, asked *bool, bucket *object.Bucket) *api.StoreProbe {
	_, retains := bucket.Retainer()
	if asked != nil && !*asked || asked == nil && retains {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	report := store.Probe(ctx, bucket)
	out := &api.StoreProbe{Usable: report.Usable()}
	for _, s := range report {
		step := api.ProbeStep{Step: s.Name, Outcome: s.Outcome, Milliseconds: float64(s.Took.Microseconds()) / 1000, Note: s.Note}
		if s.Err != nil {
			step.Error = s.Err.Error()
		}
		if denied := new(object.PermissionError); errors.As(s.Err, &denied) {
			step.Permission = denied.Action
		}
		out.Steps = append(out.Steps, step)
	}
	return out
}

// describeOperators says who can read the repository.
func describeOperators(ctx context.Context, r *api.RepositoryInfoResponse, repo *store.Repository) error {
	if !repo.Encrypted() {
		return nil
	}
	operators, err := repo.Operators(ctx)
	if err != nil {
		return err
	}
	for _, o := range operators {
		key, err := seal.ParseRecipient(o)
		if err != nil {
			return fmt.Errorf("operator: %w", err)
		}
		r.Operators = append(r.Operators, key.Fingerprint())
	}
	return nil
}

// describeTrust says whose word counts.
func (s *Service) describeTrust(r *api.RepositoryInfoResponse, name string) error {
	for _, c := range s.config.Repositories {
		if c.Name != name {
			continue
		}
		keys, err := openOptions(c)
		if err != nil {
			return err
		}
		r.TrustedKeys = c.TrustedKeys
		if keys.Signer != nil {
			r.SigningKey = keys.Signer.Public()
		}
	}
	r.Unsigned = len(r.TrustedKeys) == 0
	return nil
}

// describePoints sums up the restore points.
func describePoints(r *api.RepositoryInfoResponse, listed []store.Listed) {
	streams := map[string]bool{}
	var newest, kept time.Time
	now := time.Now()
	for _, l := range listed {
		switch {
		case isLocked(l.Err):
			r.Locked++
		case l.Err != nil:
			r.Damaged++
			continue
		default:
			streams[l.Point.Target+" "+l.Point.Stream] = true
		}
		r.RestorePoints++
		r.NewBytes += l.Point.Content.NewBytes
		if l.Point.Time.After(newest) {
			newest = l.Point.Time
		}
		if until := l.Point.Retained; until.After(now) {
			r.Retained++
			if until.After(kept) {
				kept = until
			}
		}
	}
	r.Backups, r.Streams = len(groupBackups(listed, nil, "", "")), len(streams)
	r.Newest, r.RetainedUntil = moment(newest), moment(kept)
}
