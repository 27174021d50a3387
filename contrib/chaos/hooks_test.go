package chaos_test

import (
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"jetkeep/service/api"
)

// hooks answers those of all sessions and remembers when which was called.
type hooks struct {
	mu     sync.Mutex
	first  map[string]time.Time // of those before, by session
	last   map[string]time.Time // of those after
	counts map[string]int
}

func newHooks(t *testing.T, nc *nats.Conn) *hooks {
	t.Helper()
	h := &hooks{first: map[string]time.Time{}, last: map[string]time.Time{}, counts: map[string]int{}}
	_, err := nc.Subscribe("chaos.*", func(m *nats.Msg) {
		var q api.HookRequest
		if err := json.Unmarshal(m.Data, &q); err != nil {
			t.Errorf("request of a hook: %v", err)
			return
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.counts[q.When]++
		if q.When == api.HookAfter {
			h.last[q.Session] = time.Now()
		} else if h.first[q.Session].IsZero() {
			h.first[q.Session] = time.Now()
		}
		_ = m.Respond(nil) // whoever lost the answer asks again
	})
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *hooks) calls() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.counts[api.HookBefore] + h.counts[api.HookAfter]
}

// judge says what is wrong with the calls for a session that succeeded. One that
// failed may have done so because a call could not be made.
func (h *hooks) judge(s api.SessionView, failed func(session string) bool) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	first, last := h.first[s.Session], h.last[s.Session]
	switch {
	case s.Kind != api.KindBackup || s.State != api.StateSucceeded:
	case first.IsZero():
		return "it went on without the hook before"
	case last.IsZero() && !failed(s.Session):
		return "the hook after was not called"
	case !last.IsZero() && last.Before(first):
		return fmt.Sprintf("the hook after was called at %s, the one before at %s", last, first)
	}
	return ""
}
