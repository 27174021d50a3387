package service

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"jetkeep/service/api"
	"jetkeep/service/config"
	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
	"jetkeep/store"
	"jetkeep/store/object"
	"jetkeep/store/testenv"
)

func TestSelectStreams(t *testing.T) {
	t.Parallel()
	all := []string{"ORDERS", "KV_a", "KV_b", "OBJ_x", "JETKEEP_TASKS", "KV_JETKEEP_SESSIONS", "OBJ_JETKEEP_X", "[x]"}
	for _, c := range []struct {
		include, exclude, want string
		code                   api.ErrCode
	}{
		{"", "", "KV_a KV_b OBJ_x ORDERS [x]", ""},
		{"*", "KV_*", "OBJ_x ORDERS [x]", ""},
		{"KV_? ORDERS", "", "KV_a KV_b ORDERS", ""},
		{"KV_a KV_a KV_*", "KV_b", "KV_a", ""},
		{"[x]", "", "[x]", ""},
		{"ORDERS NOPE*", "", "ORDERS", ""},
		{"orders", "", "", api.CodeStreamNotFound},
		{"ORDERS NOPE", "", "", api.CodeStreamNotFound},
		{"NOPE*", "", "", api.CodeNoStreams},
		{"ORDERS", "O*", "", api.CodeNoStreams},
		{"KV_JETKEEP_SESSIONS", "", "", api.CodeReservedStream},
		{"JETKEEP_*", "", "", api.CodeNoStreams},
	} {
		got, err := selectStreams(all, strings.Fields(c.include), strings.Fields(c.exclude))
		if c.code != "" && !api.HasCode(err, c.code) || c.code == "" && (err != nil || strings.Join(got, " ") != c.want) {
			t.Errorf("%q without %q: %v %v", c.include, c.exclude, got, err)
		}
	}
	if _, err := selectStreams(nil, nil, nil); !api.HasCode(err, api.CodeNoStreams) {
		t.Errorf("empty account: %v", err)
	}
}

// TestMatch compares with regular expressions.
func TestMatch(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.StringMatching(`[ab*?]{0,8}`).Draw(t, "pattern")
		s := rapid.StringMatching(`[ab]{0,8}`).Draw(t, "name")
		re := regexp.MustCompile("^" + strings.NewReplacer("*", ".*", "?", ".").Replace(p) + "$")
		if api.Match(p, s) != re.MatchString(s) {
			t.Fatalf("match %q %q", p, s)
		}
	})
	// Who tries every way to match this one never comes to an end.
	if api.Match(strings.Repeat("*a", 120)+"b", strings.Repeat("a", 255)) {
		t.Error("a nasty pattern matches")
	}
}

func TestPage(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n, limit := rapid.IntRange(0, 20).Draw(t, "n"), rapid.IntRange(1, 7).Draw(t, "limit")
		order := rapid.SampledFrom([]sortOrder{ascending, descending}).Draw(t, "order")
		var list, got []string
		for i := range n {
			list = append(list, fmt.Sprintf("%02d", i))
		}
		if order == descending {
			slices.Reverse(list)
		}
		key := func(s string) string { return s }
		for cursor, more := "", true; more; {
			var part []string
			part, cursor = page(list, key, order, cursor, limit)
			if len(part) > limit || part == nil {
				t.Fatalf("page %v", part)
			}
			got = append(got, part...)
			more = cursor != ""
		}
		if !slices.Equal(got, list) {
			t.Fatalf("%v, want %v", got, list)
		}
	})
}

func TestHeaderText(t *testing.T) {
	t.Parallel()
	if got := headerText("a\r\nInjected: x\n"); strings.ContainsAny(got, "\r\n") || headerText("") == "" {
		t.Errorf("header %q", got)
	}
}

func listedPoint(id, stream, target string, at time.Time) store.Listed {
	backup, _, _ := strings.Cut(id, ".")
	p := store.Point{ID: id, Task: id, Backup: backup, Stream: stream, Target: target, Time: at}
	p.Content.Messages, p.Content.NewBytes = 10, 100
	return store.Listed{ID: id, Point: p}
}

