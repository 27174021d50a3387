package session

import (
	"time"

	"jetkeep/service/api"
)

// View shows the session to others. The tasks are needed only while it is not
// final.
func (s *Session) View(tasks []*Task) api.SessionView {
	v := api.SessionView{
		Session: s.ID, Kind: s.Kind, State: s.State, Target: s.Target, Repository: s.Repository,
		Backup: s.Backup, Tags: s.Tags, Created: s.Created, Started: timeOf(s.Started), Ended: timeOf(s.Ended),
		Cancel: s.Cancel, Reason: s.Reason, Error: s.Error,
	}
	if s.Counts != nil && s.Progress != nil {
		v.Tasks, v.Progress = *s.Counts, *s.Progress
		return v
	}
	v.Tasks, v.Progress = Count(tasks), Sum(tasks)
	v.Tasks.Total = s.Tasks
	return v
}

// View shows the task to others.
func (t *Task) View() api.TaskView {
	v := api.TaskView{
		Task: t.ID, Hook: t.Hook, Stream: t.Stream, State: t.State, RestorePoint: t.RestorePoint, Attempts: t.Attempt,
		Instance: t.Instance, Started: timeOf(t.Started), Ended: timeOf(t.Ended),
		Progress: t.Progress, Notes: t.Notes, Error: t.Error,
	}
	if t.Result != nil {
		v.Verified, v.Digest = t.Result.Verified, t.Result.Digest
		v.Drilled = t.Result.Drilled
		v.Verification, v.Pruned = t.Result.Verification, t.Result.Pruned
	}
	return v
}

func timeOf(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
