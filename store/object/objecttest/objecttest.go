// Package objecttest is the conformance suite that every driver of
// jetkeep/store/object passes.
package objecttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"jetkeep/store/object"
)

// Run tests drivers; open returns a new, empty one each time.
func Run(t *testing.T, open func(t *testing.T) object.Driver) {
	tests := []struct {
		name string
		run  func(*testing.T, *object.Bucket)
	}{
		{"RoundTrip", roundTrip},
		{"Missing", missing},
		{"CreateOnly", createOnly},
		{"ConcurrentCreate", concurrentCreate},
		{"Ranges", ranges},
		{"ListOrder", listOrder},
		{"ListPages", listPages},
		{"ListLimit", listLimit(open)},
		{"Delete", deletes},
		{"DeleteAll", deletesAll},
		{"CancelledWrites", cancelledWrites},
		{"CancelledOperations", cancelledOperations},
		{"ShortBody", shortBody},
		{"FailingBody", failingBody},
		{"OddNames", oddNames},
		{"InvalidNames", invalidNames},
		{"ReadInto", readInto},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := object.NewBucket(open(t))
			tt.run(t, b)
			if err := b.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
}

func data(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, uint64(n)))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func put(t *testing.T, b *object.Bucket, name string, content []byte) {
	t.Helper()
	if err := b.PutBytes(t.Context(), name, content); err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, b *object.Bucket, name string, content []byte) {
	t.Helper()
	got, err := b.ReadAll(t.Context(), name, int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, content) {
		t.Fatalf("%s: read %d bytes that differ from the %d written", name, len(got), len(content))
	}
	info, err := b.Stat(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size != int64(len(content)) || info.Name != name || info.Modified.IsZero() {
		t.Fatalf("stat: %+v, content has %d bytes", info, len(content))
	}
}

func names(t *testing.T, b *object.Bucket, prefix string) []string {
	t.Helper()
	out := []string{}
	for info, err := range b.List(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, info.Name)
	}
	return out
}

func roundTrip(t *testing.T, b *object.Bucket) {
	for i, n := range []int{0, 1, 4095, 1<<20 + 1, 20 << 20} {
		name := fmt.Sprintf("packs/%02d/x", i)
		content := data(uint64(i), n)
		put(t, b, name, content)
		want(t, b, name, content)
	}
	if got := len(names(t, b, "")); got != 5 {
		t.Errorf("listed %d objects, want 5", got)
	}
}

func missing(t *testing.T, b *object.Bucket) {
	ctx := t.Context()
	put(t, b, "there/is", []byte("x"))
	for _, name := range []string{"no", "there/no", "no/no/no", "there"} {
		if _, err := b.Stat(ctx, name); !errors.Is(err, object.ErrNotExist) {
			t.Errorf("stat %s: %v", name, err)
		}
		if _, err := b.ReadAll(ctx, name, 10); !errors.Is(err, object.ErrNotExist) {
			t.Errorf("read %s: %v", name, err)
		}
		if _, err := b.Open(ctx, name, 0, 1); !errors.Is(err, object.ErrNotExist) {
			t.Errorf("open %s: %v", name, err)
		}
	}
	if got := names(t, b, "no/"); len(got) != 0 {
		t.Errorf("listed %v", got)
	}
}

func createOnly(t *testing.T, b *object.Bucket) {
	put(t, b, "a/b", []byte("first"))
	for _, again := range []string{"second", "first", ""} {
		if err := b.PutBytes(t.Context(), "a/b", []byte(again)); !errors.Is(err, object.ErrExist) {
			t.Errorf("second put: %v", err)
		}
	}
	want(t, b, "a/b", []byte("first"))
	if got := names(t, b, ""); !slices.Equal(got, []string{"a/b"}) {
		t.Errorf("listed %v", got)
	}
}

