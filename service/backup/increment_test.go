package backup_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"jetkeep/service/natstest"
	"jetkeep/store"
	"jetkeep/store/object/mem"
	"jetkeep/store/testenv"
)

// versions are those of each kind of snapshot. Some tests do with the newest
// for what does not depend on it.
func versions(all bool) []string {
	if all {
		return testenv.Some("2.10.29", "2.14.5", natstest.Latest)
	}
	return []string{natstest.Latest}
}

func purge(t *testing.T, nc *nats.Conn, upTo uint64) {
	t.Helper()
	natstest.MustRequest(t, nc, "STREAM.PURGE.S", map[string]uint64{"seq": upTo + 1}, nil)
}

// deleteSome deletes n messages between first and last at random.
func deleteSome(t *testing.T, nc *nats.Conn, n int, first, last uint64) {
	t.Helper()
	random := rand.New(rand.NewPCG(first, last))
	for _, i := range random.Perm(int(last - first + 1))[:n] {
		natstest.Delete(t, nc, "S", first+uint64(i))
	}
}

// TestSecondBackup changes a stream between two backups, each by an instance of
// its own, and bounds what the second one uploads by a share of the first.
func TestSecondBackup(t *testing.T) {
	t.Parallel()
	const one = messages / 100
	// Where a purge ends, what lives of a segment is written again if it is less than
	// a quarter: see fill for where segments end.
	const afterHalf, afterQuarter = (3149.0 - messages/2) / messages, (1641.0 - messages/4) / messages
	for name, c := range map[string]struct {
		settings string
		change   func(t *testing.T, nc *nats.Conn)
		most     float64 // share of the first backup
		least    float64 // if something is known to be written again
		all      bool    // on all versions
	}{
		"nothing changed": {most: 0.01},
		"one percent appended": {most: 0.02, all: true, change: func(t *testing.T, nc *nats.Conn) {
			write(t, nc, "s", one, size, 2)
		}},
		"one percent purged at the front": {most: 0.01, change: func(t *testing.T, nc *nats.Conn) {
			purge(t, nc, one)
		}},
		"one percent pushed out by a limit": {most: 0.02, all: true, settings: fmt.Sprintf(`,"max_msgs":%d`, messages), change: func(t *testing.T, nc *nats.Conn) {
			write(t, nc, "s", one, size, 2)
		}},
		"three percent deleted inside": {most: 0.01, change: func(t *testing.T, nc *nats.Conn) {
			deleteSome(t, nc, 3*one, 100, messages-100)
		}},
		"half purged": {most: afterHalf + 0.01, least: afterHalf, change: func(t *testing.T, nc *nats.Conn) {
			purge(t, nc, messages/2)
		}},
		"all of it at once": {most: afterQuarter + 0.02, least: afterQuarter + 0.01, all: true, change: func(t *testing.T, nc *nats.Conn) {
			write(t, nc, "s", one, size, 2)
			purge(t, nc, messages/4)
			deleteSome(t, nc, 3*one, messages/3, messages+one)
			natstest.Delete(t, nc, "S", messages+one)
		}},
	} {
		for _, version := range versions(c.all) {
			t.Run(name+"/"+version, func(t *testing.T) {
				t.Parallel()
				srv := natstest.StartVersion(t, version)
				nc := srv.Connect()
				fill(t, srv.URL(), c.settings, messages, size)
				v := newVault(t)
				first := v.backup(srv.URL(), "S")
				if c.change != nil {
					c.change(t, nc)
				}
				second := v.backup(srv.URL(), "S")
				v.increment(first, second, c.most)
				if share := float64(second.uploaded) / float64(first.Content.StoredBytes); share < c.least {
					t.Errorf("%.4f of the first backup were uploaded, not even the %.4f that must be written again", share, c.least)
				}
				write(t, nc, "s", 5, size, 3)
				third := v.backup(srv.URL(), "S")
				v.increment(first, third, 0.01)
				v.restore(second)
			})
		}
	}
}

// TestSecondBackupOfBucket overwrites most keys of a bucket: the segments that
// are mostly dead are not carried along for ever.
func TestSecondBackupOfBucket(t *testing.T) {
	t.Parallel()
	const keys = 4000
	for _, version := range versions(true) {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			srv := natstest.StartVersion(t, version)
			nc := srv.Connect()
			natstest.MakeStream(t, nc, `{"name":"KV_B","subjects":["$KV.B.>"],"storage":"file","retention":"limits","num_replicas":1,
				"max_msgs_per_subject":1,"discard":"new","allow_rollup_hdrs":true,"deny_delete":true,"allow_direct":true}`)
			put := func(from, to int, seed uint64) {
				random := rand.New(rand.NewPCG(seed, 0))
				natstest.Publish(t, nc, to-from, func(i int) *nats.Msg {
					return &nats.Msg{Subject: fmt.Sprintf("$KV.B.k%d", (from+i)*7919%keys), Data: natstest.Text(random, size)}
				})
			}
			v := newVault(t)
			put(0, keys, 1)
			first := v.backup(srv.URL(), "KV_B")
			put(0, keys*9/10, 2)
			second := v.backup(srv.URL(), "KV_B")
			v.increment(first, second, 1.15) // the new nine tenths, and the old tenth once more
			wantDense(t, second)
			put(0, keys/100, 3)
			third := v.backup(srv.URL(), "KV_B")
			// The new hundredth; and where the segments of the first backup happen to
			// end so that the second one kept less than a sixteenth of its pack, which
			// is too little to keep a pack for, that once more.
			v.increment(first, third, 0.03+1.0/16)
			put(0, keys/100, 4)
			fourth := v.backup(srv.URL(), "KV_B")
			v.increment(first, fourth, 0.03) // that happens once
			v.restore(first, second, third, fourth)
		})
	}
}

