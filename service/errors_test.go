package service_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/config"
	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
	"jetkeep/store"
	"jetkeep/store/object"
	"jetkeep/store/object/faulty"
	"jetkeep/store/object/mem"
	"jetkeep/store/testenv"
)

// TestRequestErrors asks for what cannot be and looks at the answer as it is
// on the wire.
func TestRequestErrors(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	nc := server.Connect()
	natstest.MakeStream(t, nc, map[string]any{"name": "ORDERS", "subjects": []string{"orders.>"}, "storage": "file"})
	cfg := setup(t, server)
	cfg.Targets = []config.Target{
		{Name: "default", Options: cfg.Control},
		{Name: "gone", Options: natsconn.Options{URL: "nats://127.0.0.1:1"}},
	}
	cfg.Repositories = append(cfg.Repositories, config.Repository{Name: "absent", Path: filepath.Join(t.TempDir(), "absent")})
	run(t, cfg, service.Deps{})
	for _, c := range []struct {
		name, endpoint, body string
		code                 api.ErrCode
		says                 string
	}{
		{"unknown field", api.BackupCreate, `{"strems":["A"]}`, api.CodeUnknownField, `"strems"`},
		{"field in the wrong case", api.BackupCreate, `{"Streams":["A"]}`, api.CodeUnknownField, `"Streams"`},
		{"field of later versions", api.RestoreCreate, `{"as":{"A":"B"}}`, api.CodeUnknownField, `"as"`},
		{"field twice", api.BackupCreate, `{"target":"a","target":"b"}`, api.CodeInvalidRequest, "twice"},
		{"wrong type", api.BackupCreate, `{"streams":"ORDERS"}`, api.CodeInvalidRequest, "streams"},
		{"not JSON", api.BackupCreate, `streams=ORDERS`, api.CodeInvalidJSON, ""},
		{"cut off", api.BackupCreate, `{"streams":["ORD`, api.CodeInvalidJSON, "ends"},
		{"an array", api.BackupCreate, `[]`, api.CodeInvalidJSON, "object"},
		{"two values", api.BackupCreate, `{} {}`, api.CodeInvalidJSON, "follows"},
		{"too large", api.BackupCreate, `{"streams":["` + strings.Repeat("x", api.MaxBody) + `"]}`, api.CodeBodyTooLarge, ""},
		{"bad stream name", api.BackupCreate, `{"streams":["a.b"]}`, api.CodeInvalidStream, `"a.b"`},
		{"bad exclusion", api.BackupCreate, `{"exclude":["a b"]}`, api.CodeInvalidStream, `exclude[0]`},
		{"bad tag", api.BackupCreate, `{"tags":{"a b":"c"}}`, api.CodeInvalidRequest, "tags"},
		{"unknown target", api.BackupCreate, `{"target":"moon"}`, api.CodeTargetNotFound, "moon"},
		{"target that is not there", api.BackupCreate, `{"target":"gone"}`, api.CodeTargetUnavailable, "gone"},
		{"target that is not there", api.TargetInfo, `{"target":"gone"}`, api.CodeTargetUnavailable, "gone"},
		{"unknown repository", api.BackupCreate, `{"repository":"moon"}`, api.CodeRepoNotFound, "moon"},
		{"repository that is not there", api.BackupCreate, `{"repository":"absent"}`, api.CodeNotARepository, "absent"},
		{"unknown stream", api.BackupCreate, `{"streams":["NOPE"]}`, api.CodeStreamNotFound, "NOPE"},
		{"no match", api.BackupCreate, `{"streams":["NOPE*"]}`, api.CodeNoStreams, "NOPE*"},
		{"all excluded", api.BackupCreate, `{"exclude":["*"]}`, api.CodeNoStreams, ""},
		{"own stream", api.BackupCreate, `{"streams":["JETKEEP_TASKS"]}`, api.CodeReservedStream, "JETKEEP_TASKS"},
		{"own bucket", api.BackupCreate, `{"streams":["KV_JETKEEP_SESSIONS"]}`, api.CodeReservedStream, ""},
		{"unknown session", api.SessionInfo, `{"session":"20260101T000000Z-aaaaaaaa"}`, api.CodeSessionNotFound, ""},
		{"unknown session", api.SessionCancel, `{"session":"nonsense"}`, api.CodeSessionNotFound, ""},
		{"no session", api.SessionInfo, ``, api.CodeInvalidRequest, "session"},
		{"bad state", api.SessionList, `{"states":["odd"]}`, api.CodeInvalidRequest, "odd"},
		{"bad limit", api.SessionList, `{"limit":100000}`, api.CodeInvalidRequest, "limit"},
		{"unknown backup", api.BackupInfo, `{"backup":"20260101T000000Z-aaaaaaaa"}`, api.CodeBackupNotFound, ""},
		{"unknown backup", api.RestoreCreate, `{"backup":"20260101T000000Z-aaaaaaaa"}`, api.CodeBackupNotFound, ""},
		{"nothing to restore", api.RestorePlan, `{"at":"2020-01-01T00:00:00Z"}`, api.CodeBackupNotFound, ""},
		{"bad time", api.RestorePlan, `{"at":"yesterday"}`, api.CodeInvalidRequest, "yesterday"},
		{"backup and time", api.RestorePlan, `{"backup":"x","at":"2020-01-01T00:00:00Z"}`, api.CodeInvalidRequest, "at"},
		{"identity that is not sealed", api.RestorePlan, `{"identity_sealed":"AGE-SECRET-KEY-1XYZ"}`, api.CodeInvalidRequest, "identity_sealed"},
		{"nothing to delete", api.BackupDelete, ``, api.CodeInvalidRequest, `"restore_points"`},
		{"backup and restore points", api.BackupDelete, `{"backup":"a","restore_points":["a.0001"]}`, api.CodeInvalidRequest, "not both"},
		{"restore point twice", api.BackupDelete, `{"restore_points":["a.0001","a.0001"]}`, api.CodeInvalidRequest, "twice"},
		{"restore point that is no id", api.BackupPin, `{"restore_points":["../x"]}`, api.CodeInvalidRequest, "restore_points[0]"},
		{"too many restore points", api.BackupUnpin, `{"restore_points":["` + strings.Repeat(`a","`, 1000) + `b"]}`, api.CodeInvalidRequest, "1000"},
		{"unknown backup", api.BackupDelete, `{"backup":"20260101T000000Z-aaaaaaaa"}`, api.CodeBackupNotFound, ""},
		{"unknown backup", api.BackupPin, `{"backup":"20260101T000000Z-aaaaaaaa"}`, api.CodeBackupNotFound, ""},
		{"unknown restore point", api.BackupUnpin, `{"restore_points":["20260101T000000Z-aaaaaaaa.0001"]}`, api.CodeBackupNotFound, "0001"},
		{"unknown restore point", api.BackupVerify, `{"restore_points":["20260101T000000Z-aaaaaaaa.0001"]}`, api.CodeBackupNotFound, "0001"},
		{"long reason", api.BackupPin, `{"backup":"a","reason":"` + strings.Repeat("x", 2000) + `"}`, api.CodeInvalidRequest, "reason"},
		{"unknown level", api.BackupVerify, `{"backup":"a","level":"deep"}`, api.CodeInvalidRequest, `"deep"`},
		{"part without parts", api.RepositoryVerify, `{"part":1}`, api.CodeInvalidRequest, "part"},
		{"part beyond parts", api.RepositoryVerify, `{"part":4,"parts":3}`, api.CodeInvalidRequest, "part"},
		{"part and percent", api.RepositoryVerify, `{"part":1,"parts":3,"percent":5}`, api.CodeInvalidRequest, "percent"},
		{"percent", api.RepositoryVerify, `{"percent":101}`, api.CodeInvalidRequest, "percent"},
		{"repository that is not there", api.RepositoryVerify, `{"repository":"absent"}`, api.CodeNotARepository, "absent"},
		{"repository that is not there", api.RepositoryPrune, `{"repository":"absent"}`, api.CodeNotARepository, "absent"},
		{"unknown repository", api.RepositoryPrune, `{"repository":"moon"}`, api.CodeRepoNotFound, "moon"},
		{"policy with an unknown rule", api.RepositoryPrune, `{"keep":{"latest":3}}`, api.CodeUnknownField, "keep.latest"},
		{"policy that cannot be", api.RepositoryPrune, `{"keep":{"last":-2}}`, api.CodeInvalidRequest, "keep.last"},
		{"policy of a zone that is none", api.RepositoryPrune, `{"keep":{"last":1,"zone":"Mars/Base"}}`, api.CodeInvalidRequest, "keep.zone"},
		{"policy that keeps everything", api.RepositoryPrune, `{"keep":{}}`, api.CodeInvalidRequest, "keep"},
		{"wait that is none", api.RepositoryPrune, `{"grace":"soon"}`, api.CodeInvalidRequest, "grace"},
		{"wait below zero", api.RepositoryPrune, `{"orphan_age":"-1h"}`, api.CodeInvalidRequest, "orphan_age"},
		{"conflict mode of later versions", api.RestoreCreate, `{"conflict":"replace"}`, api.CodeNotSupported, "replace"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := refused(t, nc, c.endpoint, c.body)
			if e.ErrCode != c.code {
				t.Fatalf("code %s, not %s: %s", e.ErrCode, c.code, e.Description)
			}
			if !strings.Contains(e.Description, c.says) {
				t.Errorf("description does not say %q: %s", c.says, e.Description)
			}
		})
	}
}

