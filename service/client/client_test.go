package client

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"go.uber.org/goleak"

	"jetkeep/service/api"
	"jetkeep/service/natstest"
	"jetkeep/store/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, natstest.LibraryLeaks()...) }

const session = "20260101T000000Z-aaaaaaaa"

// setup returns a client, and a connection to play the service on.
func setup(t *testing.T, o Options) (*Client, *nats.Conn) {
	t.Helper()
	server := natstest.Start(t)
	c, err := New(server.Connect(), o)
	if err != nil {
		t.Fatal(err)
	}
	return c, server.Connect()
}

// answer makes the connection answer an endpoint.
func answer(t *testing.T, nc *nats.Conn, endpoint string, fn func() *nats.Msg) {
	t.Helper()
	_, err := nc.Subscribe(api.DefaultPrefix+"."+endpoint, func(m *nats.Msg) {
		if r := fn(); r != nil {
			if err := m.RespondMsg(r); err != nil {
				t.Error(err)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
}

func body(v any) *nats.Msg {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return &nats.Msg{Data: b, Header: nats.Header{}}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	c, nc := setup(t, Options{Timeout: testenv.Hang})
	ctx := t.Context()
	hasty, err := New(nc, Options{Timeout: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.TargetList(ctx); !errors.Is(err, ErrNoService) {
		t.Errorf("without a service: %v", err)
	}
	answer(t, nc, api.TargetList, func() *nats.Msg { return nil })
	if _, err := hasty.TargetList(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without an answer: %v", err)
	}
	answer(t, nc, api.TargetInfo, func() *nats.Msg {
		m := body(api.ErrorResponse{Error: api.Errorf(api.CodePermission, "no").WithHint("ask")})
		m.Header.Set(api.HeaderError, "no")
		m.Header.Set(api.HeaderErrorCode, "403")
		return m
	})
	_, err = c.TargetInfo(ctx, api.TargetInfoRequest{})
	var e *api.Error
	if !errors.As(err, &e) || e.ErrCode != api.CodePermission || e.Code != 403 || e.Hint != "ask" {
		t.Errorf("error of the service: %v", err)
	}
	answer(t, nc, api.RepositoryList, func() *nats.Msg {
		m := &nats.Msg{Header: nats.Header{}}
		m.Header.Set(api.HeaderError, "proxy is tired")
		return m
	})
	if _, err := c.RepositoryList(ctx); !api.HasCode(err, api.CodeInternal) {
		t.Errorf("error of something else: %v", err)
	}
	answer(t, nc, api.SessionList, func() *nats.Msg { return &nats.Msg{Data: []byte("{")} })
	if _, err := c.SessionList(ctx, api.SessionListRequest{}); err == nil {
		t.Error("an answer that is cut was taken")
	}
	if _, err := New(nc, Options{Prefix: "a.>"}); err == nil {
		t.Error("a prefix with a wildcard was taken")
	}
}

// TestWaitOutlastsTheService has the service away for a while, and the final
// event lost.
func TestWaitOutlastsTheService(t *testing.T) {
	t.Parallel()
	c, nc := setup(t, Options{})
	var asked atomic.Int32
	answer(t, nc, api.SessionInfo, func() *nats.Msg {
		r := api.SessionInfoResponse{SessionView: api.SessionView{Session: session, State: api.StateRunning}}
		switch asked.Add(1) {
		case 1:
		case 2:
			m := body(api.ErrorResponse{Error: api.Errorf(api.CodeNoJetStream, "restarting")})
			m.Header.Set(api.HeaderError, "restarting")
			return m
		default:
			r.State = api.StateSucceeded
		}
		return body(r)
	})
	ctx, cancel := context.WithTimeout(t.Context(), testenv.Hang)
	defer cancel()
	r, err := c.Wait(ctx, session, nil)
	if err != nil || r.State != api.StateSucceeded || asked.Load() != 3 {
		t.Errorf("%+v %v after %d requests", r, err, asked.Load())
	}
}

func TestWaitHeedsEventsAndErrors(t *testing.T) {
	t.Parallel()
	c, nc := setup(t, Options{})
	var ended atomic.Bool
	answer(t, nc, api.SessionInfo, func() *nats.Msg {
		r := api.SessionInfoResponse{SessionView: api.SessionView{Session: session, State: api.StateRunning}}
		if ended.Load() {
			r.State = api.StateFailed
		}
		return body(r)
	})
	subjects, err := api.NewSubjects("")
	if err != nil {
		t.Fatal(err)
	}
	publish := func(e api.EventName) {
		v := api.Event{Type: e.Type(), Event: e, Session: session}
		if err := nc.PublishMsg(&nats.Msg{Subject: subjects.Event(api.KindBackup, session, e), Data: body(v).Data}); err != nil {
			t.Error(err)
		}
	}
	// Who does not heed events never ends before it asks again; who does may be as
	// slow as that on a machine that is busy, but not each time.
	testenv.Until(t, "an end that an event tells of", func() error {
		ended.Store(false)
		begin := time.Now()
		time.AfterFunc(200*time.Millisecond, func() {
			publish(api.EventProgress)
			ended.Store(true)
			publish(api.EventFailed)
		})
		var seen []api.EventName
		r, err := c.Wait(t.Context(), session, func(e api.Event) { seen = append(seen, e.Event) })
		took := time.Since(begin)
		if err != nil || r.State != api.StateFailed {
			t.Fatalf("%+v %v", r, err)
		}
		if len(seen) != 2 || took >= pollInterval {
			return fmt.Errorf("events %v, it took %s", seen, took)
		}
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended.Store(false)
	time.AfterFunc(100*time.Millisecond, cancel)
	if _, err := c.Wait(ctx, session, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("wait that was cancelled: %v", err)
	}
}

func TestWaitForNothing(t *testing.T) {
	t.Parallel()
	c, nc := setup(t, Options{})
	answer(t, nc, api.SessionInfo, func() *nats.Msg {
		m := body(api.ErrorResponse{Error: api.Errorf(api.CodeSessionNotFound, "none")})
		m.Header.Set(api.HeaderError, "none")
		return m
	})
	if _, err := c.Wait(t.Context(), session, nil); !api.HasCode(err, api.CodeSessionNotFound) {
		t.Errorf("wait: %v", err)
	}
}

// TestSealIdentity: only the service's key opens what is sealed, and the
// sender that is named made it.
func TestSealIdentity(t *testing.T) {
	t.Parallel()
	ours, err := nkeys.CreateCurveKeys()
	if err != nil {
		t.Fatal(err)
	}
	public, err := ours.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	first, err := SealIdentity(public, "a secret")
	if err != nil {
		t.Fatal(err)
	}
	second, err := SealIdentity(public, "a secret")
	if err != nil || first == second || strings.Contains(first, "secret") {
		t.Errorf("sealed twice: %s and %s, %v", first, second, err)
	}
	sender, box, _ := strings.Cut(first, ".")
	b, err := base64.StdEncoding.DecodeString(box)
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := ours.Open(b, sender); err != nil || string(plain) != "a secret" {
		t.Errorf("opened: %q %v", plain, err)
	}
	theirs, err := nkeys.CreateCurveKeys()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := theirs.Open(b, sender); err == nil {
		t.Error("another key opens it")
	}
	if s, err := SealIdentity("nonsense", "a secret"); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("sealed to no key: %q %v", s, err)
	}
}
