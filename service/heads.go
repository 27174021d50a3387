package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"jetkeep/service/state"
	"jetkeep/store"
)

// rolledBack says what is wrong if the log of a stream is not the one that was
// seen before: the store went back to an older copy, or somebody cut it. That
// is no reason to make no backup, but one to say so.
func (s *Service) rolledBack(ctx context.Context, repo *store.Repository, target, stream string) (string, error) {
	chain, _, err := repo.Head(ctx, target, stream)
	if err != nil {
		return "", err
	}
	known, err := s.state.Head(ctx, repo.Marker().ID, chain)
	if errors.Is(err, state.ErrNone) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	ok, err := repo.Continues(ctx, chain, known)
	if ok || err != nil {
		return "", err
	}
	return fmt.Sprintf("the repository lacks restore points of this stream that were there: entry %d of log %s is gone or another; "+
		"if it was brought back from a copy on purpose, delete the key head.%s.%[2]s from the bucket JETKEEP_STATE", known.Number, chain, repo.Marker().ID), nil
}

// rememberHead keeps how far a stream's log has come. Without it a rollback
// goes unnoticed; a backup is as good.
func (s *Service) rememberHead(ctx context.Context, repo *store.Repository, target, stream string, log *slog.Logger) {
	chain, head, err := repo.Head(ctx, target, stream)
	if err == nil && head.Number > 0 {
		err = s.state.AdvanceHead(ctx, repo.Marker().ID, chain, head)
	}
	if err != nil {
		log.Warn("remember end of log", "stream", stream, "error", err)
	}
}