// refused sends a request that must be refused and checks the form of the
// refusal.
func refused(t *testing.T, nc *nats.Conn, endpoint, body string) *api.Error {
	t.Helper()
	m, err := nc.Request("jetkeep.v1."+endpoint, []byte(body), testenv.Hang)
	if err != nil {
		t.Fatal(err)
	}
	var r api.ErrorResponse
	decode(t, m.Data, &r)
	if r.Error == nil {
		t.Fatalf("was not refused: %s", m.Data)
	}
	info := r.Error.ErrCode.Info()
	if info.ErrCode != r.Error.ErrCode || info.Code != r.Error.Code {
		t.Errorf("error %+v is not as in the table", r.Error)
	}
	if m.Header.Get(api.HeaderError) == "" || m.Header.Get(api.HeaderErrorCode) == "" {
		t.Errorf("headers are missing: %v", m.Header)
	}
	return r.Error
}

// failed starts a backup of everything and returns the error of its session,
// or of the request.
func failed(t *testing.T, server *natstest.Server) *api.Error {
	t.Helper()
	c := connect(t, server)
	a, err := c.BackupCreate(t.Context(), api.BackupCreateRequest{})
	if err != nil {
		var e *api.Error
		if !errors.As(err, &e) {
			t.Fatal(err)
		}
		return e
	}
	return wait(t, c, a.Session, api.StateFailed).Error
}

