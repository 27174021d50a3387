package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"jetkeep/service/api"
	"jetkeep/service/natsconn"
)

// write writes a file of a test's configuration and returns its name.
func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

const whole = `
# a comment
instance: host-a
prefix: "backup.v1"
control {
  url: ["nats://a:4222", "nats://b:4222"]
  user: jetkeep
  password: $JETKEEP_TEST_PASSWORD
  tls { ca: ca.pem, cert: cert.pem, key: key.pem, first: true }
  domain: hub
  inbox_prefix: _INBOX_jetkeep
  timeout: "3s"
  request_timeout: "7s"
}
targets {
  orders { url: nats://orders:4222, token_file: %q }
  billing {
    default: yes
    context: billing
    api_prefix: JS.hub.API
    name: shown
  }
  keyed { nkey: user.nk }
  credited { creds: user.creds }
}
bucket_of_all: backups # for the variable below
repositories {
  main {
    kind: s3
    endpoint: "https://s3.example.net:9000"
    region: eu-1
    bucket: $bucket_of_all
    prefix: jetkeep/prod
    addressing: path
    credentials: static
    access_key: AKIAEXAMPLE
    secret_key_file: %q
    session_token: session-secret
    profile: p
    profile_file: pf
    ca_file: ca.pem
    storage_class: STANDARD_IA
    encryption: customer
    kms_key: k
    customer_key: customer-secret
    tags { team: data, cost: 42 }
    requester_pays: true
    retain_mode: governance
    retain_for: "720h"
    checksum: sha256
    conditional_writes: no
    part_size: 32MB
    parallel: 5
    upload_rate: 8MB
    download_rate: 9MB
    delete_versions: true
    retry_for: "90s"
    create: true
    recipient: %q
    trusted_keys: []
    keep { last: 3, daily: 14, within: "2d", zone: Europe/Berlin, tags: [a, b], floor: 2 }
    prune { cron: "@weekly", zone: Europe/Berlin }
  }
  swift {
    kind: swift
    auth_url: "https://keystone.example.net:5000/v3"
    auth_version: 3
    user: backup
    user_id: uid
    key: swift-secret
    domain: Default
    domain_id: did
    project: p
    project_id: pid
    project_domain: Default
    application_credential_id: acid
    application_credential_name: acn
    application_credential_secret: app-secret
    token: token-secret
    storage_url: "https://store/v1/AUTH_x"
    region: r
    interface: internal
    container: c
    prefix: x
    segment_container: c_segments
    segment_size: 1GB
    parallel: 4
    upload_rate: 6MB
    download_rate: 7MB
    ca_file: ca.pem
    retry_for: "5m"
  }
  dir { path: /srv/repository, identity_file: key.txt, sign_seed_file: seed }
}
staging { dir: /var/tmp/staging, limit: 4GB }
drill { dir: /var/tmp/drill, limit: 3GB }
concurrency: 3
replicas: 3
lease: "30s"
max_attempts: 5
sweep: "2s"
session_age: "48h"
metrics { listen: "9464", push_url: "http://gateway:9091", streams: 50 }
hooks {
  pause { when: before, of: task, on_error: continue, subject: orders.pause, account: control, timeout: "9s"
    kinds: [backup, restore], targets: "prod*", schedules: [nightly], streams: [A, "B?"] }
  freeze { when: after, policy: failure, command: ["/bin/freeze", "--all"] }
}
notifications {
  chat { url: "https://chat/hook-secret", authorization: "Bearer chat-secret", headers { X-Team: header-secret }, kinds: backup
    body: '{"text":{{.State | json}}}', content_type: "application/json", events: [failed], schedules: "*" }
}
`

var secrets = []string{"control-secret", "target-secret", "s3-secret", "session-secret", "customer-secret", "swift-secret", "app-secret", "token-secret", "hook-secret", "chat-secret", "header-secret"}