func TestGroupBackups(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	bad := store.Listed{ID: "B2.0003", Err: errors.New("broken")}
	list := []store.Listed{
		listedPoint("B1.0001", "ORDERS", "x", at), listedPoint("B2.0001", "ORDERS", "x", at.Add(time.Hour)),
		listedPoint("B2.0002", "KV_a", "x", at.Add(2*time.Hour)), bad, listedPoint("B3.0001", "KV_a", "y", at),
	}
	ids := func(v []api.BackupView) (out string) {
		for _, b := range v {
			out += b.Backup + " "
		}
		return out
	}
	all := groupBackups(list, nil, "", "")
	if ids(all) != "B3 B2 B1 " || all[1].Streams != 2 || all[1].Messages != 20 || all[1].Damaged != 1 || !all[1].Time.Equal(at.Add(2*time.Hour)) {
		t.Errorf("all: %+v", all)
	}
	if got := ids(groupBackups(list, nil, "y", "")); got != "B3 B2 " { // B2 has a point that nobody can read
		t.Errorf("of target y: %s", got)
	}
	if got := ids(groupBackups(list[:3], nil, "", "KV_*")); got != "B2 " {
		t.Errorf("of KV_*: %s", got)
	}
}

func TestDamageCannotHideANewerPoint(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	chosen := []store.Point{listedPoint("20260101T120000Z-aaaaaaaa.0001", "A", "x", at).Point}
	broken := func(id string) []store.Listed {
		return []store.Listed{{ID: id, Err: &store.DamageError{Object: "commit", Problem: "bad"}}}
	}
	if err := hidden(broken("20260101T110000Z-aaaaaaaa.0001"), chosen, "default", &api.RestoreRequest{}); err != nil {
		t.Errorf("an older one: %v", err)
	}
	if err := hidden(broken("20260101T130000Z-aaaaaaaa.0001"), chosen, "default", &api.RestoreRequest{}); !api.HasCode(err, api.CodeDamaged) {
		t.Errorf("a newer one: %v", err)
	}
	before := at.Add(30 * time.Minute)
	if err := hidden(broken("20260101T130000Z-aaaaaaaa.0001"), chosen, "default", &api.RestoreRequest{At: &before}); err != nil {
		t.Errorf("one that is newer than what is asked for: %v", err)
	}
	after := at.Add(90 * time.Minute)
	if err := hidden(broken("20260101T130000Z-aaaaaaaa.0001"), chosen, "default", &api.RestoreRequest{At: &after}); !api.HasCode(err, api.CodeDamaged) {
		t.Errorf("one within what is asked for: %v", err)
	}
}

func TestCheckVersion(t *testing.T) {
	t.Parallel()
	for v, ok := range map[string]bool{
		"2.10.0": true, "2.15.2": true, "3.0.0": true, "2.11.0-RC.1": true, "2.9.25": false, "1.4.0": false, "": false, "x.y": false,
	} {
		if err := checkVersion(v); (err == nil) != ok || err != nil && !errors.Is(err, ErrServerTooOld) {
			t.Errorf("%q: %v", v, err)
		}
	}
}

// TestErrorsHaveTheirCode looks that what the table maps is mapped also when it
// is wrapped, and that what is not known tells nothing.
func TestErrorsHaveTheirCode(t *testing.T) {
	t.Parallel()
	for _, c := range codes() {
		if e := mapError(fmt.Errorf("do it: %w", c.err)); e.ErrCode != c.code {
			t.Errorf("%v: %s, want %s", c.err, e.ErrCode, c.code)
		}
	}
	if e := mapError(errors.New("password is hunter2")); e.ErrCode != api.CodeInternal || strings.Contains(e.Description, "hunter2") {
		t.Errorf("unknown error: %+v", e)
	}
	if e := mapError(fmt.Errorf("x: %w", object.ErrNoSpace)); e.Hint == "" || e.Code != 507 {
		t.Errorf("disk full: %+v", e)
	}
	cause := connecting("t", context.DeadlineExceeded)
	if !api.HasCode(cause, api.CodeTargetUnavailable) || !errors.Is(cause, context.DeadlineExceeded) {
		t.Errorf("connecting: %v", cause)
	}
}

// A target that speaks something else than was expected is one that cannot be
// reached, and it is said why.
func TestTargetSpeaksOtherwise(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	for name, o := range map[string]natsconn.Options{
		"secure connection": {URL: strings.Replace(server.URL(), "nats://", "tls://", 1)},
		"tls: ":             {URL: server.URL(), TLS: natsconn.TLS{First: true}},
	} {
		list := targets{list: []config.Target{{Name: "x", Options: o}}}
		_, err := list.Dial(t.Context(), "x")
		if e := mapError(err); err == nil || e.ErrCode != api.CodeTargetUnavailable || !strings.Contains(e.Description, name) {
			t.Errorf("%s: %v, told as %+v", name, err, e)
		}
	}
}

