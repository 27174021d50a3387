package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"jetkeep/service/api"
	"jetkeep/service/natstest"
	"jetkeep/store/testenv"
)

// crashBytes is large enough that a part of it is stored when the other waits.
const crashBytes = 64 << 20

// TestKilledBackupEnds kills the service in the middle of a backup: after a
// restart the session ends, and what it says it backed up restores exactly.
func TestKilledBackupEnds(t *testing.T) {
	t.Parallel()
	disturbedBackup(t, syscall.SIGKILL)
}

// TestTerminatedBackupEnds does the same with an orderly end.
func TestTerminatedBackupEnds(t *testing.T) {
	t.Parallel()
	disturbedBackup(t, syscall.SIGTERM)
}

func disturbedBackup(t *testing.T, signal syscall.Signal) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*testenv.Hang)
	defer cancel()
	command, data := binary(t), filepath.Join(t.TempDir(), "data")
	server, gate := natstest.Start(t), natstest.NewGate(t)
	target := server.Connect()
	fillLarge(ctx, t, target)
	before := digest(ctx, t, target)
	repository, file := filepath.Join(data, "repository"), filepath.Join(t.TempDir(), "jetkeep.conf")
	text := fmt.Sprintf("targets { large { url: %q } }\nrepositories { main { path: %q, create: true } }\nstaging { dir: %q }\n",
		gate.Before(server), repository, filepath.Join(data, "staging"))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	first := startServe(t, command, data, "--config", file)
	nc := first.connect()

	gate.Hold(natstest.Downstream, crashBytes/2)
	accepted := request[api.Accepted](t, nc, api.BackupCreate, `{}`)
	stored := awaitMiddle(t, nc, accepted.Session, filepath.Join(repository, "packs"))
	first.signal(signal)
	code := first.wait()
	t.Logf("sent %v after %d of %d bytes were stored; exit code %d", signal, stored, crashBytes, code)
	if signal == syscall.SIGTERM && code != exitOK {
		t.Errorf("exit code %d after SIGTERM:\n%s", code, first.log())
	}
	nc.Close()
	gate.Open()

	second := startServe(t, command, data, "--config", file)
	nc = second.connect()
	info := ended(t, nc, accepted.Session)
	t.Logf("%s after %d attempts", info.State, info.TaskList[0].Attempts)
	if info.State != api.StateSucceeded {
		if info.TaskList[0].Error == nil {
			t.Fatalf("the session is %s without a reason: %+v", info.State, info)
		}
		t.Fatalf("the session is %s: %v\n%s", info.State, info.TaskList[0].Error, second.log())
	}
	restoreAndCompare(ctx, t, nc, target, accepted.Backup, before)
}

// fillLarge makes a stream of data that does not compress.
func fillLarge(ctx context.Context, t *testing.T, nc *nats.Conn) {
	t.Helper()
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(64))
	if err != nil {
		t.Fatal(err)
	}
	defer js.CleanupPublisher()
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "LARGE", Subjects: []string{"large.>"}, AllowDirect: true}); err != nil {
		t.Fatal(err)
	}
	random := rand.NewChaCha8([32]byte{1})
	const size = 64 << 10
	for i := range crashBytes / size {
		body := make([]byte, size)
		_, _ = random.Read(body)
		if _, err := js.PublishAsync(fmt.Sprintf("large.%d", i%10), body, jetstream.WithStallWait(testenv.Hang)); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-ctx.Done():
		t.Fatal(ctx.Err())
	}
}

// digest hashes configuration, created time and every message of the stream,
// by direct get in batches: one message at a time takes too long here.
func digest(ctx context.Context, t *testing.T, nc *nats.Conn) string {
	t.Helper()
	hash := sha256.New()
	reply, err := nc.RequestWithContext(ctx, "$JS.API.STREAM.INFO.LARGE", nil)
	if err != nil {
		t.Fatal(err)
	}
	var info struct {
		Config  json.RawMessage `json:"config"`
		Created string          `json:"created"`
		State   struct {
			Messages uint64 `json:"messages"`
			Last     uint64 `json:"last_seq"`
		} `json:"state"`
	}
	if err := json.Unmarshal(reply.Data, &info); err != nil {
		t.Fatal(err)
	}
	_, _ = fmt.Fprintln(hash, string(info.Config), info.Created, info.State)
	inbox := nc.NewRespInbox()
	sub, err := nc.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	count := uint64(0)
	for next := uint64(1); next <= info.State.Last; {
		if err := nc.PublishRequest("$JS.API.DIRECT.GET.LARGE", inbox, fmt.Appendf(nil, `{"seq":%d,"batch":64}`, next)); err != nil {
			t.Fatal(err)
		}
		for {
			m, err := sub.NextMsgWithContext(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if m.Header.Get("Status") != "" {
				break // the end of the batch
			}
			_, _ = fmt.Fprintln(hash, m.Header["Nats-Sequence"], m.Header["Nats-Time-Stamp"], m.Header["Nats-Subject"], len(m.Data))
			_, _ = hash.Write(m.Data)
			if _, err := fmt.Sscan(m.Header.Get("Nats-Sequence"), &next); err != nil {
				t.Fatal(err)
			}
			next++
			count++
		}
	}
	if count != info.State.Messages || count == 0 {
		t.Fatalf("read %d messages of %d", count, info.State.Messages)
	}
	return fmt.Sprintf("%d messages %x", count, hash.Sum(nil))
}

// awaitMiddle waits until a part of the backup is in a directory, and makes sure
// that the backup has not ended.
func awaitMiddle(t *testing.T, nc *nats.Conn, session, dir string) (stored int64) {
	t.Helper()
	testenv.True(t, "a part of the backup is stored", func() bool {
		stored = size(dir)
		return stored >= crashBytes/20
	})
	info := request[api.SessionInfoResponse](t, nc, api.SessionInfo, `{"session":"`+session+`"}`)
	if info.State.Final() {
		t.Fatalf("the backup is %s without half of the stream", info.State)
	}
	return stored
}

// size adds up the files below a directory, which may change meanwhile.
func size(dir string) (total int64) {
	_ = filepath.WalkDir(dir, func(_ string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return nil //nolint:nilerr // what is gone again is of no size
		}
		if info, err := e.Info(); err == nil {
			total += info.Size()
		}
		return nil
	})
	return total
}

func restoreAndCompare(ctx context.Context, t *testing.T, nc, target *nats.Conn, backup, before string) {
	t.Helper()
	js, err := jetstream.New(target)
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(ctx, "LARGE"); err != nil {
		t.Fatal(err)
	}
	accepted := request[api.Accepted](t, nc, api.RestoreCreate, `{"backup":"`+backup+`"}`)
	if info := ended(t, nc, accepted.Session); info.State != api.StateSucceeded {
		t.Fatalf("the restore is %s: %+v", info.State, info)
	}
	if after := digest(ctx, t, target); after != before {
		t.Errorf("the stream was\n%s, is\n%s", before, after)
	}
}