func readWhole(t *testing.T) *File {
	t.Helper()
	t.Setenv("JETKEEP_TEST_PASSWORD", "control-secret")
	dir := t.TempDir()
	key, token := write(t, dir, "key", "s3-secret\n"), write(t, dir, "token", "target-secret\r\n")
	pin := "SHA256:" + strings.Repeat("A", 43)
	text := fmt.Sprintf(whole, token, key, pin)
	text = strings.Replace(text, fmt.Sprintf("    recipient: %q\n", pin), "", 1)
	f, err := ReadFile(write(t, dir, "jetkeep.conf", text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestReadFile(t *testing.T) {
	c := readWhole(t).Config
	floor := 2
	want := Config{
		Instance: "host-a", Prefix: "backup.v1",
		Control: natsconn.Options{
			URL: "nats://a:4222,nats://b:4222", User: "jetkeep", Password: "control-secret",
			TLS:    natsconn.TLS{CA: "ca.pem", Cert: "cert.pem", Key: "key.pem", First: true},
			Domain: "hub", InboxPrefix: "_INBOX_jetkeep", Timeout: 3 * time.Second, RequestTimeout: 7 * time.Second,
		},
		Targets: []Target{
			{Name: "billing", Options: natsconn.Options{Context: "billing", APIPrefix: "JS.hub.API", Name: "shown"}},
			{Name: "orders", Options: natsconn.Options{URL: "nats://orders:4222", Token: "target-secret"}},
			{Name: "keyed", Options: natsconn.Options{NKeySeedFile: "user.nk"}},
			{Name: "credited", Options: natsconn.Options{Creds: "user.creds"}},
		},
		Repositories: []Repository{{
			Name: "main", Kind: KindS3, Create: true, TrustedKeys: []string{},
			Keep:  &api.Keep{Last: 3, Daily: 14, Within: "2d", Zone: "Europe/Berlin", Tags: []string{"a", "b"}, Floor: &floor},
			Prune: &Prune{Cron: "@weekly", Zone: "Europe/Berlin"},
			S3: S3{
				Endpoint: "https://s3.example.net:9000", Region: "eu-1", Bucket: "backups", Prefix: "jetkeep/prod", Addressing: "path",
				Credentials: "static", AccessKey: "AKIAEXAMPLE", SecretKey: "s3-secret", SessionToken: "session-secret",
				Profile: "p", ProfileFile: "pf", CAFile: "ca.pem", StorageClass: "STANDARD_IA", Encryption: "customer", KMSKey: "k",
				CustomerKey: "customer-secret", Tags: map[string]string{"team": "data", "cost": "42"}, RequesterPays: true,
				RetainMode: "governance", RetainFor: 720 * time.Hour, Checksum: "sha256", ConditionalWrites: "no", PartSize: 32 << 20,
				Parallel: 5, DeleteVersions: true, UploadRate: 8 << 20, DownloadRate: 9 << 20, RetryFor: 90 * time.Second,
			},
		}, {
			Name: "swift", Kind: KindSwift,
			Swift: Swift{
				AuthURL: "https://keystone.example.net:5000/v3", AuthVersion: 3, User: "backup", UserID: "uid", Key: "swift-secret",
				Domain: "Default", DomainID: "did", Project: "p", ProjectID: "pid", ProjectDomain: "Default",
				ApplicationCredentialID: "acid", ApplicationCredentialName: "acn", ApplicationCredentialSecret: "app-secret",
				Token: "token-secret", StorageURL: "https://store/v1/AUTH_x", Region: "r", Interface: "internal",
				Container: "c", Prefix: "x", SegmentContainer: "c_segments", SegmentSize: 1 << 30, Parallel: 4, CAFile: "ca.pem",
				UploadRate: 6 << 20, DownloadRate: 7 << 20, RetryFor: 5 * time.Minute,
			},
		}, {Name: "dir", Kind: KindLocal, Path: "/srv/repository", IdentityFile: "key.txt", SignSeedFile: "seed"}},
		Staging: Staging{Dir: "/var/tmp/staging", Limit: 4 << 30}, Drill: Drill{Dir: "/var/tmp/drill", Limit: 3 << 30}, Concurrency: 3, Replicas: 3, Lease: 30 * time.Second, MaxAttempts: 5, Sweep: 2 * time.Second, SessionAge: 48 * time.Hour,
		Metrics: Metrics{Listen: "9464", PushURL: "http://gateway:9091", Streams: 50},
		Hooks: []Hook{
			{
				Name: "pause", When: "before", Of: "task", OnError: OnErrorContinue,
				Call:  Call{Subject: "orders.pause", Account: AccountControl, Timeout: 9 * time.Second},
				Kinds: []string{"backup", "restore"}, Targets: []string{"prod*"}, Schedules: []string{"nightly"}, Streams: []string{"A", "B?"},
			},
			{
				Name: "freeze", When: "after", Of: "session", Policy: PolicyFailure, Kinds: []string{"backup"},
				Call: Call{Command: []string{"/bin/freeze", "--all"}, Timeout: DefaultCallTimeout},
			},
		},
		Notifications: []Notification{{
			Name: "chat", Events: []string{"failed"}, Kinds: []string{"backup"}, Schedules: []string{"*"},
			Call: Call{
				URL: "https://chat/hook-secret", Authorization: "Bearer chat-secret", Headers: map[string]Secret{"X-Team": "header-secret"},
				Timeout: DefaultCallTimeout,
			},
			Body: `{"text":{{.State | json}}}`, ContentType: "application/json",
		}},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("read\n%#v\nwant\n%#v", c, want)
	}
	everyFieldIsSet(t, want.Repositories[0].S3)
	everyFieldIsSet(t, want.Repositories[1].Swift)
	if got := c.Repositories[0].Location() + " " + c.Repositories[1].Location(); got != "s3://backups/jetkeep/prod swift://c/x" {
		t.Errorf("locations %s", got)
	}
}

// everyFieldIsSet fails if a field was added that the test does not read.
func everyFieldIsSet(t *testing.T, s any) {
	t.Helper()
	v := reflect.ValueOf(s)
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			t.Errorf("%T.%s is not tested", s, v.Type().Field(i).Name)
		}
	}
}

// TestSecretsAreNotShown prints a configuration in every way that there is.
func TestSecretsAreNotShown(t *testing.T) {
	f := readWhole(t)
	f.Config.Targets[1].URL = "nats://u:url-secret@orders:4222,tls://token-in-url@b"
	var out bytes.Buffer
	if err := f.Config.Write(&out); err != nil {
		t.Fatal(err)
	}
	written := out.String()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb, f.Config.Repositories)
		fmt.Fprintf(&out, verb, f.Config.Control)
		fmt.Fprintf(&out, verb, f.Config.Control.Password)
	}
	for _, log := range []*slog.Logger{slog.New(slog.NewTextHandler(&out, nil)), slog.New(slog.NewJSONHandler(&out, nil))} {
		log.Info("x", "all", f.Config, "one", f.Config.Control.Password, "repositories", f.Config.Repositories)
	}
	f.Config.Control.Log = nil
	if err := json.NewEncoder(&out).Encode(f.Config.Repositories); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(&out, fmt.Errorf("x: %v", f.Config.Repositories[0]))
	for _, s := range secrets {
		if strings.Contains(out.String(), s) || strings.Contains(out.String(), fmt.Sprintf("%x", s)) {
			t.Errorf("%s is shown", s)
		}
	}
	if strings.Contains(written, "url-secret") || strings.Contains(written, "token-in-url") {
		t.Errorf("a login in an address is shown:\n%s", written)
	}
	if n := strings.Count(written, `"[redacted]"`); n != len(secrets) {
		t.Errorf("%d secrets are shown as such, of %d:\n%s", n, len(secrets), written)
	}
	if !strings.Contains(written, `targets: ["prod*"]`) {
		t.Errorf("the targets of a hook are not shown:\n%s", written)
	}
	// What is written is a configuration, the same but for its secrets.
	back, err := parseFile(write(t, t.TempDir(), "back.conf", written))
	if err != nil {
		t.Fatalf("%v in\n%s", err, written)
	}
	var again bytes.Buffer
	if err := back.Config.Write(&again); err != nil || again.String() != written {
		t.Errorf("written again (%v):\n%s\nfirst:\n%s", err, again.String(), written)
	}
}