// wantDense fails if a restore point carries far more than its messages.
func wantDense(t *testing.T, m made) {
	t.Helper()
	if c := m.Content; c.RawBytes > c.Bytes*4/3 {
		t.Errorf("restore point %s carries %d bytes for %d bytes of messages", m.ID, c.RawBytes, c.Bytes)
	}
}

// TestSecondBackupOfWorkQueue consumes most of a queue between the backups.
func TestSecondBackupOfWorkQueue(t *testing.T) {
	t.Parallel()
	const jobs, big = 1500, 8000
	for _, version := range versions(true) {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			srv := natstest.StartVersion(t, version)
			nc := srv.Connect()
			fill(t, srv.URL(), `,"retention":"workqueue"`, jobs, big)
			natstest.MakeConsumer(t, nc, "S", "worker", map[string]any{"ack_policy": "explicit", "ack_wait": 3600e9, "max_ack_pending": 10000})
			v := newVault(t)
			first := v.backup(srv.URL(), "S")
			natstest.Take(t, nc, "S", "worker", jobs*9/10, func(i int) bool { return i%100 != 7 })
			write(t, nc, "s", jobs/100, big, 2)
			second := v.backup(srv.URL(), "S")
			// What is left of the front, one job in a hundred, and the new ones.
			v.increment(first, second, 0.10)
			// A segment stays while a quarter of it lives, so that what is left, an
			// eighth, may take half, wherever the segments happen to end.
			if second.Content.RawBytes > first.Content.RawBytes/2 {
				t.Errorf("an almost empty queue takes %d bytes, the full one took %d", second.Content.RawBytes, first.Content.RawBytes)
			}
			v.restore(first, second)
		})
	}
}

// TestIncrementsOfManyGenerations backs up a rolling stream again and again.
// Neither what a restore point carries nor what an increment uploads grows.
func TestIncrementsOfManyGenerations(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	nc := srv.Connect()
	fill(t, srv.URL(), fmt.Sprintf(`,"max_msgs":%d`, messages/2), messages/2, size)
	v := newVault(t)
	first := v.backup(srv.URL(), "S")
	last, sum := first, uint64(0)
	for n := range uint64(14) {
		write(t, nc, "s", messages/40, size, 2+n)
		last = v.backup(srv.URL(), "S")
		v.increment(first, last, 0.8)
		sum += last.uploaded
		v.points = slices.Delete(v.points, 1, len(v.points)-1) // each was read when it was made
	}
	// A twentieth is new each time. Once in nine times the small segments of
	// the last increments are merged, and with them they are stored twice; what
	// remains of the segments that the stream rolls out of comes to it.
	if most := 14 * first.Content.StoredBytes / 20 * 4; sum > most {
		t.Errorf("14 increments uploaded %d bytes in all, at most %d are sound", sum, most)
	}
	if last.Content.RawBytes > first.Content.RawBytes*3/2 {
		t.Errorf("after 14 generations a restore point carries %d bytes, the first carried %d", last.Content.RawBytes, first.Content.RawBytes)
	}
	v.restore(first, last)
}

// TestIncrementOnDamagedPoint takes away what an increment would go on from:
// the backup is stored in full and says why.
func TestIncrementOnDamagedPoint(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	nc := srv.Connect()
	plainStream(t, nc)
	write(t, nc, "s", messages, size, 1)
	// Without encryption the same objects would be made again, and the damaged
	// ones be refused.
	d := mem.New()
	v := sealedVault(t, d)
	first := v.backup(srv.URL(), "S")
	damaged := 0
	for name := range v.objects("meta/") {
		if d.Corrupt(name, func(b []byte) []byte { b[len(b)/2] ^= 1; return b }) {
			damaged++
		}
	}
	if damaged == 0 {
		t.Fatal("no object to damage")
	}
	v.points = nil // the first cannot be read any more
	second := v.backup(srv.URL(), "S")
	v.newLineage(first, second, first.ID)
	v.restore(second)
}

// TestIncrementOnPrunedPoint forgets and prunes what an increment refers to,
// right before it is committed. It must not be; the backup is made again.
func TestIncrementOnPrunedPoint(t *testing.T) {
	t.Parallel()
	srv := natstest.Start(t)
	nc := srv.Connect()
	plainStream(t, nc)
	write(t, nc, "s", messages/4, size, 1)
	v := newVault(t)
	first := v.backup(srv.URL(), "S")
	write(t, nc, "s", 10, size, 2)
	v.points = nil // the first will be gone
	fences := 0
	second := v.backup(srv.URL(), "S", func(j *job) {
		j.Fence = func(ctx context.Context) error {
			if fences++; fences > 1 {
				return nil
			}
			if err := j.Repository.Forget(ctx, []string{first.ID}); err != nil {
				return err
			}
			for range 2 { // to condemn and to delete
				plan, err := j.Repository.PlanPrune(ctx, store.PruneOptions{Now: func() time.Time { return time.Now().Add(1000 * time.Hour) }})
				if err != nil {
					return err
				}
				if _, err := j.Repository.Prune(ctx, plan); err != nil {
					return err
				}
			}
			return nil
		}
	})
	if fences != 2 {
		t.Errorf("%d attempts, want one that is refused and one more", fences)
	}
	v.increment(second, v.backup(srv.URL(), "S"), 0.01)
	v.restore(second)
}
