package store

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"jetkeep/store/object"
	"jetkeep/store/object/mem"
	"jetkeep/store/sign"
)

func newSigner(t testing.TB) *sign.Signer {
	t.Helper()
	seed, err := sign.Generate()
	if err != nil {
		t.Fatal(err)
	}
	s, err := sign.ParseSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A history is a repository, signed by a trusted key or by none, that somebody
// with all rights to its store, and no key, tampers with.
type history struct {
	t       *testing.T
	repo    *Repository
	driver  *mem.Driver
	bucket  *object.Bucket
	chain   string
	objects map[string][]byte // as they were
	heads   map[string]Head
}

func newHistory(t *testing.T, signed bool) *history {
	t.Helper()
	d := mem.New()
	b := object.NewBucket(d)
	if _, err := Init(t.Context(), b, InitOptions{}); err != nil {
		t.Fatal(err)
	}
	opt := OpenOptions{}
	if signed {
		opt.Signer = newSigner(t)
		trust, err := sign.NewTrust([]string{opt.Signer.Public()})
		if err != nil {
			t.Fatal(err)
		}
		opt.Trust = trust
	}
	r, err := Open(t.Context(), b, opt)
	if err != nil {
		t.Fatal(err)
	}
	h := &history{t: t, repo: r, driver: d, bucket: b, objects: map[string][]byte{}}
	for i := range 5 {
		mustSave(t, r, fmt.Sprintf("b.%04d", i+1), steps(rising(20+i, 20)), nil)
	}
	if h.chain, err = r.Chain("default", "ORDERS"); err != nil {
		t.Fatal(err)
	}
	for info, err := range b.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if h.objects[info.Name], err = b.ReadAll(t.Context(), info.Name, 1<<20); err != nil {
			t.Fatal(err)
		}
	}
	h.heads = h.verify(nil).Heads
	if h.heads[h.chain].Number != 5 {
		t.Fatalf("heads %v", h.heads)
	}
	return h
}

func (h *history) verify(heads map[string]Head) *VerifyReport {
	h.t.Helper()
	// Opened anew, so that nothing is remembered but what is handed in.
	r, err := Open(h.t.Context(), h.bucket, OpenOptions{Trust: h.repo.trust})
	if err != nil {
		h.t.Fatal(err)
	}
	rep, err := r.Verify(h.t.Context(), VerifyOptions{Heads: heads})
	if err != nil {
		h.t.Fatal(err)
	}
	return rep
}

func (h *history) log(n uint64) string { return entryName(h.chain, n) }

func (h *history) put(name string, data []byte) {
	h.t.Helper()
	if err := h.bucket.Delete(context.Background(), name); err != nil {
		h.t.Fatal(err)
	}
	if err := h.bucket.PutBytes(context.Background(), name, data); err != nil {
		h.t.Fatal(err)
	}
}

func (h *history) remove(names ...string) {
	h.t.Helper()
	for _, name := range names {
		if err := h.bucket.Delete(context.Background(), name); err != nil {
			h.t.Fatal(err)
		}
	}
}

// entry decodes an entry as it was, for the forger to change.
func (h *history) entry(n uint64) *entry {
	h.t.Helper()
	e, err := parseEntry(h.objects[h.log(n)])
	if err != nil {
		h.t.Fatal(err)
	}
	e.body = bytes.Clone(e.body)
	return e
}

// rewrite writes what the forger made of entry n, with right hashes, and the
// commit record with it.
func (h *history) rewrite(e *entry) {
	h.put(h.log(e.number), e.encode())
	if e.kind == entryPoint {
		h.put(commitName(e.task), e.encode())
	}
}

// forget makes a forger's forget entry at the end.
func (h *history) forget(id string) *entry {
	last := h.entry(5)
	return &entry{
		repository: last.repository, chain: h.chain, number: 6, previous: last.hash, kind: entryForget, task: "forged",
		time: time.Unix(1_800_000_000, 0).UTC(), codec: bodyJSON, critical: none, signature: none,
		body: fmt.Appendf(nil, `{"points":[%q]}`, id),
	}
}

type forgery struct {
	about string
	do    func(h *history)
	heads bool   // what was remembered outside is needed to find it
	names string // object, of which some problem
	says  string // says this
	reach []string
	hole  bool // in the log, though something else is named
	// points is how many restore points still count, if it matters.
	points int
}

