package state

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"jetkeep/service/natstest"
	"jetkeep/store"
)

func open(t *testing.T) func() *Store {
	server := natstest.Start(t)
	return func() *Store {
		js, err := jetstream.New(server.Connect())
		if err != nil {
			t.Fatal(err)
		}
		s, err := Open(natstest.Context(t), js, Options{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
}

// TestInstancesAgree has many instances begin at the same moment.
func TestInstancesAgree(t *testing.T) {
	t.Parallel()
	connect := open(t)
	const n = 8
	var xkeys, writers, bound [n]string
	var wg sync.WaitGroup
	for i := range n {
		s := connect()
		wg.Go(func() {
			pair, err := s.XKey(natstest.Context(t))
			if err == nil {
				xkeys[i], err = pair.PublicKey()
			}
			if err == nil {
				writers[i], err = s.EnsureWriterKey(natstest.Context(t), "r1", func() (string, error) { return fmt.Sprint("key ", i), nil })
			}
			if err != nil {
				t.Error(err)
			}
			mismatch := new(MismatchError)
			if err := s.Bind(natstest.Context(t), "local", fmt.Sprint("id", i), ""); errors.As(err, &mismatch) {
				bound[i] = mismatch.Want
			} else if err == nil {
				bound[i] = fmt.Sprint("id", i)
			} else {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i := range n {
		if xkeys[i] != xkeys[0] || xkeys[i] == "" || writers[i] != writers[0] || bound[i] != bound[0] || bound[i] == "" {
			t.Errorf("instance %d has %s, %s, %s", i, xkeys[i], writers[i], bound[i])
		}
	}
	s := connect()
	if id, err := s.RepositoryID(natstest.Context(t), "local"); err != nil || id != bound[0] {
		t.Errorf("name: %s %v", id, err)
	}
	if err := s.Bind(natstest.Context(t), "local", bound[0], ""); err != nil {
		t.Errorf("the same again: %v", err)
	}
	mismatch := new(MismatchError)
	if err := s.Bind(natstest.Context(t), "local", bound[0], "age1new"); !errors.As(err, &mismatch) || mismatch.Key != "recipient."+bound[0] {
		t.Errorf("the same with a key: %v", err)
	}
	if _, err := s.RepositoryID(natstest.Context(t), "other"); !errors.Is(err, ErrNone) {
		t.Errorf("name that was never used: %v", err)
	}
	if _, err := s.WriterKey(natstest.Context(t), "r2"); !errors.Is(err, ErrNone) {
		t.Errorf("writer key that was never made: %v", err)
	}
	boom := errors.New("boom")
	if _, err := s.EnsureWriterKey(natstest.Context(t), "r2", func() (string, error) { return "", boom }); !errors.Is(err, boom) {
		t.Errorf("writer key that cannot be made: %v", err)
	}
}

// TestHeadsOnlyRise: an instance that is late does not take back what is known.
func TestHeadsOnlyRise(t *testing.T) {
	t.Parallel()
	s := open(t)()
	for _, h := range []store.Head{{Number: 3, Hash: "c"}, {Number: 2, Hash: "b"}, {Number: 3, Hash: "x"}} {
		if err := s.AdvanceHead(natstest.Context(t), "r1", "aa", h); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range []string{"r1", "r2"} {
		if err := s.AdvanceHead(natstest.Context(t), r, "bb", store.Head{Number: 7, Hash: r}); err != nil {
			t.Fatal(err)
		}
	}
	heads, err := s.Heads(natstest.Context(t), "r1")
	if err != nil || len(heads) != 2 || heads["aa"] != (store.Head{Number: 3, Hash: "c"}) || heads["bb"].Hash != "r1" {
		t.Errorf("heads: %v %v", heads, err)
	}
	if h, err := s.Head(natstest.Context(t), "r2", "bb"); err != nil || h.Hash != "r2" {
		t.Errorf("head: %v %v", h, err)
	}
	if heads, err = s.Heads(natstest.Context(t), "none"); err != nil || len(heads) != 0 {
		t.Errorf("heads of no repository: %v %v", heads, err)
	}
}

func TestDamagedPoints(t *testing.T) {
	t.Parallel()
	s := open(t)()
	never := func(string) bool { return false }
	for _, step := range []struct {
		found []string
		good  func(string) bool
		want  []string
	}{
		{[]string{"b", "a"}, never, []string{"a", "b"}},
		{nil, never, []string{"a", "b"}},
		{[]string{"c", "a"}, func(id string) bool { return id == "b" }, []string{"a", "c"}},
		{nil, func(string) bool { return true }, nil},
	} {
		if err := s.NoteDamaged(natstest.Context(t), "r1", step.found, step.good); err != nil {
			t.Fatal(err)
		}
		got, err := s.Damaged(natstest.Context(t), "r1")
		if err != nil || !slices.Equal(got, step.want) {
			t.Errorf("damaged: %v %v, want %v", got, err, step.want)
		}
	}
}
