package config

import (
	"errors"
	"fmt"

	"jetkeep/schedule"
)

// DefaultPruneCron is when a repository is pruned by its policy unless its
// configuration says otherwise.
const DefaultPruneCron = "@daily"

// Prune says when a repository is pruned by itself. In a file it is a block, or
// off.
type Prune struct {
	// Off says that it is pruned only when somebody asks for it.
	Off bool `conf:"-"`
	// Cron and Zone are those of a schedule.
	Cron string `conf:"cron"`
	Zone string `conf:"zone"`
}

// setPrune fills in when a repository is pruned. One that has a policy is pruned
// by it; one that has none only if it says when, and then what no restore point
// needs is deleted. What is there already is not written again: instances in one
// process may share it.
func (r *Repository) setPrune() {
	if r.Prune == nil && r.Keep != nil {
		r.Prune = new(Prune)
	}
	if p := r.Prune; p != nil && !p.Off && (p.Cron == "" || p.Zone == "") {
		own := *p
		setDefault(&own.Cron, DefaultPruneCron)
		setDefault(&own.Zone, "UTC")
		r.Prune = &own
	}
}

// PruneTimes returns when the repository is pruned by itself, nil if it is not.
func (r *Repository) PruneTimes() (*schedule.Timetable, error) {
	if r.Prune == nil || r.Prune.Off {
		return nil, nil //nolint:nilnil // says so
	}
	t, err := schedule.New(schedule.Spec{Cron: r.Prune.Cron, Zone: r.Prune.Zone})
	if err != nil {
		var field *schedule.FieldError
		if errors.As(err, &field) {
			return nil, fmt.Errorf("prune.%s: %w", field.Field, field.Err)
		}
		return nil, fmt.Errorf("prune: %w", err)
	}
	return t, nil
}
