package object

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
)

// A liar is a driver that breaks its contract.
type liar struct {
	pages [][]Info
	more  bool
	stat  Info
	body  string
}

func (*liar) Put(context.Context, string, io.ReaderAt, int64) error { return nil }
func (*liar) Delete(context.Context, string) error                  { return nil }
func (l *liar) Stat(context.Context, string) (Info, error)          { return l.stat, nil }

func (l *liar) Get(context.Context, string, int64, int64) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(l.body)), nil
}

func (l *liar) List(context.Context, string, string, int) ([]Info, bool, error) {
	if len(l.pages) == 0 {
		return nil, l.more, nil
	}
	page := l.pages[0]
	l.pages = l.pages[1:]
	return page, true, nil
}

func infos(names ...string) []Info {
	var out []Info
	for _, n := range names {
		out = append(out, Info{Name: n})
	}
	return out
}

func listAll(t *testing.T, d Driver, prefix string) (n int, err error) {
	t.Helper()
	for _, err := range NewBucket(d).List(t.Context(), prefix) {
		if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

func TestListRefusesWhatBreaksTheContract(t *testing.T) {
	for name, l := range map[string]*liar{
		"out of order":      {pages: [][]Info{infos("p/b", "p/a")}},
		"twice":             {pages: [][]Info{infos("p/a"), infos("p/a")}},
		"another prefix":    {pages: [][]Info{infos("p/a", "q/a")}},
		"empty page, more":  {more: true},
		"page before after": {pages: [][]Info{infos("p/b"), infos("p/a")}},
	} {
		if _, err := listAll(t, l, "p/"); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if n, err := listAll(t, &liar{pages: [][]Info{infos("p/a"), infos("p/b", "p/c")}}, "p/"); n != 3 || err != nil {
		t.Errorf("%d objects, %v", n, err)
	}
}

func TestReadsAreExact(t *testing.T) {
	b := NewBucket(&liar{body: "12345", stat: Info{Name: "other"}})
	if _, err := b.Stat(t.Context(), "x"); err == nil {
		t.Error("the description of another object was accepted")
	}
	// A driver that ignores the range: no byte more is delivered.
	r, err := b.Open(t.Context(), "x", 0, 3)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || string(got) != "123" {
		t.Errorf("read %q, %v", got, err)
	}
	// One whose connection closes early: never a short object.
	if r, err = b.Open(t.Context(), "x", 0, 6); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(r); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("early end: %v", err)
	}
}

func TestPutRefusesSizes(t *testing.T) {
	b := NewBucket(&liar{})
	if err := b.Put(t.Context(), "x", strings.NewReader(""), -1); err == nil {
		t.Error("a negative size was accepted")
	}
	if err := b.Put(t.Context(), "x", strings.NewReader(""), MaxSize+1); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
}

type wrapper struct{ Driver }

func (w wrapper) Unwrap() Driver { return w.Driver }

type atomicLiar struct{ liar }

func (*atomicLiar) AtomicCreate(context.Context) (bool, error) { return true, nil }

func TestAbilitiesAreFoundThroughWrappers(t *testing.T) {
	if ok, err := NewBucket(&liar{}).Atomic(t.Context()); ok || err != nil {
		t.Error("a driver without the ability has it")
	}
	if ok, err := NewBucket(wrapper{wrapper{&atomicLiar{}}}).Atomic(t.Context()); !ok || err != nil {
		t.Error("the ability is hidden by wrappers")
	}
	if err := NewBucket(wrapper{&liar{}}).Close(); err != nil {
		t.Errorf("closing what needs none: %v", err)
	}
}