const minimal = "repositories { r { path: /r } }\nstaging { dir: /s }\n"

func TestWhatIsWrongIsNamed(t *testing.T) {
	t.Setenv("JETKEEP_TEST_CUT", "hidden1;concurrency=200")
	t.Setenv("JETKEEP_TEST_ESCAPE", `hidden\tx`)
	t.Setenv("JETKEEP_TEST_NUMBER", "99999999999999999999999")
	for text, want := range map[string]string{
		"concurency: 3\n" + minimal: ":1: concurency: unknown field, did you mean concurrency?",
		minimal + "Lease: \"3s\"":   ":3: Lease: unknown field, did you mean lease?",
		minimal + "xyzzy: 3":        ":3: xyzzy: unknown field, there are concurrency, control, drill, hooks, instance, lease, max_attempts, metrics, notifications, prefix, replicas, repositories, session_age, staging, storage, sweep, targets",
		"repositories {\n r {\n  kind: s3\n  bucket: b\n  endpont: x\n }\n}\nstaging { dir: /s }":             ":5: repositories.r.endpont: unknown field, did you mean endpoint?",
		"repositories {\n r {\n  kind: s3\n  bucket: b\n  secretkey: hidden2\n }\n}\nstaging { dir: /s }":     ":5: repositories.r.secretkey: unknown field, did you mean secret_key?",
		"repositories {\n r {\n  path: /r\n  auth_url: x\n }\n}\nstaging { dir: /s }":                         ":4: repositories.r.auth_url: unknown field, repositories of kind swift have it",
		"repositories {\n r {\n  kind: tape\n  path: /x\n }\n}\nstaging { dir: /s }":                          ":3: repositories.r.kind: \"tape\" is none, only local, s3, swift",
		"repositories {\n r {\n  kind: s3\n }\n}\nstaging { dir: /s }":                                        ":2: repositories.r.bucket: is required",
		"repositories {\n r {\n  kind: s3, bucket: b\n  path: /x\n }\n}\nstaging { dir: /s }":                 ":4: repositories.r.path: a repository of kind s3 has none",
		"repositories {\n a { kind: s3, bucket: b }\n b { kind: s3, bucket: b }\n}\nstaging { dir: /s }":      ":3: repositories.b.bucket: repository a has the same",
		"repositories {\n a { path: /a, default: true }\n b { path: /b, default: true }\n}\nstaging {dir: x}": ":3: repositories.b.default: another one is the default already, in line 2",
		"staging { dir: /s }":                                             ": repositories: there is none",
		"repositories { r { path: /r } }":                                 ": staging.dir: is required",
		minimal + "lease: 10m":                                            `:3: lease: must be a duration in quotes, such as "20s" or "10m"`,
		minimal + "lease: \"1ms\"":                                        ":3: lease: must be between 1s and 10m",
		minimal + "concurrency: many":                                     ":3: concurrency: must be a whole number",
		minimal + "control: x":                                            ":3: control: must be a block { … }",
		minimal + "control {\n password: 17\n}":                           ":4: control.password: must be a text; put it in quotes",
		minimal + "control {\n password: hidden3\n}":                      ":3: control: invalid connection options: password without user",
		minimal + "control {\n user: u\n password: hidden4\n token: x\n}": ":3: control: invalid connection options: more than one of",
		minimal + "control {\n url: \"nats://u:hidden7#x@host\"\n}":       ":3: control: invalid connection options: url: address 1 cannot be read",
		minimal + "targets {\n a { url: [a, http://b] }\n}":               ":4: targets.a: invalid connection options: url: address 2 begins with http://",
		minimal + "control {\n token: x\n token_file: /nowhere\n}":        ":5: control.token_file: token is given as well",
		minimal + "control {\n token_file: /nowhere\n}":                   ":4: control.token_file: read /nowhere: no such file",
		minimal + "control {\n user: $JETKEEP_TEST_CUT\n}":                ":4: the value of the environment variable JETKEEP_TEST_CUT is not read whole",
		minimal + "control {\n user: $JETKEEP_TEST_ESCAPE\n}":             ":4: the value of the environment variable JETKEEP_TEST_ESCAPE is not read whole",
		minimal + "control {\n user: $JETKEEP_TEST_NUMBER\n}":             "variable reference for 'JETKEEP_TEST_NUMBER' cannot be read",
		minimal + "control {\n user: $JETKEEP_TEST_NONE\n}":               ":4: variable reference for 'JETKEEP_TEST_NONE': there is neither a field nor an environment variable",
		minimal + "control {\n password: 88888888888888888888\n}":         "a number is out of range",
		minimal + "control {\n user: u } hidden6":                         ":4: expected a top-level value",
		minimal + "control {\n password: hidden5":                         "",
	} {
		dir := t.TempDir()
		file := write(t, dir, "x.conf", text)
		_, err := ReadFile(file)
		if err == nil {
			t.Errorf("accepted:\n%s", text)
			continue
		}
		if got := err.Error(); !strings.Contains(got, want) || !strings.HasPrefix(got, file) {
			t.Errorf("says %s\nwant   %s\nof\n%s", got, want, text)
		} else if strings.Contains(got, "hidden") || strings.Contains(got, "8888888888") || strings.Contains(got, "9999999999") {
			t.Errorf("shows a secret: %s", got)
		}
		if field := new(FieldError); !errors.As(err, &field) {
			t.Errorf("%v is no FieldError", err)
		}
	}
}

