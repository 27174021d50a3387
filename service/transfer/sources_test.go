package transfer

import (
	"path/filepath"
	"testing"

	"jetkeep/service/natstest"
)

// What is deleted at the front, within, and at the end of a stream stays
// deleted, whichever server the backup was made from, and in both formats.
func TestDeletedStaysDeleted(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"2.9.25", "2.10.29", "2.11.12", "2.12.6", "2.14.5", natstest.Latest} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			src := natstest.StartVersion(t, version)
			nc := src.Connect()
			natstest.MakeStream(t, nc, `{"name":"HOLES","subjects":["holes"],"storage":"file","retention":"limits","num_replicas":1}`)
			natstest.PublishTo(t, nc, "holes", 400, 200)
			natstest.Delete(t, nc, "HOLES", 1, 2, 3, 7, 200, 201, 399, 400)
			natstest.MakeStream(t, nc, `{"name":"EMPTY","subjects":["empty"],"storage":"file","retention":"limits","num_replicas":1}`)
			natstest.MakeStream(t, nc, `{"name":"GONE","subjects":["gone"],"storage":"file","retention":"limits","num_replicas":1}`)
			natstest.PublishTo(t, nc, "gone", 20, 100)
			natstest.MustRequest(t, nc, "STREAM.PURGE.GONE", nil, nil)
			natstest.MakeStream(t, nc, `{"name":"LIMIT","subjects":["limit"],"storage":"file","retention":"limits","num_replicas":1,"max_msgs":395}`)
			natstest.PublishTo(t, nc, "limit", 400, 200)
			names := []string{"HOLES", "EMPTY", "GONE", "LIMIT"}
			before := map[string]stream{}
			for _, name := range names {
				before[name] = look(t, nc, name)
			}
			dir := filepath.Join(t.TempDir(), "account")
			command(t, src, "backup", "account", "--force", dir)
			repo := newRepo(t)
			points, err := Import(t.Context(), repo, dir, ImportOptions{Target: "old", Staging: newStaging(t)})
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range points {
				want := before[p.Stream].info.State
				if got := p.State; want.LastSeq > 0 && (got.Messages != want.Messages || got.FirstSeq != want.FirstSeq || got.LastSeq != want.LastSeq || !got.FirstTime.Equal(want.FirstTime) || !got.LastTime.Equal(want.LastTime)) {
					t.Errorf("%s is imported with the state %+v, was %+v", p.Stream, got, want)
				}
			}
			for _, f := range []Format{V1, V2} {
				t.Run(string(f), func(t *testing.T) {
					t.Parallel()
					out := filepath.Join(t.TempDir(), "out")
					if _, err := Export(t.Context(), repo, points, out, f, true); err != nil {
						t.Fatal(err)
					}
					dst := natstest.Start(t)
					into := dst.Connect()
					for _, name := range names {
						command(t, dst, "backup", "restore", "stream", filepath.Join(out, name))
						before[name].same(t, look(t, into, name))
					}
				})
			}
		})
	}
}
