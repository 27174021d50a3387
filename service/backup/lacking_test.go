package backup

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/s2"

	"jetkeep/service/natstest"
)

// TestCaptureOfArchiveWithoutBlock takes a block out of a server's snapshot and
// gives the next one twice, as servers of 2.10 to 2.14 do by chance when the oldest
// block of a stream goes away meanwhile.
func TestCaptureOfArchiveWithoutBlock(t *testing.T) {
	t.Parallel()
	srv := natstest.StartVersion(t, "2.10.29")
	nc := srv.Connect()
	createStream(t, srv, "ROLL", nil)
	publish(t, nc, "roll", 4000, 8000)
	m := &meddler{Target: OfConn(dial(t, srv.URL())), change: func(_ int, b []byte) []byte { return withoutBlock(t, b) }}
	got := collect()
	out, err := Capture(t.Context(), m, "ROLL", got, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if d := natstest.Diff(natstest.Records(t, nc, "ROLL"), got.live(out)); d != "" {
		t.Fatal(d)
	}
	if notes := strings.Join(out.Notes, "\n"); !strings.Contains(notes, "lacked blocks [2] and gave [msgs/3.blk] twice") || !strings.Contains(notes, "messages that the snapshot lacked were read by sequence") {
		t.Errorf("notes %q", out.Notes)
	}
}

// withoutBlock packs a V1 archive anew, without its second block and with its third
// one twice.
func withoutBlock(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := s2.NewWriter(&out)
	w := tar.NewWriter(z)
	lacking := false
	for r := tar.NewReader(s2.NewReader(bytes.NewReader(b))); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		times := 1
		switch h.Name {
		case "msgs/2.blk":
			times, lacking = 0, true
		case "msgs/3.blk":
			times = 2
		}
		for range times {
			if err := w.WriteHeader(h); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(data); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil || !lacking {
		t.Fatal("pack the archive anew:", err, lacking)
	}
	return out.Bytes()
}
