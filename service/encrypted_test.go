package service_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/client"
	"jetkeep/service/config"
	"jetkeep/service/natstest"
	"jetkeep/store/record"
	"jetkeep/store/seal"
)

// operator makes a key pair of somebody who may read a repository.
func operator(t *testing.T) seal.Identity {
	t.Helper()
	id, err := seal.Generate(seal.Hybrid)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// encrypted is setup with a repository that an operator can read.
func encrypted(t *testing.T, server *natstest.Server, op seal.Identity) config.Config {
	cfg := setup(t, server)
	cfg.Repositories[0].OperatorRecipients = []string{op.Recipient().String()}
	return cfg
}

func keyFile(t *testing.T, op seal.Identity) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "identity")
	if err := os.WriteFile(name, []byte("# an operator\n"+op.Secret()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// sealed seals an identity as clients do.
func sealed(t *testing.T, c *client.Client, op seal.Identity) string {
	t.Helper()
	info, err := c.RepositoryInfo(t.Context(), api.RepositoryInfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := client.SealIdentity(info.XKey, "# an operator\n"+op.Secret()+"\n")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// someStreams makes two streams and returns what is in them.
func someStreams(t *testing.T, server *natstest.Server) map[string][]record.Record {
	t.Helper()
	nc := server.Connect()
	natstest.MakeStream(t, nc, map[string]any{"name": "ORDERS", "subjects": []string{"orders.>"}, "storage": "file"})
	natstest.PublishTo(t, nc, "orders.new", 500, 300)
	natstest.MakeStream(t, nc, map[string]any{"name": "KV_settings", "subjects": []string{"$KV.settings.>"}, "storage": "file", "max_msgs_per_subject": 1, "allow_rollup_hdrs": true})
	natstest.PublishTo(t, nc, "$KV.settings.a", 30, 20)
	return contents(t, server, "ORDERS", "KV_settings")
}

func contents(t *testing.T, server *natstest.Server, streams ...string) map[string][]record.Record {
	t.Helper()
	out := map[string][]record.Record{}
	for _, s := range streams {
		out[s] = natstest.Records(t, server.Connect(), s)
	}
	return out
}

func same(t *testing.T, server *natstest.Server, want map[string][]record.Record) {
	t.Helper()
	for s, records := range want {
		if d := natstest.Diff(records, natstest.Records(t, server.Connect(), s)); d != "" {
			t.Errorf("stream %s: %s", s, d)
		}
	}
}

func dropStreams(t *testing.T, server *natstest.Server, streams map[string][]record.Record) {
	t.Helper()
	for s := range streams {
		natstest.MustRequest(t, server.Connect(), "STREAM.DELETE."+s, nil, nil)
	}
}

func backUp(t *testing.T, c *client.Client) string {
	t.Helper()
	a, err := c.BackupCreate(t.Context(), api.BackupCreateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return wait(t, c, a.Session, api.StateSucceeded).Backup
}

func bringBack(t *testing.T, c *client.Client, q api.RestoreRequest) string {
	t.Helper()
	a, err := c.RestoreCreate(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	r := wait(t, c, a.Session, api.StateSucceeded)
	for _, task := range r.TaskList {
		if !task.Verified {
			t.Errorf("stream %s was not verified", task.Stream)
		}
	}
	return a.Session
}

// lockedBuffer collects a log that several goroutines write.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestEncryptedRepository backs up with public keys alone and restores with an
// identity in the request, which is nowhere to be seen.
func TestEncryptedRepository(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	before := someStreams(t, server)
	op := operator(t)
	log := new(lockedBuffer)
	run(t, encrypted(t, server, op), service.Deps{Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	c := connect(t, server)
	first := backUp(t, c)
	natstest.PublishTo(t, server.Connect(), "orders.new", 5, 300)
	before["ORDERS"] = natstest.Records(t, server.Connect(), "ORDERS")
	backUp(t, c)

	info, err := c.RepositoryInfo(t.Context(), api.RepositoryInfoRequest{})
	if err != nil || !info.Encrypted || info.Readable || info.Locked != 0 || info.RestorePoints != 4 || info.Streams != 2 ||
		len(info.Operators) != 1 || info.Operators[0] != op.Recipient().Fingerprint() || info.Recipient == "" || !info.Unsigned {
		t.Errorf("repository: %+v %v", info, err)
	}
	list, err := c.BackupList(t.Context(), api.BackupListRequest{Stream: "ORDERS"})
	if err != nil || list.Total != 2 || list.Backups[1].Backup != first || list.Backups[1].Locked != 0 || list.Backups[1].Target != "default" {
		t.Errorf("backups: %+v %v", list, err)
	}
	dropStreams(t, server, before)
	for _, endpoint := range []string{api.RestorePlan, api.RestoreCreate} {
		if e := refused(t, server.Connect(), endpoint, ""); e.ErrCode != api.CodeLocked || e.Hint == "" {
			t.Errorf("%s without an identity: %+v", endpoint, e)
		}
	}
	for name, bad := range map[string]string{
		"of somebody else":      sealed(t, c, operator(t)),
		"sealed to another":     strings.Replace(sealed(t, c, op), ".", ".AAAA", 1),
		"that is not sealed":    "X." + "QUdF",
		"sealed, but no key":    sealText(t, c, "nonsense"),
		"in a strange spelling": sealText(t, c, strings.ToLower(op.Secret())),
	} {
		_, err := c.RestorePlan(t.Context(), api.RestoreRequest{Identity: bad})
		if !api.HasCode(err, api.CodeWrongIdentity) || strings.Contains(strings.ToUpper(err.Error()), "SECRET-KEY-PQ-1") {
			t.Errorf("identity %s: %v", name, err)
		}
	}
	if _, err := c.RestorePlan(t.Context(), api.RestoreRequest{Identity: op.Secret()}); !api.HasCode(err, api.CodeInvalidRequest) || strings.Contains(err.Error(), op.Secret()) {
		t.Errorf("identity that is sent as it is: %v", err)
	}
	session := bringBack(t, c, api.RestoreRequest{Identity: sealed(t, c, op)})
	same(t, server, before)
	if strings.Contains(log.String(), op.Secret()) {
		t.Error("the log has the identity")
	}
	leftNothing(t, server, c, session, op)
}

func sealText(t *testing.T, c *client.Client, text string) string {
	t.Helper()
	info, err := c.RepositoryInfo(t.Context(), api.RepositoryInfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := client.SealIdentity(info.XKey, text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// leftNothing looks for an identity, sealed or not, in all that a session
// leaves behind.
func leftNothing(t *testing.T, server *natstest.Server, c *client.Client, session string, op seal.Identity) {
	t.Helper()
	r, err := c.SessionInfo(t.Context(), api.SessionInfoRequest{Session: session})
	if err != nil {
		t.Fatal(err)
	}
	view, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	all := string(view)
	js, err := jetstream.New(server.Connect())
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.KeyValue(t.Context(), api.BucketSessions)
	if err != nil {
		t.Fatal(err)
	}
	e, err := kv.Get(t.Context(), session)
	if err != nil {
		t.Fatal(err)
	}
	all += string(e.Value())
	err = c.Replay(t.Context(), session, func(e api.Event) error {
		b, err := json.Marshal(e)
		all += string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(all, op.Secret()) || strings.Contains(all, "identity") {
		t.Errorf("something of the identity is left: %s", all)
	}
}

// TestIdentityOfTheService restores with an identity that the service has, and
// goes on without one that is of no use.
func TestIdentityOfTheService(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	before := someStreams(t, server)
	op := operator(t)
	cfg := encrypted(t, server, op)
	cfg.Repositories[0].IdentityFile = keyFile(t, operator(t))
	first := run(t, cfg, service.Deps{})
	c := connect(t, server)
	backUp(t, c)
	dropStreams(t, server, before)
	if e := refused(t, server.Connect(), api.RestoreCreate, ""); e.ErrCode != api.CodeLocked {
		t.Errorf("identity of somebody else: %+v", e)
	}
	first.end()
	cfg.Repositories[0].IdentityFile = keyFile(t, op)
	run(t, cfg, service.Deps{})
	bringBack(t, c, api.RestoreRequest{})
	same(t, server, before)
}

// TestEverythingElseLost has a fresh service on a fresh server list and restore
// all, given the repository and an identity and nothing else.
func TestEverythingElseLost(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"plain", "encrypted"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			server := natstest.Start(t)
			before := someStreams(t, server)
			op := operator(t)
			cfg := setup(t, server)
			if kind == "encrypted" {
				cfg = encrypted(t, server, op)
			}
			lost := run(t, cfg, service.Deps{})
			backup := backUp(t, connect(t, server))
			lost.end()

			again := natstest.Start(t)
			fresh := setup(t, again)
			fresh.Repositories[0].Path, fresh.Repositories[0].Create = cfg.Repositories[0].Path, false
			if kind == "encrypted" {
				locked(t, again, fresh, backup)
				again = natstest.Start(t)
				fresh.Control.URL = again.URL()
				fresh.Repositories[0].IdentityFile = keyFile(t, op)
			}
			run(t, fresh, service.Deps{})
			c := connect(t, again)
			info, err := c.BackupInfo(t.Context(), api.BackupInfoRequest{Backup: backup})
			if err != nil || len(info.RestorePoints) != 2 || info.Locked+info.Damaged != 0 || info.RestorePoints[0].Stream == "" {
				t.Errorf("backup: %+v %v", info, err)
			}
			bringBack(t, c, api.RestoreRequest{})
			same(t, again, before)
			// The memory is adopted: the new backup carries on in the same logs.
			backUp(t, c)
			if logs := logsIn(t, cfg); len(logs) != 2 || slices.ContainsFunc(slices.Collect(maps.Values(logs)), func(n int) bool { return n != 2 }) {
				t.Errorf("entries by log: %v", logs)
			}
		})
	}
}

// locked has a service without identity and memory list a repository.
func locked(t *testing.T, server *natstest.Server, cfg config.Config, backup string) {
	t.Helper()
	i := run(t, cfg, service.Deps{})
	defer i.end()
	c := connect(t, server)
	list, err := c.BackupList(t.Context(), api.BackupListRequest{Stream: "WHATEVER"})
	if err != nil || list.Total != 1 || list.Backups[0].Locked != 2 || list.Backups[0].Messages == 0 || list.Backups[0].Target != "" || list.Backups[0].Time.IsZero() {
		t.Errorf("backups: %+v %v", list, err)
	}
	info, err := c.BackupInfo(t.Context(), api.BackupInfoRequest{Backup: backup})
	if err != nil || len(info.RestorePoints) != 2 {
		t.Fatalf("backup: %+v %v", info, err)
	}
	for _, p := range info.RestorePoints {
		if !p.Locked || p.Error != nil || p.Stream != "" || p.Digest != "" || p.Messages == 0 || p.Time.IsZero() {
			t.Errorf("restore point: %+v", p)
		}
	}
	if r, err := c.RepositoryInfo(t.Context(), api.RepositoryInfoRequest{}); err != nil || r.Locked != 2 || r.RestorePoints != 2 || r.Damaged != 0 {
		t.Errorf("repository: %+v %v", r, err)
	}
	for _, q := range []api.RestoreRequest{{}, {Backup: backup}} {
		if _, err := c.RestorePlan(t.Context(), q); !api.HasCode(err, api.CodeLocked) {
			t.Errorf("plan: %v", err)
		}
	}
}

// TestInstancesShareKeys has two instances make one repository and its writer
// key at the same moment.
func TestInstancesShareKeys(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	makeStreams(t, server.Connect(), 12)
	op := operator(t)
	cfg := encrypted(t, server, op)
	cfg.Concurrency = 1
	other := cfg
	other.Instance, other.Staging.Dir = "other", filepath.Join(t.TempDir(), "staging")
	run(t, cfg, service.Deps{})
	run(t, other, service.Deps{})
	c := connect(t, server)
	a, err := c.BackupCreate(t.Context(), api.BackupCreateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	wait(t, c, a.Session, api.StateSucceeded)
	for range 4 { // answered by one or the other
		info, err := c.RepositoryInfo(t.Context(), api.RepositoryInfoRequest{})
		if err != nil || info.Locked != 0 || info.RestorePoints != 12 {
			t.Errorf("repository: %+v %v", info, err)
		}
	}
	// Not restored: two instances at once are too much for a single server.
	if v := verifyAll(t, c, api.RepositoryVerifyRequest{Level: api.LevelRecords, Identity: sealed(t, c, op)}, api.StateSucceeded); v.Points != 12 {
		t.Errorf("verification: %+v", v)
	}
}

// logsIn counts the entries of each log in a repository.
func logsIn(t *testing.T, cfg config.Config) map[string]int {
	t.Helper()
	out := map[string]int{}
	for _, f := range filesBelow(t, cfg.Repositories[0].Path, "chains") {
		out[filepath.Base(filepath.Dir(f))]++
	}
	return out
}

// TestNewestWriterKeyIsAdopted: of several that were lost, the one whose logs
// go on furthest.
func TestNewestWriterKeyIsAdopted(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	someStreams(t, server)
	op := operator(t)
	cfg := encrypted(t, server, op)
	forget := func() {
		t.Helper()
		js, err := jetstream.New(server.Connect())
		if err != nil {
			t.Fatal(err)
		}
		if err := js.DeleteKeyValue(t.Context(), api.BucketState); err != nil {
			t.Fatal(err)
		}
	}
	c := connect(t, server)
	var older map[string]int
	for round := range 3 {
		i := run(t, cfg, service.Deps{})
		backUp(t, c)
		i.end()
		forget()
		logs := logsIn(t, cfg)
		if len(logs) != 2*(round+1) {
			t.Fatalf("logs after round %d: %v", round, logs)
		}
		if round == 1 {
			older = logs
		}
	}
	before := logsIn(t, cfg)
	cfg.Repositories[0].IdentityFile = keyFile(t, op)
	run(t, cfg, service.Deps{})
	newest := map[string]bool{}
	info, err := c.RepositoryInfo(t.Context(), api.RepositoryInfoRequest{})
	if err != nil || info.Locked != 0 || info.RestorePoints != 6 {
		t.Errorf("repository: %+v %v", info, err)
	}
	backUp(t, c)
	after := logsIn(t, cfg)
	for chain, n := range after {
		if n == 2 && before[chain] == 1 {
			newest[chain] = true
		}
		if older[chain] != 0 && n != 1 {
			t.Errorf("an older log goes on: %v", after)
		}
	}
	if len(after) != 6 || len(newest) != 2 {
		t.Errorf("entries by log: %v, before %v", after, before)
	}
}