func concurrentCreate(t *testing.T, b *object.Bucket) {
	const writers = 16
	atomically, err := b.Atomic(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for round := range 5 {
		name := fmt.Sprintf("race/%d", round)
		var won atomic.Int64
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				err := b.PutBytes(t.Context(), name, data(uint64(w), 10_000))
				if err == nil {
					won.Add(1)
				} else if !errors.Is(err, object.ErrExist) {
					t.Errorf("writer %d: %v", w, err)
				}
			})
		}
		wg.Wait()
		if n := won.Load(); n < 1 || atomically && n != 1 {
			t.Errorf("%d writers of %s succeeded", n, name)
		}
		got, err := b.ReadAll(t.Context(), name, 10_000)
		if err != nil {
			t.Fatal(err)
		}
		whole := false
		for w := range writers {
			whole = whole || bytes.Equal(got, data(uint64(w), 10_000))
		}
		if !whole {
			t.Errorf("%s is no writer's content", name)
		}
	}
}

func ranges(t *testing.T, b *object.Bucket) {
	content := data(7, 100_000)
	put(t, b, "r", content)
	for _, r := range [][2]int{{0, 0}, {0, 1}, {0, 100_000}, {99_999, 1}, {50_000, 1234}, {100_000, 0}} {
		got, err := readRange(t.Context(), b, "r", int64(r[0]), int64(r[1]))
		if err != nil || !bytes.Equal(got, content[r[0]:r[0]+r[1]]) {
			t.Errorf("range %v: %d bytes, %v", r, len(got), err)
		}
	}
	for _, r := range [][2]int64{{0, 100_001}, {99_999, 2}, {100_000, 1}, {200_000, 1}} {
		if _, err := readRange(t.Context(), b, "r", r[0], r[1]); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("range %v beyond the end: %v", r, err)
		}
	}
	for _, r := range [][2]int64{{-1, 1}, {0, -1}} {
		if _, err := b.Open(t.Context(), "r", r[0], r[1]); err == nil {
			t.Errorf("range %v was accepted", r)
		}
	}
}

func readRange(ctx context.Context, b *object.Bucket, name string, off, n int64) ([]byte, error) {
	r, err := b.Open(ctx, name, off, n)
	if err != nil {
		return nil, err
	}
	got, err := io.ReadAll(r)
	return got, errors.Join(err, r.Close())
}

func listOrder(t *testing.T, b *object.Bucket) {
	all := []string{"a-b/x", "a/b/c", "a/b/d", "a/c", "a0", "a.b", "b/a", "b0", "B", "a/b-c", "a/b.c/x", "_"}
	for _, n := range all {
		put(t, b, n, []byte(n))
	}
	slices.Sort(all)
	for _, prefix := range []string{"", "a", "a/", "a/b", "a/b/", "a.", "b", "c", "a/b/c", "a-b/"} {
		wanted := []string{}
		for _, n := range all {
			if strings.HasPrefix(n, prefix) {
				wanted = append(wanted, n)
			}
		}
		if got := names(t, b, prefix); !slices.Equal(got, wanted) {
			t.Errorf("prefix %q: %v, want %v", prefix, got, wanted)
		}
	}
}

func listPages(t *testing.T, b *object.Bucket) {
	var all []string
	for i := range object.PageSize + 150 {
		name := fmt.Sprintf("p/%x/%04d", i%7, i)
		all = append(all, name)
		put(t, b, name, nil)
	}
	slices.Sort(all)
	if got := names(t, b, "p/"); !slices.Equal(got, all) {
		t.Errorf("listed %d of %d, or in another order", len(got), len(all))
	}
	n := 0
	for _, err := range b.List(t.Context(), "p/") {
		if n++; err != nil || n == 3 {
			break // a caller may stop
		}
	}
}

