package store

import (
	"context"
	"strings"
	"testing"
)

// A rotten pack of the right size does not count as stored: the next backup of
// the same records fails, or can be read.
func TestDamagedObjectIsNotStoredAgain(t *testing.T) {
	r, d := newRepo(t)
	var in []step
	for i := range 3000 {
		in = append(in, step{makeRecord(uint64(i+1), 1000), false})
	}
	mustSave(t, r, "20260101T000000Z-aaaaaaaa.0001", in, nil)
	ctx := context.Background()
	n := 0
	list, _, err := d.List(ctx, "packs/", "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range list {
		if !strings.HasPrefix(info.Name, "packs/") {
			continue
		}
		b := make([]byte, info.Size) // rotten: as long as it was, all zero
		if err := d.Delete(ctx, info.Name); err != nil {
			t.Fatal(err)
		}
		if err := d.Put(ctx, info.Name, strings.NewReader(string(b)), info.Size); err != nil {
			t.Fatal(err)
		}
		n++
	}
	t.Logf("%d packs damaged", n)
	p, err := save(t, r, newStaging(t, 64<<20), "20260101T000000Z-bbbbbbbb.0001", in, nil)
	if err != nil {
		t.Logf("held: %v", err)
		return
	}
	if _, err := load(ctx, r, p); err != nil {
		t.Errorf("a new restore point was committed (%d new bytes) and cannot be read: %v", p.Content.NewBytes, err)
	}
}