// TestAllProblemsAtOnce: who made three mistakes does not mend them one by one.
func TestAllProblemsAtOnce(t *testing.T) {
	file := write(t, t.TempDir(), "x.conf", "a: 1\n"+minimal+"b: 2\nlease: 3\n")
	_, err := ReadFile(file)
	if err == nil || strings.Count(err.Error(), "\n") != 2 || strings.Index(err.Error(), ":1:") > strings.Index(err.Error(), ":4:") {
		t.Errorf("%v", err)
	}
	if !errors.Is(err, ErrUnknownField) {
		t.Error("is no ErrUnknownField")
	}
}

// TestIncludes: included files are part of the block, and errors name them.
func TestIncludes(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "store.conf", "kind: s3\nbucket: b\nsecret_key: x\n")
	main := write(t, dir, "main.conf", "staging { dir: /s }\nrepositories {\n first { include store.conf }\n second { path: /x }\n}\n")
	f, err := ReadFile(main)
	if err != nil {
		t.Fatal(err)
	}
	if r := f.Config.Repositories; len(r) != 2 || r[0].S3.Bucket != "b" || r[1].Name != "second" {
		t.Errorf("%+v", r)
	}
	included := write(t, dir, "store.conf", "kind: s3\nbuckt: b\n")
	if _, err = ReadFile(main); err == nil || !strings.Contains(err.Error(), included+":2: repositories.first.buckt: unknown field, did you mean bucket?") {
		t.Errorf("%v", err)
	}
	write(t, dir, "store.conf", "kind: s3\nbucket: b\npassword: 888888888888888888888\n")
	if _, err = ReadFile(main); err == nil || strings.Contains(err.Error(), "88888888") {
		t.Errorf("%v", err)
	}
}

