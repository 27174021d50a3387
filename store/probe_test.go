package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"jetkeep/store/object"
	"jetkeep/store/object/mem"
)

// A limited store does not do everything.
type limited struct {
	object.Driver
	put, get, list, del error
	hide                bool // listings lag
	rot                 bool // reads give other bytes
	keep                bool // deleting does nothing
}

func (l *limited) Put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	if l.put != nil {
		return l.put
	}
	return l.Driver.Put(ctx, name, body, size)
}

func (l *limited) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	if l.get != nil {
		return nil, l.get
	}
	if l.rot {
		return io.NopCloser(strings.NewReader(strings.Repeat("x", probeSize))), nil
	}
	return l.Driver.Get(ctx, name, offset, length)
}

func (l *limited) List(ctx context.Context, prefix, after string, limit int) ([]object.Info, bool, error) {
	if l.list != nil {
		return nil, false, l.list
	}
	if l.hide {
		return nil, false, nil
	}
	return l.Driver.List(ctx, prefix, after, limit)
}

func (l *limited) Delete(ctx context.Context, name string) error {
	if l.del != nil || l.keep {
		return l.del
	}
	return l.Driver.Delete(ctx, name)
}

func denied(action string, kind error) error {
	return fmt.Errorf("driver: %w", &object.PermissionError{Action: action, Kind: kind, Err: errors.New("AccessDenied")})
}

func TestProbe(t *testing.T) {
	away := fmt.Errorf("%w: connection refused", object.ErrUnavailable)
	for name, c := range map[string]struct {
		store  limited
		want   string
		usable bool
		left   int
	}{
		"works":       {limited{}, "write=ok read=ok list=ok delete=ok", true, 0},
		"lags":        {limited{hide: true}, "write=ok read=ok list=ok(the listing does not show it yet) delete=ok", true, 0},
		"no delete":   {limited{del: denied("s3:DeleteObject", object.ErrNotWritable)}, "write=ok read=ok list=ok delete=denied[s3:DeleteObject]", true, 1},
		"retained":    {limited{del: object.ErrRetained}, "write=ok read=ok list=ok delete=retained", true, 1},
		"no write":    {limited{put: denied("s3:PutObject", object.ErrNotWritable)}, "write=denied[s3:PutObject] read=ok(of the repository's marker) list=ok delete=skipped", false, 0},
		"no read":     {limited{get: denied("s3:GetObject", object.ErrPermission)}, "write=ok read=denied[s3:GetObject] list=ok delete=ok", false, 0},
		"no list":     {limited{list: denied("s3:ListBucket", object.ErrPermission)}, "write=ok read=ok list=denied[s3:ListBucket] delete=ok", false, 0},
		"rots":        {limited{rot: true}, "write=ok read=failed list=ok delete=ok", false, 0},
		"keeps":       {limited{keep: true}, "write=ok read=ok list=ok delete=failed", false, 1},
		"is full":     {limited{put: object.ErrNoSpace}, "write=failed read=ok(of the repository's marker) list=ok delete=skipped", false, 0},
		"is away":     {limited{put: away, get: away, list: away, del: away}, "write=failed read=failed(of the repository's marker) list=failed delete=skipped", false, 0},
		"read nobody": {limited{put: object.ErrNotWritable, get: object.ErrPermission}, "write=denied read=denied(of the repository's marker) list=ok delete=skipped", false, 0},
	} {
		c.store.Driver = mem.New()
		if _, err := Init(t.Context(), object.NewBucket(c.store.Driver), InitOptions{}); err != nil {
			t.Fatal(err)
		}
		report := Probe(t.Context(), object.NewBucket(&c.store))
		var got []string
		for _, s := range report {
			text := s.Name + "=" + s.Outcome
			if s.Note != "" {
				text += "(" + s.Note + ")"
			}
			if p := new(object.PermissionError); errors.As(s.Err, &p) {
				text += "[" + p.Action + "]"
			}
			if (s.Err == nil) != (s.Outcome == ProbeOK) {
				t.Errorf("%s: %s with %v", name, s.Outcome, s.Err)
			}
			got = append(got, text)
		}
		if s := strings.Join(got, " "); s != c.want || report.Usable() != c.usable {
			t.Errorf("%s: %s, usable %v", name, s, report.Usable())
		}
		if left := probesIn(t, c.store.Driver); len(left) != c.left {
			t.Errorf("%s: left %v", name, left)
		}
	}
	if (ProbeReport{}).Usable() {
		t.Error("a store is usable that was not tried")
	}
}

func probesIn(t *testing.T, d object.Driver) (names []string) {
	t.Helper()
	for info, err := range object.NewBucket(d).List(t.Context(), probePrefix) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, info.Name)
	}
	return names
}

// TestProbesLeftBehind: they are no hindrance to a new repository, and a prune
// takes away what nobody needs any more, and nothing else.
func TestProbesLeftBehind(t *testing.T) {
	d := mem.New()
	bucket := object.NewBucket(d)
	Probe(t.Context(), object.NewBucket(&limited{Driver: d, del: object.ErrNotWritable}))
	if len(probesIn(t, d)) != 1 {
		t.Fatal("no probe was left")
	}
	repo, err := Init(t.Context(), bucket, InitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	const foreign = "probe/notes"
	if err := bucket.PutBytes(t.Context(), foreign, nil); err != nil {
		t.Fatal(err)
	}
	sweep := func(after time.Duration, deny error) (PruneReport, int) {
		t.Helper()
		r, err := Open(t.Context(), object.NewBucket(&limited{Driver: d, del: deny}), OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		plan, err := r.PlanPrune(t.Context(), PruneOptions{Now: func() time.Time { return time.Now().Add(after) }})
		if err != nil {
			t.Fatal(err)
		}
		report, err := r.Prune(t.Context(), plan)
		if err != nil {
			t.Fatal(err)
		}
		return report, len(probesIn(t, d))
	}
	if r, left := sweep(0, nil); left != 2 || len(r.Problems) != 0 {
		t.Errorf("a probe under way was taken: %d left, %v", left, r.Problems)
	}
	if r, left := sweep(2*time.Hour, object.ErrRetained); left != 2 || len(r.Problems) != 0 {
		t.Errorf("retained: %d left, %v", left, r.Problems)
	}
	if r, left := sweep(2*time.Hour, object.ErrNotWritable); left != 2 || len(r.Problems) != 1 {
		t.Errorf("denied: %d left, %v", left, r.Problems)
	}
	if r, left := sweep(2*time.Hour, nil); left != 1 || len(r.Problems) != 0 || !slices.Equal(probesIn(t, d), []string{foreign}) {
		t.Errorf("%d left, %v", left, r.Problems)
	}
	if _, err := repo.Points(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestProbeEnds: a store that does not answer does not hold a probe up.
func TestProbeEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	report := Probe(ctx, object.NewBucket(mem.New()))
	if len(report) != 4 || report.Usable() || !errors.Is(report[0].Err, context.Canceled) {
		t.Errorf("%+v", report)
	}
}