func (f *forgery) run(t *testing.T, signed bool) {
	t.Helper()
	h := newHistory(t, signed)
	f.do(h)
	rep := h.verify(h.heads)
	name := strings.ReplaceAll(f.names, "LOG", "chains/"+h.chain)
	if !slices.ContainsFunc(rep.Problems, func(p Problem) bool { return p.Object == name && strings.Contains(p.Problem, f.says) }) {
		t.Errorf("%s: nobody says %q of %s: %v", f.about, f.says, name, rep.Problems)
	}
	if !slices.Equal(rep.Damaged, f.reach) {
		t.Errorf("%s: reaches %v, want %v: %v", f.about, rep.Damaged, f.reach, rep.Problems)
	}
	if _, kept := rep.Heads[h.chain]; kept == (strings.HasPrefix(f.names, "LOG") || f.hole) {
		t.Errorf("%s: the head would be remembered: %v", f.about, kept)
	}
	if f.points > 0 && rep.Points != f.points {
		t.Errorf("%s: %d restore points", f.about, rep.Points)
	}
	if own, err := h.repo.Verify(t.Context(), VerifyOptions{}); err != nil || own.OK() {
		t.Errorf("%s: who wrote it does not notice: %v", f.about, err)
	}
	if rep := h.verify(nil); rep.OK() != f.heads {
		t.Errorf("%s: without what was remembered: %v", f.about, rep.Problems)
	}
}

// Whatever somebody without a key does to a signed history is found and named.
func TestForgedHistory(t *testing.T) {
	other := newSigner(t)
	for _, f := range []forgery{
		{
			about: "an entry without a signature", do: func(h *history) { h.rewrite(h.forget("b.0002")) },
			names: "LOG/0000000000000006", says: "no signature", points: 5,
		}, {
			about: "an entry signed by somebody else",
			do: func(h *history) {
				e := h.forget("b.0002")
				e.signature, _ = other.Sign(e.head())
				h.rewrite(e)
			},
			names: "LOG/0000000000000006", says: "not signed by a trusted key", points: 5,
		}, {
			about: "another signature's value",
			do: func(h *history) {
				e := h.forget("b.0002")
				e.signature = h.entry(5).signature
				h.rewrite(e)
			},
			names: "LOG/0000000000000006", says: "does not fit", points: 5,
		}, {
			about: "an altered restore point",
			do: func(h *history) {
				e := h.entry(3)
				e.body = bytes.Replace(e.body, []byte(`"tags"`), []byte(`"togs"`), 1)
				e.body = bytes.Replace(e.body, []byte("2.15.2"), []byte("2.15.3"), 1)
				h.rewrite(e)
			},
			names: "LOG/0000000000000003", says: "replaced", reach: []string{"b.0003"},
		}, {
			about: "an altered restore point at the end",
			do: func(h *history) {
				e := h.entry(5)
				e.body = bytes.Replace(e.body, []byte("2.15.2"), []byte("2.15.3"), 1)
				h.rewrite(e)
			},
			names: "LOG/0000000000000005", says: "rewritten", reach: []string{"b.0005"},
		}, {
			about: "an altered commit record only",
			do: func(h *history) {
				e := h.entry(4)
				e.body = bytes.Replace(e.body, []byte("2.15.2"), []byte("2.15.3"), 1)
				h.put(commitName("b.0004"), e.encode())
			},
			names: "commits/b.0004", says: "is not what entry 4", reach: []string{"b.0004"},
		}, {
			about: "an entry replayed at the end", do: func(h *history) { h.put(h.log(6), h.objects[h.log(2)]) },
			names: "LOG/0000000000000006", says: "is entry 2 of chain",
		}, {
			about: "an entry replayed in place of another", do: func(h *history) { h.put(h.log(4), h.objects[h.log(2)]) },
			names: "LOG/0000000000000004", says: "is entry 2 of chain",
		}, {
			about: "a commit record in place of another", do: func(h *history) { h.put(commitName("b.0004"), h.objects[commitName("b.0002")]) },
			names: "commits/b.0004", says: "point b.0002", reach: []string{"b.0004"},
		}, {
			about: "the newest restore point taken away", do: func(h *history) { h.remove(h.log(5), commitName("b.0005")) },
			heads: true, names: "LOG/0000000000000005", says: "rolled back",
		}, {
			about: "the newest two taken away",
			do:    func(h *history) { h.remove(h.log(5), h.log(4), commitName("b.0005"), commitName("b.0004")) },
			heads: true, names: "LOG/0000000000000005", says: "rolled back",
		}, {
			about: "the end of the log taken away", do: func(h *history) { h.remove(h.log(5)) },
			names: "LOG/0000000000000005", says: "missing from the log",
		}, {
			about: "an entry within taken away", do: func(h *history) { h.remove(h.log(2), commitName("b.0002")) },
			names: "LOG/0000000000000002", says: "missing from the log",
		}, {
			about: "an entry at which the end is looked for taken away", do: func(h *history) { h.remove(h.log(4), commitName("b.0004")) },
			names: "LOG/0000000000000004", says: "missing from the log",
		}, {
			about: "all of the log taken away",
			do:    func(h *history) { h.remove(h.log(1), h.log(2), h.log(3), h.log(4), h.log(5)) },
			names: "LOG/0000000000000001", says: "missing from the log",
		}, {
			about: "a restore point slipped in",
			do: func(h *history) {
				e := h.entry(5)
				e.task, e.body = "b.0009", bytes.ReplaceAll(e.body, []byte("b.0005"), []byte("b.0009"))
				h.put(commitName(e.task), e.encode())
			},
			names: "commits/b.0009", says: "says that it is entry 5", reach: []string{"b.0009"},
		}, {
			about: "an entry of another repository",
			do: func(h *history) {
				e := h.forget("b.0002")
				e.repository = "another"
				h.rewrite(e)
			},
			names: "LOG/0000000000000006", says: "belongs to repository another",
		}, {
			about: "an entry far away", do: func(h *history) {
				e := h.forget("b.0002")
				e.number = 1e15
				h.rewrite(e)
			},
			names: "LOG/1000000000000000", says: "far beyond",
		},
	} {
		f.run(t, true)
	}
}