// listLimit goes below the Bucket, which only asks for full pages.
func listLimit(open func(t *testing.T) object.Driver) func(*testing.T, *object.Bucket) {
	return func(t *testing.T, _ *object.Bucket) {
		d := open(t)
		var all []string
		for _, n := range []string{"a/1", "a/2", "a-3", "b/4/5", "b/4/6", "c"} {
			put(t, object.NewBucket(d), n, []byte(n))
			all = append(all, n)
		}
		slices.Sort(all)
		for limit := 1; limit <= len(all)+1; limit++ {
			var got []string
			after, more := "", true
			for more {
				page, m, err := d.List(t.Context(), "", after, limit)
				if err != nil || len(page) > limit || m && len(page) == 0 {
					t.Fatalf("limit %d: page of %d, more %v, %v", limit, len(page), m, err)
				}
				for _, info := range page {
					got, after = append(got, info.Name), info.Name
				}
				more = m
			}
			if !slices.Equal(got, all) {
				t.Errorf("limit %d: %v, want %v", limit, got, all)
			}
		}
	}
}

// deletesAll deletes many at once: small ones, large ones and some that are not
// there, and nothing else.
func deletesAll(t *testing.T, b *object.Bucket) {
	var all []string
	for i := range 30 {
		name := fmt.Sprintf("packs/%02d/a=+@x", i)
		size := 100
		if i == 7 {
			size = 3 << 20
		}
		put(t, b, name, data(uint64(i), size))
		all = append(all, name)
	}
	put(t, b, "packs/stays", []byte("stays"))
	all = append(all, "packs/never/was")
	for i, err := range b.DeleteAll(t.Context(), all) {
		if err != nil {
			t.Errorf("%s: %v", all[i], err)
		}
	}
	for _, name := range all {
		if _, err := b.Stat(t.Context(), name); !errors.Is(err, object.ErrNotExist) {
			t.Errorf("%s is there: %v", name, err)
		}
	}
	want(t, b, "packs/stays", []byte("stays"))
	if errs := b.DeleteAll(t.Context(), nil); len(errs) != 0 {
		t.Error(errs)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range b.DeleteAll(ctx, []string{"packs/stays", "packs/never/was"}) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	}
	for _, err := range b.DeleteAll(t.Context(), []string{"packs/stays", "../x"})[1:] {
		if !errors.Is(err, object.ErrInvalidName) {
			t.Errorf("an invalid name: %v", err)
		}
	}
}

func deletes(t *testing.T, b *object.Bucket) {
	put(t, b, "d/1", []byte("1"))
	put(t, b, "d/2", []byte("2"))
	for range 2 { // gone already is no error
		if err := b.Delete(t.Context(), "d/1"); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Delete(t.Context(), "never/was"); err != nil {
		t.Fatal(err)
	}
	if got := names(t, b, "d/"); !slices.Equal(got, []string{"d/2"}) {
		t.Errorf("listed %v", got)
	}
	put(t, b, "d/1", []byte("again"))
	want(t, b, "d/1", []byte("again"))
}

// cancelBody cancels when half of it has been read.
type cancelBody struct {
	io.ReaderAt
	half   int64
	cancel func()
}

func (c *cancelBody) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > c.half {
		c.cancel()
	}
	return c.ReaderAt.ReadAt(p, off)
}

func cancelledWrites(t *testing.T, b *object.Bucket) {
	const size = 8 << 20
	content := data(3, size)
	for _, at := range []int64{0, 1, size / 2, size - 1} {
		ctx, cancel := context.WithCancel(t.Context())
		body := &cancelBody{bytes.NewReader(content), at, cancel}
		if err := b.Put(ctx, "cancelled", body, size); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled at %d: %v", at, err)
		}
		cancel()
		if got := names(t, b, ""); len(got) != 0 {
			t.Fatalf("cancelled at %d left %v", at, got)
		}
	}
	put(t, b, "cancelled", content) // the name is still free
	want(t, b, "cancelled", content)
}

