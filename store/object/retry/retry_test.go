package retry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"jetkeep/store/object"
	"jetkeep/store/object/faulty"
	"jetkeep/store/object/mem"
	"jetkeep/store/object/objecttest"
	"jetkeep/store/object/retry"
)

var errAway = fmt.Errorf("%w: connection refused", object.ErrUnavailable)

func TestDriver(t *testing.T) {
	objecttest.Run(t, func(*testing.T) object.Driver { return retry.New(mem.New(), retry.Policy{}) })
}

// quick lets many tries pass within a test.
var quick = retry.Policy{Base: time.Millisecond, Max: 2 * time.Millisecond}

func bucket(t *testing.T, faults ...faulty.Fault) (*object.Bucket, *mem.Driver) {
	m := mem.New()
	for i := range faults {
		if faults[i].Err == nil {
			faults[i].Err = errAway
		}
	}
	return object.NewBucket(retry.New(faulty.New(t, m, faults...), quick)), m
}

func TestEveryOperationIsTriedAgain(t *testing.T) {
	ctx := t.Context()
	var faults []faulty.Fault
	for _, op := range []faulty.Op{faulty.Put, faulty.Get, faulty.Stat, faulty.List, faulty.Delete} {
		faults = append(faults, faulty.Fault{Op: op, Times: 3})
	}
	b, _ := bucket(t, faults...)
	if err := b.PutBytes(ctx, "a", []byte("text")); err != nil {
		t.Error(err)
	}
	if got, err := b.ReadAll(ctx, "a", 10); err != nil || string(got) != "text" {
		t.Errorf("read %q, %v", got, err)
	}
	if _, err := b.Stat(ctx, "a"); err != nil {
		t.Error(err)
	}
	n := 0
	for _, err := range b.List(ctx, "") {
		if n++; err != nil {
			t.Error(err)
		}
	}
	if err := b.Delete(ctx, "a"); err != nil || n != 1 {
		t.Errorf("listed %d, %v", n, err)
	}
}

func TestWhatIsFinalIsNotTriedAgain(t *testing.T) {
	for _, final := range []error{object.ErrNotExist, object.ErrNotWritable, object.ErrNoSpace, errors.New("else")} {
		calls := 0
		err := quick.Do(t.Context(), "put", "a", func(context.Context) error {
			calls++
			return final
		})
		if calls != 1 || !errors.Is(err, final) {
			t.Errorf("%v: %d calls, %v", final, calls, err)
		}
	}
}

func TestALostAnswerIsNoSecondObject(t *testing.T) {
	b, _ := bucket(t, faulty.Fault{Op: faulty.Put, Kind: faulty.LoseReply})
	if err := b.PutBytes(t.Context(), "a", []byte("mine")); err != nil {
		t.Errorf("what was stored is taken for somebody else's: %v", err)
	}
	if err := b.PutBytes(t.Context(), "a", []byte("mine")); !errors.Is(err, object.ErrExist) {
		t.Errorf("a Put without a doubt: %v", err)
	}
}

// other stores another content in between, as another writer would.
type other struct {
	object.Driver
	content string
	done    bool
}

func (o *other) Put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	if !o.done {
		o.done = true
		if err := o.Driver.Put(ctx, name, strings.NewReader(o.content), int64(len(o.content))); err != nil {
			return err
		}
		return errAway
	}
	return o.Driver.Put(ctx, name, body, size)
}

func TestAnothersObjectIsNotOurs(t *testing.T) {
	for _, content := range []string{"they", "their longer one", ""} {
		b := object.NewBucket(retry.New(&other{Driver: mem.New(), content: content}, quick))
		if err := b.PutBytes(t.Context(), "a", []byte("mine")); !errors.Is(err, object.ErrExist) {
			t.Errorf("%q is there: %v", content, err)
		}
	}
}

// breaking delivers at most n bytes of each Get and breaks off then.
type breaking struct {
	object.Driver
	n    int64
	gets int
}

func (d *breaking) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	d.gets++
	r, err := d.Driver.Get(ctx, name, offset, length)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{&brokenOff{r, d.n}, r}, nil
}

type brokenOff struct {
	r    io.Reader
	left int64
}

func (b *brokenOff) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, errAway
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

func TestAReaderGoesOnWhereItWas(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789"), 100)
	d := &breaking{Driver: mem.New(), n: 37}
	b := object.NewBucket(retry.New(d, quick))
	if err := b.PutBytes(t.Context(), "a", content); err != nil {
		t.Fatal(err)
	}
	got, err := b.ReadAll(t.Context(), "a", 2000)
	if err != nil || !bytes.Equal(got, content) || d.gets < len(content)/37 {
		t.Errorf("read %d bytes in %d pieces, %v", len(got), d.gets, err)
	}
	r, err := b.Open(t.Context(), "a", 5, 500)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, content[5:505]) {
		t.Errorf("range: %d bytes, %v", len(got), err)
	}
	// One that never delivers a byte ends all the same.
	d.n = 0
	if _, err := b.ReadAll(t.Context(), "a", 2000); !errors.Is(err, object.ErrUnavailable) {
		t.Errorf("without a byte: %v", err)
	}
}

func TestTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		try := func(p retry.Policy, ctx context.Context, err error) (calls int, took time.Duration, out error) {
			begin := time.Now()
			out = p.Do(ctx, "stat", "a", func(context.Context) error {
				calls++
				return err
			})
			return calls, time.Since(begin), out
		}
		calls, took, err := try(retry.Policy{}, t.Context(), errAway)
		if calls >= retry.DefaultAttempts || calls < 10 || !errors.Is(err, errAway) || took < 2*time.Minute || took > retry.DefaultBudget {
			t.Errorf("defaults: %d calls in %s, %v", calls, took, err)
		}
		calls, took, err = try(retry.Policy{Attempts: 1000, Budget: time.Minute}, t.Context(), errAway)
		if took > time.Minute || took < 30*time.Second || !errors.Is(err, object.ErrUnavailable) {
			t.Errorf("budget: %d calls in %s, %v", calls, took, err)
		}
		asks := &object.WaitError{After: 40 * time.Second, Err: fmt.Errorf("%w: 429", object.ErrThrottled)}
		calls, took, err = try(retry.Policy{Attempts: 3}, t.Context(), asks)
		if calls != 3 || took < 80*time.Second || took > 90*time.Second || !errors.Is(err, object.ErrThrottled) {
			t.Errorf("asked to wait: %d calls in %s, %v", calls, took, err)
		}
		// Longer than there is time for: known at once.
		asks.After = time.Hour
		if calls, took, _ = try(retry.Policy{}, t.Context(), asks); calls != 1 || took > 0 {
			t.Errorf("asked to wait for too long: %d calls in %s", calls, took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if calls, took, err = try(retry.Policy{Base: time.Second}, ctx, errAway); took > 5*time.Second || !errors.Is(err, errAway) {
			t.Errorf("deadline: %d calls in %s, %v", calls, took, err)
		}
		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(700*time.Millisecond, cancel)
		if calls, took, err = try(retry.Policy{Base: time.Second}, ctx, errAway); took != 700*time.Millisecond || !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %d calls in %s, %v", calls, took, err)
		}
	})
}

func TestLogHasEachTry(t *testing.T) {
	var seen []int
	p := quick
	p.Attempts, p.Log = 4, func(a retry.Attempt) { seen = append(seen, a.Number) }
	err := p.Do(t.Context(), "put", "a", func(context.Context) error { return errAway })
	if fmt.Sprint(seen) != "[1 2 3]" || !strings.Contains(err.Error(), "tried 4 times") {
		t.Errorf("told of tries %v, %v", seen, err)
	}
}

// bulky deletes many at once, and some only at the second time.
type bulky struct {
	object.Driver
	asked [][]string
}

func (b *bulky) DeleteMany(_ context.Context, names []string) ([]error, error) {
	b.asked = append(b.asked, names)
	out := make([]error, len(names))
	switch len(b.asked) {
	case 1:
		return nil, fmt.Errorf("%w: all of it", object.ErrUnavailable)
	case 2:
		out[1] = fmt.Errorf("%w: this one", object.ErrThrottled)
	}
	for i, name := range names {
		if name == "retained" {
			out[i] = object.ErrRetained
		}
	}
	return out, nil
}

// Of many deletions those are tried again that may pass, and no others.
func TestDeleteManyAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := &bulky{Driver: mem.New()}
		errs := object.NewBucket(retry.New(next, retry.Policy{})).DeleteAll(t.Context(), []string{"a", "b", "retained"})
		if errs[0] != nil || errs[1] != nil || !errors.Is(errs[2], object.ErrRetained) {
			t.Error(errs)
		}
		if got := fmt.Sprint(next.asked); got != "[[a b retained] [a b retained] [b]]" {
			t.Error(got)
		}
		never := object.NewBucket(retry.New(&bulky{Driver: mem.New()}, retry.Policy{Attempts: 1}))
		for _, err := range never.DeleteAll(t.Context(), []string{"a", "b"}) {
			if !errors.Is(err, object.ErrUnavailable) {
				t.Error(err)
			}
		}
		// One that cannot is asked for each.
		plain := mem.New()
		if err := plain.Put(t.Context(), "a", strings.NewReader("a"), 1); err != nil {
			t.Fatal(err)
		}
		if errs := object.NewBucket(retry.New(plain, retry.Policy{})).DeleteAll(t.Context(), []string{"a", "b"}); errors.Join(errs...) != nil {
			t.Error(errs)
		}
		if _, err := plain.Stat(t.Context(), "a"); !errors.Is(err, object.ErrNotExist) {
			t.Error("it is there:", err)
		}
	})
}
