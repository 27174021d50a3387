package store

import (
	"encoding/json"
	"flag"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"jetkeep/store/object"
	"jetkeep/store/object/local"
	"jetkeep/store/object/mem"
	"jetkeep/store/record"
	"jetkeep/store/seqset"
)

// Golden repositories: one of each version of the format.
const (
	golden1 = "testdata/format1"
	golden2 = "testdata/format2"
)

// A golden repository is made once, by the program that first wrote the format,
// and read ever after: go test -run Golden -make-golden ./store
func makeGolden(t *testing.T) {
	t.Helper()
	d, err := local.Create(golden2)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	r, err := Init(t.Context(), object.NewBucket(d), InitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	recs, dead := goldenRecords()
	var in []step
	for _, rec := range recs {
		if rec.Sequence < 200 || rec.Sequence > 300 {
			in = append(in, step{rec: rec})
		}
	}
	for _, rec := range recs[199:300] {
		in = append(in, step{rec: rec, repair: true})
	}
	p := mustSave(t, r, "20261122T210000Z-golden00.0001", in, dead)

	// The same once more with everything in objects of its own.
	p.ID, p.Task = "20261122T210000Z-golden00.0002", "20261122T210000Z-golden00.0002"
	spread(t, r, &p, []byte(`[{"name":"worker"}]`))
	if err := r.Commit(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(golden2, ".tmp")); err != nil {
		t.Fatal(err)
	}
}

func goldenRecords() ([]*record.Record, *seqset.Set) {
	var recs []*record.Record
	for seq := range uint64(400) {
		r := rand.New(rand.NewPCG(seq+1, 42))
		data := make([]byte, 40)
		for i := range data {
			data[i] = "abcdefghijklmnop"[r.Uint32()&15]
		}
		recs = append(recs, recordOf(seq+1, data))
	}
	return recs, seqset.Of(1, 77, 250, 400)
}

// golden loads a golden repository into memory, so that a test cannot change it.
func golden(t testing.TB, dir string) *mem.Driver {
	t.Helper()
	d := mem.New()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		return object.NewBucket(d).PutBytes(t.Context(), filepath.ToSlash(name), data)
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestGolden(t *testing.T) {
	if flag.Lookup("make-golden").Value.String() == "true" {
		makeGolden(t)
	}
	for _, dir := range []string{golden1, golden2} {
		t.Run(dir, func(t *testing.T) { readGolden(t, dir) })
	}
}

func readGolden(t *testing.T, dir string) {
	r, err := Open(t.Context(), object.NewBucket(golden(t, dir)), OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	points, err := r.Points(t.Context())
	if err != nil || len(points) != 2 {
		t.Fatalf("%d points, %v", len(points), err)
	}
	recs, dead := goldenRecords()
	for _, l := range points {
		if l.Err != nil {
			t.Fatal(l.Err)
		}
		wantRecords(t, r, l.Point, without(recs, dead.Contains))
		if string(l.Point.Config) != `{"name":"ORDERS","subjects":["orders.>"],"unknown_field":1.50}` || l.Point.Server != "2.15.2" {
			t.Errorf("point %+v", l.Point)
		}
	}
	consumers, err := consumersIn(t.Context(), r, points[1].Point)
	if err != nil || len(consumers) != 1 || string(consumers[0]) != `{"name":"worker"}` {
		t.Errorf("consumers %s, %v", consumers, err)
	}
	if !json.Valid(points[0].Point.Config) {
		t.Error("configuration is no JSON")
	}
}