func TestSecretFiles(t *testing.T) {
	dir := t.TempDir()
	empty := write(t, dir, "empty", "\n")
	large := write(t, dir, "large", strings.Repeat("x", maxSecretFile+1))
	for _, file := range []string{empty, large} {
		_, err := ReadFile(write(t, dir, "x.conf", minimal+fmt.Sprintf("control { token_file: %q }", file)))
		if err == nil || !strings.Contains(err.Error(), "control.token_file: read "+file) {
			t.Errorf("%v", err)
		}
	}
	if _, err := ReadFile(filepath.Join(dir, "none")); err == nil || !strings.Contains(err.Error(), "none: no such file") {
		t.Errorf("%v", err)
	}
	if _, err := ReadFile(write(t, dir, "huge.conf", strings.Repeat("# comment\n", MaxFile/8))); err == nil {
		t.Error("a file without a bound")
	}
}

// TestQuotedVariable: what the language would cut is read whole in quotes.
func TestQuotedVariable(t *testing.T) {
	t.Setenv("JETKEEP_TEST_QUOTED", `"se;cret =x"`)
	f, err := ReadFile(write(t, t.TempDir(), "x.conf", minimal+"control { token: $JETKEEP_TEST_QUOTED }"))
	if err != nil || f.Config.Control.Token.Reveal() != "se;cret =x" {
		t.Errorf("%v", err)
	}
}

