package service_test

import (
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/config"
	"jetkeep/service/natstest"
)

// save writes a file that only we can read.
func save(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// userKey makes a user's nkey; the seed is in a file.
func userKey(t *testing.T, dir, name string) (public, file string) {
	t.Helper()
	k, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	seed, _ := k.Seed()
	public, _ = k.PublicKey()
	return public, save(t, dir, name, string(seed))
}

// operatorMode returns the configuration of a server whose accounts are JWTs,
// and a file with the credentials of a user of one that has JetStream, and of one
// of an account that the server does not know.
func operatorMode(t *testing.T, dir string) (conf, creds, foreign string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	op, err := nkeys.CreateOperator()
	must(err)
	opKey, _ := op.PublicKey()
	opJWT, err := jwt.NewOperatorClaims(opKey).Encode(op)
	must(err)
	account := func(name string, js bool) (string, string, nkeys.KeyPair) {
		k, err := nkeys.CreateAccount()
		must(err)
		key, _ := k.PublicKey()
		c := jwt.NewAccountClaims(key)
		c.Name = name
		if js {
			c.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
		}
		token, err := c.Encode(op)
		must(err)
		return key, token, k
	}
	user := func(name string, of nkeys.KeyPair) string {
		k, err := nkeys.CreateUser()
		must(err)
		key, _ := k.PublicKey()
		token, err := jwt.NewUserClaims(key).Encode(of)
		must(err)
		seed, _ := k.Seed()
		b, err := jwt.FormatUserConfig(token, seed)
		must(err)
		return save(t, dir, name, string(b))
	}
	sysKey, sys, _ := account("SYS", false)
	key, token, k := account("SHOP", true)
	_, _, other := account("OTHER", true)
	conf = fmt.Sprintf("operator: %s\nsystem_account: %s\nresolver: MEMORY\nresolver_preload { %s: %s, %s: %s }\n", opJWT, sysKey, sysKey, sys, key, token)
	return conf, user("right.creds", k), user("wrong.creds", other)
}

// A login is a server that demands it, how a target gives it, and how it does so
// wrongly.
type login struct {
	server       string // configuration
	right, wrong string // of the target; URL stands for the server's address
	connect      []nats.Option
	host         string // default 127.0.0.1
}

// blamed is what the error of a wrong login says of the field that is wrong.
func blamed(name string) string {
	switch name {
	case "user", "file":
		return "(user, password: "
	case "tls-user", "nobody":
		return "set user and password"
	case "tls":
		return "(tls.ca: "
	case "mutual":
		return "(tls.cert, tls.key: "
	case "context-mutual":
		return "(tls.cert, tls.key, or those of context context-mutual-wrong: "
	case "token", "nkey", "creds":
		return "(" + name + ": "
	}
	return "(context: "
}

// Every way to log in, each with a server that lets nobody in otherwise, all of
// them targets of one service, from one file.
func TestEveryLogin(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	contexts := filepath.Join(os.Getenv("XDG_CONFIG_HOME"), "nats", "context")
	if err := os.MkdirAll(contexts, 0o700); err != nil {
		t.Fatal(err)
	}
	ca, cert, key := natstest.Certificates(t, dir)
	public, seed := userKey(t, dir, "right.nk")
	_, otherSeed := userKey(t, dir, "wrong.nk")
	operator, creds, foreign := operatorMode(t, dir)
	password := save(t, dir, "password", "very-secret\n")
	tlsOf := func(verify bool) string {
		return fmt.Sprintf("tls { cert_file: %q, key_file: %q, ca_file: %q, verify: %t }", cert, key, ca, verify)
	}
	nkey, err := nats.NkeyOptionFromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	users := `authorization { users: [ {user: u, password: "very-secret"} ] }`
	nkeyUsers := fmt.Sprintf("authorization { users: [ {nkey: %s} ] }", public)
	logins := map[string]login{
		"user":     {users, `user: u, password: "very-secret"`, `user: u, password: "wrong-secret"`, []nats.Option{nats.UserInfo("u", "very-secret")}, ""},
		"file":     {users, fmt.Sprintf("user: u, password_file: %q", password), `user: v, password: "very-secret"`, []nats.Option{nats.UserInfo("u", "very-secret")}, ""},
		"nobody":   {users, `user: u, password: "very-secret"`, "", []nats.Option{nats.UserInfo("u", "very-secret")}, ""},
		"token":    {fmt.Sprintf("authorization { token: %q }", tokenSecret), "token: $" + tokenVariable, `token: "wrong-secret"`, []nats.Option{nats.Token(tokenSecret)}, ""},
		"nkey":     {nkeyUsers, fmt.Sprintf("nkey: %q", seed), fmt.Sprintf("nkey: %q", otherSeed), []nats.Option{nkey}, ""},
		"creds":    {operator, fmt.Sprintf("creds: %q", creds), fmt.Sprintf("creds: %q", foreign), []nats.Option{nats.UserCredentials(creds)}, ""},
		"tls":      {tlsOf(false), fmt.Sprintf("tls { ca: %q }", ca), "tls { first: false }", []nats.Option{nats.RootCAs(ca)}, "localhost"},
		"mutual":   {tlsOf(true), fmt.Sprintf("tls { ca: %q, cert: %q, key: %q }", ca, cert, key), fmt.Sprintf("tls { ca: %q }", ca), []nats.Option{nats.RootCAs(ca), nats.ClientCert(cert, key)}, "localhost"},
		"tls-user": {tlsOf(true) + "\n" + users, fmt.Sprintf("tls { ca: %q, cert: %q, key: %q }, user: u, password: \"very-secret\"", ca, cert, key), fmt.Sprintf("tls { ca: %q, cert: %q, key: %q }", ca, cert, key), []nats.Option{nats.RootCAs(ca), nats.ClientCert(cert, key), nats.UserInfo("u", "very-secret")}, "localhost"},
	}
	for name, as := range map[string][2]string{
		"user":   {`"user":"u","password":"very-secret"`, `"user":"u","password":"wrong-secret"`},
		"token":  {`"token":"token-secret"`, `"token":"wrong-secret"`},
		"nkey":   {fmt.Sprintf(`"nkey":%q`, seed), fmt.Sprintf(`"nkey":%q`, otherSeed)},
		"creds":  {fmt.Sprintf(`"creds":%q`, creds), fmt.Sprintf(`"creds":%q`, foreign)},
		"mutual": {fmt.Sprintf(`"ca":%q,"cert":%q,"key":%q`, ca, cert, key), fmt.Sprintf(`"ca":%q`, ca)},
	} {
		l := logins[name]
		l.right, l.wrong = "CONTEXT "+as[0], "CONTEXT "+as[1]
		logins["context-"+name] = l
	}
	control := natstest.Start(t)
	text := fmt.Sprintf("control { url: %q }\nstaging { dir: %q }\nrepositories { main { path: %q, create: true } }\ntargets {\n",
		control.URL(), filepath.Join(dir, "staging"), filepath.Join(dir, "repository"))
	for _, name := range slices.Sorted(maps.Keys(logins)) {
		l := logins[name]
		server := natstest.Start(t, natstest.Config(l.server))
		url := server.URL()
		if l.host != "" {
			url = "nats://" + net.JoinHostPort(l.host, strconv.Itoa(server.Port()))
		}
		nc := natstest.Connect(t, url, l.connect...)
		natstest.MakeStream(t, nc, `{"name":"S","subjects":["s"],"storage":"file","retention":"limits","num_replicas":1}`)
		natstest.PublishTo(t, nc, "s", 10, 100)
		if nc, err := nats.Connect(url); err == nil {
			nc.Close()
			t.Fatalf("the server of %s lets everybody in", name)
		}
		for suffix, how := range map[string]string{"": l.right, "-wrong": l.wrong} {
			if fields, ok := strings.CutPrefix(how, "CONTEXT "); ok {
				save(t, contexts, name+suffix+".json", fmt.Sprintf(`{"url":%q,%s}`, url, fields))
				text += fmt.Sprintf("  %s%s { context: %q }\n", name, suffix, name+suffix)
			} else {
				text += fmt.Sprintf("  %s%s { url: %q, %s }\n", name, suffix, url, how)
			}
		}
	}
	f, err := config.ReadFile(save(t, dir, "jetkeep.conf", text+"}\n"))
	if err != nil {
		t.Fatal(err)
	}
	run(t, f.Config, service.Deps{})
	cl := connect(t, control)
	for name := range logins {
		a, err := cl.BackupCreate(t.Context(), api.BackupCreateRequest{Target: name})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if r := wait(t, cl, a.Session, api.StateSucceeded); r.Progress.Messages != 10 {
			t.Errorf("%s: %+v", name, r.Progress)
		}
		d, err := cl.RestoreCreate(t.Context(), api.RestoreRequest{Target: name, Backup: a.Backup})
		if err == nil || !api.HasCode(err, api.CodeStreamExists) {
			t.Errorf("%s: a restore over the stream: %v %v", name, d, err)
		}
		_, err = cl.BackupCreate(t.Context(), api.BackupCreateRequest{Target: name + "-wrong"})
		if !api.HasCode(err, api.CodeTargetUnavailable) || !strings.Contains(err.Error(), name+"-wrong") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s with a wrong login: %v", name, err)
		}
		if err != nil && !strings.Contains(err.Error(), blamed(name)) {
			t.Errorf("%s with a wrong login: it lacks %q: %v", name, blamed(name), err)
		}
		t.Logf("%s: %v", name, err)
	}
}