func TestServersShowNoCredentials(t *testing.T) {
	t.Parallel()
	for _, o := range []natsconn.Options{
		{URL: "nats://user:hunter2@a:4222,tls://hunter2@b:4222"}, {URL: "user:hunter2@a:4222"}, {Password: "hunter2", User: "u"}, {Token: "hunter2"},
	} {
		if got := servers(o); strings.Contains(got, "hunter2") || got == "" {
			t.Errorf("%s", got)
		}
	}
}

type fakeRegistration struct{}

func (fakeRegistration) Stop() error { return nil }

func newInside(t *testing.T) *Service {
	t.Helper()
	dir := t.TempDir()
	s, err := New(t.Context(), config.Config{
		Control:      natsconn.Options{URL: natstest.Start(t).URL()},
		Repositories: []config.Repository{{Name: "r", Path: dir + "/r", Create: true}},
		Staging:      config.Staging{Dir: dir + "/s"},
	}, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestMicroIsStartedAgain has the micro service stop twice.
func TestMicroIsStartedAgain(t *testing.T) {
	t.Parallel()
	s := newInside(t)
	ctx, cancel := context.WithCancel(t.Context())
	registered := 0
	s.register = func(context.Context) (registration, <-chan struct{}, error) {
		registered++
		stopped := make(chan struct{})
		switch {
		case registered < 3:
			close(stopped)
		default:
			cancel()
		}
		return fakeRegistration{}, stopped, nil
	}
	if err := s.Run(ctx); err != nil || registered != 3 {
		t.Errorf("registered %d times: %v", registered, err)
	}
}

func TestMicroThatKeepsStoppingIsAnError(t *testing.T) {
	t.Parallel()
	s := newInside(t)
	s.register = func(context.Context) (registration, <-chan struct{}, error) {
		stopped := make(chan struct{})
		close(stopped)
		return fakeRegistration{}, stopped, nil
	}
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "stopped 10 times") {
		t.Errorf("run: %v", err)
	}
}

// TestCaptureOrder: every stream once, and each before those that it takes
// from, as long as they do not take from each other in a circle.
func TestCaptureOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 8).Draw(t, "streams")
		circles := rapid.Bool().Draw(t, "circles")
		var streams []string
		for i := range n {
			streams = append(streams, string(rune('A'+i)))
		}
		origins := map[string][]string{}
		for range rapid.IntRange(0, 12).Draw(t, "edges") {
			from, to := rapid.IntRange(0, n-1).Draw(t, "from"), rapid.IntRange(0, n-1).Draw(t, "to")
			if from > to || circles {
				origins[streams[from]] = append(origins[streams[from]], streams[to])
			}
		}
		tasks := captureOrder(streams, origins)
		at := map[string]int{}
		for i, task := range tasks {
			at[task.Stream] = i + 1
		}
		if len(tasks) != n || len(at) != n {
			t.Fatalf("%d tasks of %d streams for %d", len(tasks), len(at), n)
		}
		for _, task := range tasks {
			for _, origin := range origins[task.Stream] {
				if !circles && at[origin] <= at[task.Stream] {
					t.Errorf("%s comes before %s, which takes from it", origin, task.Stream)
				}
				if origin != task.Stream && !slices.Contains(tasks[at[origin]-1].After, task.Stream) {
					t.Errorf("%s does not wait for %s", origin, task.Stream)
				}
			}
		}
	})
}

func TestLocalOrigins(t *testing.T) {
	t.Parallel()
	got := localOrigins([]byte(`{"name":"X","mirror":{"name":"M"},"sources":[{"name":"A"},{"name":"B","external":{"api":"$JS.hub.API"}},{"name":"C","external":null}]}`))
	if !slices.Equal(got, []string{"A", "C", "M"}) {
		t.Errorf("origins %v", got)
	}
}

// TestReadyWhileRegistered: who sends requests by /readyz sends none to a service
// that ends, however long its tasks take to be handed over.
func TestReadyWhileRegistered(t *testing.T) {
	t.Parallel()
	s := newInside(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s.vitals.reachable.Store(int64(time.Since(s.vitals.begun)))
	s.register = func(context.Context) (registration, <-chan struct{}, error) {
		return fakeRegistration{}, make(chan struct{}), nil
	}
	if err := s.fit(); err == nil || !strings.Contains(err.Error(), "not registered") {
		t.Errorf("before it began: %v", err)
	}
	served := make(chan error, 1)
	go func() { served <- s.serve(ctx) }()
	testenv.Until(t, "the service to be ready", s.fit)
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if err := s.fit(); err == nil || !strings.Contains(err.Error(), "not registered") {
		t.Errorf("while it ends: %v", err)
	}
	s.Close()
}