func FuzzReadFile(f *testing.F) {
	f.Add(fmt.Sprintf(whole, "t", "k", "p"))
	f.Add(minimal)
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "include") || strings.Contains(text, "_file") {
			return // it would read other files
		}
		file, err := ReadFile(write(t, t.TempDir(), "x.conf", text))
		if (file == nil) != (err != nil) {
			t.Errorf("%v, %v", file, err)
		}
	})
}

// TestDefaultKeepsLines: what is put first keeps the lines of its fields.
func TestDefaultKeepsLines(t *testing.T) {
	text := "staging { dir: /s }\nrepositories {\n a { path: /a }\n b {\n  path: /b\n  default: true\n  keep { zone: Mars/Base }\n }\n c { path: /c }\n}\n"
	_, err := ReadFile(write(t, t.TempDir(), "x.conf", text))
	if err == nil || !strings.Contains(err.Error(), ":7: repositories.b.keep: ") {
		t.Errorf("%v", err)
	}
}

// TestRepeatedFields: the second repository of a name must not take the place
// of the first without a word.
func TestRepeatedFields(t *testing.T) {
	for text, want := range map[string]string{
		minimal + "lease: \"3s\"\n# lease: \"4s\"\nlease = \"5s\"":                     ":5: lease: is there twice, first in line 3",
		"staging { dir: /s }\nrepositories {\n r { path: /a }\n r { path: /b }\n}":     ":4: repositories.r: is there twice, first in line 3",
		"staging { dir: /s }\nrepositories {\n r { path: /a }\n \"r\" { path: /b }\n}": ":4: repositories.r: is there twice, first in line 3",
		"staging {dir: /s, dir: /t}\nrepositories { r { path: /a } }":                  ":1: staging.dir: is there twice, first in line 1",
		"{staging {dir: /s}\nrepositories: {r: {path: '/a}', \"path\": \"/b\\\"{\"}}}": ":2: repositories.r.path: is there twice, first in line 2",
		minimal + "control {url: [a:1, b:2] // url: x\n user: u;user: v}":              ":4: control.user: is there twice, first in line 4",
		"targets { a { url: nats://x:1/#y }, a { url: \"# a {\" } }\n" + minimal:       ":1: targets.a: is there twice, first in line 1",
		minimal + "repositories { q { path: /q } }":                                    ":3: repositories: is there twice, first in line 1",
	} {
		_, err := ReadFile(write(t, t.TempDir(), "x.conf", text))
		if err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, ErrRepeated) {
			t.Errorf("says %v\nwant %s\nof\n%s", err, want, text)
		}
	}
	if found := findRepeated(whole); len(found) > 0 {
		t.Errorf("found in a file without any: %+v", found)
	}
	included := t.TempDir()
	write(t, included, "a.conf", "bucket: a\n")
	write(t, included, "b.conf", "prefix: b\nprefix: c\n")
	_, err := ReadFile(write(t, included, "x.conf", "staging {dir: x}\nrepositories { r { kind: s3, include a.conf\n include b.conf\n } }"))
	if err == nil || !strings.Contains(err.Error(), "b.conf:2: prefix: is there twice") || strings.Contains(err.Error(), "include") {
		t.Errorf("%v", err)
	}
}

func FuzzFindRepeated(f *testing.F) {
	f.Add(whole)
	f.Add("{a {b: [1, {c: \"}\"}], b: 'x'}}")
	f.Fuzz(func(t *testing.T, text string) {
		lines := strings.Count(text, "\n") + 1
		for _, r := range findRepeated(text) {
			if r.first < 1 || r.line < r.first || r.line > lines {
				t.Errorf("%+v of %d lines", r, lines)
			}
		}
	})
}