// memory is a repository in memory that fails as planned.
type memory struct{ repo *store.Repository }

func (m memory) List() []api.RepositoryView {
	return []api.RepositoryView{{Repository: "default", Kind: "memory"}}
}

func (m memory) Open(context.Context, string) (*store.Repository, error) { return m.repo, nil }

func (m memory) OpenToWrite(context.Context, string) (*store.Repository, error) { return m.repo, nil }

func newMemory(t *testing.T, faults ...faulty.Fault) memory {
	driver := mem.New()
	if _, err := store.Init(t.Context(), object.NewBucket(driver), store.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	repo, err := store.Open(t.Context(), object.NewBucket(faulty.New(t, driver, faults...)), store.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return memory{repo}
}

func TestStoreErrorsReachTheSession(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		code api.ErrCode
	}{
		{object.ErrNotWritable, api.CodeNotWritable},
		{object.ErrNoSpace, api.CodeDiskFull},
		{object.ErrPermission, api.CodeStorePermission},
		{&object.PermissionError{Action: "s3:GetObject", Kind: object.ErrPermission, Err: errors.New("AccessDenied")}, api.CodeStorePermission},
		{object.ErrUnavailable, api.CodeStoreUnavailable},
		{&object.WaitError{After: time.Second, Err: object.ErrThrottled}, api.CodeStoreUnavailable},
	} {
		t.Run(string(c.code), func(t *testing.T) {
			t.Parallel()
			server := natstest.Start(t)
			nc := server.Connect()
			natstest.MakeStream(t, nc, map[string]any{"name": "ORDERS", "subjects": []string{"orders.>"}, "storage": "file"})
			natstest.PublishTo(t, nc, "orders.new", 10, 100)
			run(t, setup(t, server), service.Deps{
				Repositories: newMemory(t, faulty.Fault{Op: faulty.Put, Times: -1, Err: c.err}),
			})
			if e := failed(t, server); e.ErrCode != c.code {
				t.Errorf("error: %+v", e)
			}
		})
	}
}

func TestRepositoryOfNewerFormat(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	cfg := setup(t, server)
	path := cfg.Repositories[0].Path
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, "jetkeep.json"), []byte(`{"format": 99}`), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, cfg, service.Deps{})
	for _, endpoint := range []string{api.RepositoryInfo, api.BackupCreate, api.BackupList, api.RestorePlan} {
		if e := refused(t, server.Connect(), endpoint, ""); e.ErrCode != api.CodeNewerFormat {
			t.Errorf("%s: %+v", endpoint, e)
		}
	}
}

// TestRepositoryOfOlderFormat: it can be read and restored, and is not written.
func TestRepositoryOfOlderFormat(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	nc := server.Connect()
	natstest.MakeStream(t, nc, map[string]any{"name": "NEW", "subjects": []string{"new.>"}, "storage": "file"})
	cfg := setup(t, server)
	if err := os.CopyFS(cfg.Repositories[0].Path, os.DirFS("../store/testdata/format1")); err != nil {
		t.Fatal(err)
	}
	run(t, cfg, service.Deps{})
	c := connect(t, server)
	list, err := c.BackupList(t.Context(), api.BackupListRequest{})
	if err != nil || list.Total == 0 {
		t.Errorf("backups: %+v %v", list, err)
	}
	if _, err := c.RestorePlan(t.Context(), api.RestoreRequest{From: list.Backups[0].Target}); err != nil {
		t.Errorf("plan: %v", err)
	}
	for endpoint, body := range map[string]string{
		api.BackupCreate: `{}`, api.RepositoryPrune: `{}`, api.BackupDelete: `{"backup":"` + list.Backups[0].Backup + `"}`,
	} {
		if e := refused(t, nc, endpoint, body); e.ErrCode != api.CodeOldFormat {
			t.Errorf("%s: %+v", endpoint, e)
		}
	}
}