func cancelledOperations(t *testing.T, b *object.Bucket) {
	put(t, b, "c", []byte("x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, statErr := b.Stat(ctx, "c")
	_, openErr := b.Open(ctx, "c", 0, 1)
	_, readErr := b.ReadAll(ctx, "c", 1)
	var listErr error
	for _, err := range b.List(ctx, "") {
		listErr = err
	}
	errs := map[string]error{
		"put": b.PutBytes(ctx, "d", nil), "delete": b.Delete(ctx, "c"),
		"stat": statErr, "open": openErr, "read": readErr, "list": listErr,
	}
	for op, err := range errs {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s with a cancelled context: %v", op, err)
		}
	}
	want(t, b, "c", []byte("x"))
}

func shortBody(t *testing.T, b *object.Bucket) {
	err := b.Put(t.Context(), "s", bytes.NewReader(make([]byte, 99)), 100)
	if err == nil {
		t.Error("a body of 99 bytes was accepted as 100")
	}
	if got := names(t, b, ""); len(got) != 0 {
		t.Errorf("left %v", got)
	}
	// A longer body is only read as far as the size says.
	if err := b.Put(t.Context(), "s", bytes.NewReader([]byte("abcdef")), 3); err != nil {
		t.Fatal(err)
	}
	want(t, b, "s", []byte("abc"))
}

type failBody struct{ err error }

func (f failBody) ReadAt(p []byte, off int64) (int, error) {
	if off >= 1<<20 {
		return 0, f.err
	}
	return len(p), nil
}

func failingBody(t *testing.T, b *object.Bucket) {
	broken := errors.New("disk on fire")
	if err := b.Put(t.Context(), "f", failBody{broken}, 4<<20); !errors.Is(err, broken) {
		t.Errorf("failing body: %v", err)
	}
	if got := names(t, b, ""); len(got) != 0 {
		t.Errorf("left %v", got)
	}
}

func oddNames(t *testing.T, b *object.Bucket) {
	odd := []string{
		"-", "--help", "a..b", "x/y.tmp", "con", "A", "=+@", "a/...b"[:2] + "b...", strings.Repeat("n", object.MaxPart),
		strings.Repeat("d/", 150) + "deep", "20261122T210555Z-abcdefgh.0001", "%41"[1:], "tmp/x",
	}
	for i, n := range odd {
		put(t, b, n, data(uint64(i), 10))
	}
	for i, n := range odd {
		want(t, b, n, data(uint64(i), 10))
	}
	slices.Sort(odd)
	if got := names(t, b, ""); !slices.Equal(got, odd) {
		t.Errorf("listed %q, want %q", got, odd)
	}
}

func invalidNames(t *testing.T, b *object.Bucket) {
	ctx := t.Context()
	for _, n := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b", ".hidden", "a b", "a\x00", "a\n", "ä", `a\b`,
		"a%41", "a:b", "a*", "a?", strings.Repeat("n", object.MaxPart+1), strings.Repeat("a/", 256) + "a",
	} {
		_, statErr := b.Stat(ctx, n)
		_, readErr := b.ReadAll(ctx, n, 1)
		for op, err := range map[string]error{"put": b.PutBytes(ctx, n, nil), "stat": statErr, "read": readErr, "delete": b.Delete(ctx, n)} {
			if !errors.Is(err, object.ErrInvalidName) {
				t.Errorf("%s %q: %v", op, n, err)
			}
		}
	}
	for _, err := range b.List(ctx, "../") {
		if !errors.Is(err, object.ErrInvalidName) {
			t.Errorf("list ../: %v", err)
		}
	}
}

func readInto(t *testing.T, b *object.Bucket) {
	put(t, b, "i", []byte("12345"))
	put(t, b, "empty", nil)
	buf := make([]byte, 5)
	if err := b.ReadInto(t.Context(), "i", buf); err != nil || string(buf) != "12345" {
		t.Errorf("exact: %q, %v", buf, err)
	}
	if err := b.ReadInto(t.Context(), "empty", nil); err != nil {
		t.Errorf("empty: %v", err)
	}
	if err := b.ReadInto(t.Context(), "i", make([]byte, 6)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("object too short: %v", err)
	}
	if err := b.ReadInto(t.Context(), "empty", make([]byte, 1)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("object empty: %v", err)
	}
	if err := b.ReadInto(t.Context(), "i", make([]byte, 4)); !errors.Is(err, object.ErrTooLarge) {
		t.Errorf("object too long: %v", err)
	}
	if _, err := b.ReadAll(t.Context(), "i", 4); !errors.Is(err, object.ErrTooLarge) {
		t.Errorf("object over the limit: %v", err)
	}
}
