package jetsnap_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"jetkeep/service/jetsnap"
	"jetkeep/service/jsapi"
	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
	"jetkeep/store/testenv"
)

// What no real server can be made to send is sent by a responder of the test's,
// over a real server without JetStream. Since 2.15.3 no server lets a client ask for
// answers to where acknowledgements of snapshots go.
func responder(t *testing.T) (*jetsnap.Client, *natsconn.Conn, *nats.Conn) {
	t.Helper()
	srv := natstest.StartVersion(t, "2.11.12", natstest.WithoutJetStream())
	c, conn := client(t, natsconn.Options{URL: srv.URL()})
	nc := srv.Connect()
	return c, conn, nc
}

func serve(t *testing.T, nc *nats.Conn, subject string, f func(*nats.Msg)) {
	t.Helper()
	if _, err := nc.Subscribe(subject, f); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
}

func TestBrokenSnapshots(t *testing.T) {
	t.Parallel()
	c, _, nc := responder(t)
	type chunk struct {
		size, number int
		header       string
	}
	script := map[string][]chunk{
		"GOOD":    {{10, 1, ""}, {10, 2, ""}, {-1, 0, "204"}},
		"BARE":    {{10, 1, ""}, {-1, 0, ""}},
		"MISSING": {{10, 1, ""}, {10, 3, ""}, {-1, 0, "204"}},
		"TWICE":   {{10, 1, ""}, {10, 1, ""}, {-1, 0, "204"}},
		"FIRST":   {{10, 2, ""}, {-1, 0, "204"}},
		"FAULT":   {{10, 1, ""}, {-1, 0, "500 disk on fire"}},
		"SILENT":  {{10, 1, ""}},
	}
	serve(t, nc, "$JS.API.STREAM.SNAPSHOT.*", func(m *nats.Msg) {
		var req struct {
			To string `json:"deliver_subject"`
		}
		_ = json.Unmarshal(m.Data, &req)
		name := m.Subject[strings.LastIndexByte(m.Subject, '.')+1:]
		_ = m.Respond([]byte(`{"config":{"name":"` + name + `"},"state":{}}`))
		for _, x := range script[name] {
			out := &nats.Msg{Subject: req.To, Header: nats.Header{}}
			if x.size > 0 {
				out.Data = make([]byte, x.size)
				out.Reply = fmt.Sprintf("$JS.SNAPSHOT.ACK.S.abc.%d.%d", x.size, x.number)
			} else if code, text, _ := strings.Cut(x.header, " "); code != "" {
				out.Header["Status"], out.Header["Description"] = []string{code}, []string{text}
			}
			_ = nc.PublishMsg(out)
		}
	})
	for name, check := range map[string]func(n int64, err error) bool{
		"GOOD":    func(n int64, err error) bool { return n == 20 && err == nil },
		"BARE":    func(n int64, err error) bool { return n == 10 && err == nil },
		"MISSING": func(_ int64, err error) bool { return errors.Is(err, jetsnap.ErrGap) },
		"TWICE":   func(_ int64, err error) bool { return errors.Is(err, jetsnap.ErrGap) },
		"FIRST":   func(_ int64, err error) bool { return errors.Is(err, jetsnap.ErrGap) },
		"FAULT": func(_ int64, err error) bool {
			var status *jetsnap.StatusError
			return errors.As(err, &status) && status.Code == "500" && status.Text == "disk on fire"
		},
		"SILENT": func(_ int64, err error) bool { return errors.Is(err, jetsnap.ErrIdle) },
	} {
		idle := testenv.Hang
		if name == "SILENT" {
			idle = time.Second
		}
		var s *jetsnap.Snapshot
		testenv.Until(t, "an answer before the server falls silent", func() (err error) {
			s, err = c.Snapshot(t.Context(), name, jetsnap.SnapshotOptions{IdleTimeout: idle})
			if err != nil && !errors.Is(err, jsapi.ErrNoReply) {
				t.Fatal(err)
			}
			return err
		})
		testenv.True(t, "everything there before it is read", func() bool { over, _ := s.Over(); return over })
		if n, err := io.Copy(io.Discard, s); !check(n, err) {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if _, err := s.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Errorf("%s: read after Close: %v", name, err)
		}
	}
}

func TestBrokenRestores(t *testing.T) {
	t.Parallel()
	c, _, nc := responder(t)
	serve(t, nc, "$JS.API.STREAM.RESTORE.*", func(m *nats.Msg) {
		name := m.Subject[strings.LastIndexByte(m.Subject, '.')+1:]
		_ = m.Respond([]byte(`{"deliver_subject":"$JS.SNAPSHOT.RESTORE.` + name + `.abc"}`))
	})
	serve(t, nc, "$JS.API.INFO", func(m *nats.Msg) { _ = m.Respond([]byte(`{}`)) })
	const done = `{"config":{"name":"S"},"state":{"messages":7}}`
	for name, f := range map[string]func(m *nats.Msg){
		"GOOD": func(m *nats.Msg) {
			if len(m.Data) > 0 {
				_ = m.Respond(nil)
			} else {
				_ = m.Respond([]byte(done))
			}
		},
		"TEXT":  func(m *nats.Msg) { _ = m.Respond([]byte("-ERR 'storage failure during restore'")) },
		"ERROR": func(m *nats.Msg) { _ = m.Respond([]byte(`{"error":{"code":500,"err_code":10062,"description":"no"}}`)) },
		"HALF": func(m *nats.Msg) { // the last reply without all acknowledgements
			switch {
			case len(m.Data) == 0:
				_ = m.Respond([]byte(done))
			case strings.HasSuffix(m.Reply, ".1"):
				_ = m.Respond(nil)
			}
		},
		"NOEND": func(m *nats.Msg) {
			if len(m.Data) > 0 {
				_ = m.Respond(nil)
			}
		},
	} {
		serve(t, nc, "$JS.SNAPSHOT.RESTORE."+name+".abc", f)
	}
	for name, want := range map[string]error{
		"GOOD": nil, "TEXT": jetsnap.ErrAborted, "ERROR": &jsapi.APIError{}, "HALF": jetsnap.ErrAborted,
		"NOEND": jetsnap.ErrIdle, "NOBODY": jetsnap.ErrAborted,
	} {
		install := testenv.Hang
		if name == "NOEND" {
			install = 2 * time.Second
		}
		info, err := c.Restore(t.Context(), name, json.RawMessage(`{"name":"`+name+`"}`), bytes.NewReader(make([]byte, 5000)),
			jetsnap.RestoreOptions{ChunkSize: 600, IdleTimeout: testenv.Hang, InstallTimeout: install})
		var api *jsapi.APIError
		switch {
		case want == nil:
			if err != nil || info.State.Messages != 7 {
				t.Errorf("%s: %+v, %v", name, info, err)
			}
		case errors.As(want, &api):
			if !errors.As(err, &api) || api.ErrCode != 10062 {
				t.Errorf("%s: %v", name, err)
			}
		case !errors.Is(err, want):
			t.Errorf("%s: %v", name, err)
		}
	}
}