// Of an entry and its copy the one that is signed counts.
func TestForgedSignatureAtTheEnd(t *testing.T) {
	h := newHistory(t, true)
	e := h.entry(5)
	e.signature = h.entry(4).signature
	h.put(h.log(5), e.encode())
	rep := h.verify(nil)
	if len(rep.Damaged) != 0 || len(rep.Problems) != 1 || rep.Problems[0].Object != h.log(5) || rep.Points != 5 {
		t.Errorf("%+v", rep)
	}
}

// Without signatures a forger can do more, but not change what was remembered
// outside, nor one entry without the next.
func TestForgedHistoryWithoutSignatures(t *testing.T) {
	altered := func(h *history, n uint64) *entry {
		e := h.entry(n)
		e.body = bytes.Replace(e.body, []byte("2.15.2"), []byte("2.15.3"), 1)
		return e
	}
	for _, f := range []forgery{
		{
			about: "an altered restore point within", do: func(h *history) { h.rewrite(altered(h, 3)) },
			names: "LOG/0000000000000003", says: "one of both was replaced", reach: []string{"b.0003"},
		}, {
			about: "an altered restore point whose entry is gone",
			do: func(h *history) {
				h.remove(h.log(3))
				h.put(commitName("b.0003"), altered(h, 3).encode())
			},
			names: "commits/b.0003", says: "which it is not", reach: []string{"b.0003"}, hole: true,
		}, {
			about: "an altered restore point at the end", do: func(h *history) { h.rewrite(altered(h, 5)) },
			heads: true, names: "LOG/0000000000000005", says: "rewritten",
		}, {
			about: "all rewritten from the third on",
			do: func(h *history) {
				previous := h.entry(2).hash
				for n := uint64(3); n <= 5; n++ {
					e := altered(h, n)
					e.previous = previous
					h.rewrite(e)
					again, err := parseEntry(e.encode())
					if err != nil {
						h.t.Fatal(err)
					}
					previous = again.hash
				}
			},
			heads: true, names: "LOG/0000000000000005", says: "rewritten",
		},
	} {
		f.run(t, false)
	}
}