// TestRepositoryThatWentAway moves the directory away, as an unmounted volume
// does, and puts an empty one in its place.
func TestRepositoryThatWentAway(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	cfg := setup(t, server)
	run(t, cfg, service.Deps{})
	c := connect(t, server)
	if _, err := c.RepositoryInfo(t.Context(), api.RepositoryInfoRequest{}); err != nil {
		t.Fatal(err)
	}
	path := cfg.Repositories[0].Path
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	for _, step := range []string{"missing", "empty"} {
		if e := refused(t, server.Connect(), api.BackupList, ""); e.ErrCode != api.CodeNotARepository {
			t.Errorf("%s: %+v", step, e)
		}
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatalf("something was made in place of the repository: %v", err)
	}
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	if _, err := c.RepositoryInfo(t.Context(), api.RepositoryInfoRequest{}); err != nil {
		t.Errorf("repository that came back: %v", err)
	}
}

func TestPermissionNamesTheSubject(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t, natstest.Config(`
		accounts {
			CONTROL { jetstream: enabled, users: [{user: control, password: x}] }
			APP { jetstream: enabled, users: [
				{user: app, password: x},
				{user: blind, password: x, permissions: {publish: {deny: "$JS.API.STREAM.NAMES"}}},
				{user: mute, password: x, permissions: {publish: {deny: ["$JS.API.STREAM.SNAPSHOT.>", "$JS.API.STREAM.INFO.>"]}}},
			]}
			BARE { users: [{user: bare, password: x}] }
		}`))
	app := server.Connect(nats.UserInfo("app", "x"))
	natstest.MakeStream(t, app, map[string]any{"name": "ORDERS", "subjects": []string{"orders.>"}, "storage": "file"})
	natstest.PublishTo(t, app, "orders.new", 10, 100)
	cfg := setup(t, server)
	as := func(user, password string) natsconn.Options {
		return natsconn.Options{URL: server.URL(), User: user, Password: natsconn.Secret(password)}
	}
	cfg.Control = as("control", "x")
	cfg.Targets = []config.Target{
		{Name: "blind", Options: as("blind", "x")}, {Name: "mute", Options: as("mute", "x")},
		{Name: "bare", Options: as("bare", "x")}, {Name: "wrong", Options: as("app", "y")},
	}
	run(t, cfg, service.Deps{})
	nc := server.Connect(nats.UserInfo("control", "x"))
	for _, c := range []struct {
		target string
		code   api.ErrCode
		says   string
	}{
		{"blind", api.CodePermission, "$JS.API.STREAM.NAMES"},
		{"bare", api.CodeNoJetStream, ""},
		{"wrong", api.CodeTargetUnavailable, "wrong"},
	} {
		e := refused(t, nc, api.BackupCreate, `{"target":"`+c.target+`"}`)
		if e.ErrCode != c.code || !strings.Contains(e.Description, c.says) {
			t.Errorf("target %s: %+v", c.target, e)
		}
	}
	m, err := nc.Request("jetkeep.v1."+api.BackupCreate, []byte(`{"target":"mute"}`), testenv.Hang)
	if err != nil {
		t.Fatal(err)
	}
	var a api.Accepted
	decode(t, m.Data, &a)
	e := wait(t, clientOf(t, nc), a.Session, api.StateFailed).Error
	if e.ErrCode != api.CodePermission || !strings.Contains(e.Description, "$JS.API.STREAM.INFO.ORDERS") {
		t.Errorf("task's error: %+v", e)
	}
}

func TestControlAccountIsChecked(t *testing.T) {
	t.Parallel()
	bare := natstest.Start(t, natstest.WithoutJetStream())
	_, err := service.New(t.Context(), setup(t, bare), service.Deps{})
	if err == nil || !strings.Contains(err.Error(), "JetStream is not available") {
		t.Errorf("server without JetStream: %v", err)
	}
	server := natstest.Start(t)
	cfg := setup(t, server)
	run(t, cfg, service.Deps{})
	other := setup(t, server)
	other.Prefix = "another.v1"
	_, err = service.New(t.Context(), other, service.Deps{})
	if err == nil || !strings.Contains(err.Error(), "prefix") {
		t.Errorf("another prefix on the same streams: %v", err)
	}
}
