package objectserver

import (
	"bytes"
	"embed"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"testing"
	"text/template"
	"time"
)

// SwiftOptions say which Swift is wanted. Each combination is a server of its
// own.
type SwiftOptions struct {
	// Keystone adds a Keystone beside Swift's own authentication.
	Keystone bool
	// TokenLife is how long tokens are good; 0 means a day.
	TokenLife time.Duration
}

// A SwiftServer is a running Swift: a proxy and one server each for objects,
// containers and accounts. Its own authentication speaks version 1; User owns
// the account, Writer and Reader have no rights but what containers grant them,
// Stranger owns another account. Their keys are testing, testing2, testing3 and
// testing4.
type SwiftServer struct {
	URL      string // of the proxy
	AuthURL  string // version 1
	User     string
	Key      string
	Writer   string
	Reader   string
	Stranger string
	Keystone *Keystone // nil unless asked for

	server       *server
	container    *process // stopped and started by Freeze
	containerURL string
}

// A Keystone is the identity service beside a Swift.
type Keystone struct {
	AuthURL  string // version 3
	User     string // has the role member in Project
	Password string
	Reader   string // has the role reader, which gives no rights in Swift
	ReaderPassword,
	Project, Domain, Region string
}

//go:embed conf/*.conf
var templates embed.FS

// swiftConf is what the templates know.
type swiftConf struct {
	Name, User, Dir         string
	Port, Memcached         int
	Keystone                bool
	KeystonePort, TokenLife int
}

// Swift returns a Swift, which is started if it does not run.
func Swift(t testing.TB, o SwiftOptions) *SwiftServer {
	t.Helper()
	if o.TokenLife == 0 {
		o.TokenLife = 24 * time.Hour
	}
	kind := fmt.Sprintf("swift, tokens for %s, Keystone %v", o.TokenLife, o.Keystone)
	return once(t, kind, func(s *server) (*SwiftServer, error) { return startSwift(s, o) })
}

func startSwift(s *server, o SwiftOptions) (*SwiftServer, error) {
	for _, binary := range swiftBinaries(o.Keystone) {
		if _, err := installed(binary); err != nil {
			return nil, err
		}
	}
	for _, dir := range []string{"conf", "log", "cache", "ks/fernet", "ks/credential", "srv/d1"} {
		if err := os.MkdirAll(filepath.Join(s.dir, dir), 0o755); err != nil {
			return nil, err
		}
	}
	if err := attributes(filepath.Join(s.dir, "srv", "d1")); err != nil {
		return nil, err
	}
	me, err := user.Current()
	if err != nil {
		return nil, err
	}
	ports, err := freePorts(6)
	if err != nil {
		return nil, err
	}
	c := swiftConf{
		User: me.Username, Dir: s.dir, Memcached: ports[1], Keystone: o.Keystone, KeystonePort: ports[5],
		TokenLife: int(o.TokenLife / time.Second),
	}
	proxy := "http://" + address(ports[0])
	x := &SwiftServer{
		URL: proxy, AuthURL: proxy + "/auth/v1.0", User: "test:tester", Key: "testing",
		Writer: "test:writer", Reader: "test:reader", Stranger: "test2:stranger", server: s,
	}
	if o.Keystone {
		if x.Keystone, err = startKeystone(s, c, proxy); err != nil {
			return nil, fmt.Errorf("keystone: %w", err)
		}
	}
	if err := s.run("memcached", nil, "/usr/bin/memcached", "-l", "127.0.0.1", "-p", strconv.Itoa(ports[1]), "-U", "0", "-m", "64", "-u", me.Username); err != nil {
		return nil, err
	}
	for i, name := range []string{"object", "container", "account"} {
		c.Name, c.Port = name, ports[2+i]
		if err := s.startStorage(c); err != nil {
			return nil, err
		}
		if name == "container" {
			x.container, x.containerURL = s.procs[len(s.procs)-1], "http://"+address(c.Port)
		}
	}
	c.Name, c.Port = "proxy", ports[0]
	conf, err := s.render("proxy.conf", "proxy-server.conf", c)
	if err != nil {
		return nil, err
	}
	if err := s.run("proxy", nil, "/usr/bin/swift-proxy-server", conf); err != nil {
		return nil, err
	}
	checks := []func() error{answers(x.AuthURL, http.Header{"X-Auth-User": {x.User}, "X-Auth-Key": {x.Key}})}
	for _, port := range []int{ports[0], ports[2], ports[3], ports[4]} {
		checks = append(checks, answers("http://"+address(port)+"/healthcheck", nil))
	}
	return x, s.await(checks...)
}

func swiftBinaries(keystone bool) []string {
	list := []string{
		"/usr/bin/swift-proxy-server", "/usr/bin/swift-object-server", "/usr/bin/swift-container-server",
		"/usr/bin/swift-account-server", "/usr/bin/swift-ring-builder", "/usr/bin/memcached", "/etc/swift/swift.conf",
	}
	if keystone {
		list = append(list, "/usr/bin/keystone-manage", "/usr/bin/keystone-wsgi-public", "/usr/bin/python3")
	}
	return list
}

// attributes checks that files can have extended attributes, where Swift keeps
// what it knows of objects.
func attributes(dir string) error {
	path := filepath.Join(dir, "attributes")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	if err := setxattr(path, "user.swift.metadata", make([]byte, 2000)); err != nil {
		return fmt.Errorf("Swift needs extended attributes of 2000 bytes in %s, set TMPDIR to a file system that has them: %w", dir, err)
	}
	return os.Remove(path)
}

// startStorage makes the ring of one of the storage servers and starts it.
func (s *server) startStorage(c swiftConf) error {
	builder := c.Name + ".builder"
	for _, args := range [][]string{
		{builder, "create", "6", "1", "0"},
		{builder, "add", fmt.Sprintf("r1z1-%s/d1", address(c.Port)), "1"},
		{builder, "rebalance"},
	} {
		if err := s.command(filepath.Join(s.dir, "conf"), nil, "/usr/bin/swift-ring-builder", args...); err != nil {
			return err
		}
	}
	conf, err := s.render("storage.conf", c.Name+"-server.conf", c)
	if err != nil {
		return err
	}
	return s.run(c.Name, nil, "/usr/bin/swift-"+c.Name+"-server", conf)
}

// command runs a program to its end.
func (s *server) command(dir string, env []string, binary string, args ...string) error {
	cmd := exec.Command(binary, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = dieWithParent()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %q: %w\n%s", binary, args, err, out)
	}
	return nil
}

// render writes a configuration and returns its path.
func (s *server) render(name, file string, c swiftConf) (string, error) {
	t, err := template.ParseFS(templates, "conf/"+name)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, c); err != nil {
		return "", err
	}
	path := filepath.Join(s.dir, "conf", file)
	return path, os.WriteFile(path, b.Bytes(), 0o600)
}

// Freeze stops the container server until the returned function is called, at
// the latest at the test's end: what is written meanwhile is in no listing
// before Update, as listings lag in a large Swift. Reads and writes go on for
// containers that were used within the last minute. No other test may run
// beside one that does it.
func (x *SwiftServer) Freeze(t testing.TB) (thaw func()) {
	t.Helper()
	x.container.stop()
	frozen := true
	thaw = func() {
		if !frozen {
			return
		}
		frozen = false
		if err := x.container.start(); err != nil {
			t.Errorf("start container server: %v", err)
			return
		}
		if err := x.server.await(answers(x.containerURL+"/healthcheck", nil)); err != nil {
			t.Errorf("start container server: %v", err)
		}
	}
	t.Cleanup(thaw)
	return thaw
}

// Update makes the listings current, which a Swift does every now and then.
func (x *SwiftServer) Update(t testing.TB) {
	t.Helper()
	conf := filepath.Join(x.server.dir, "conf", "object-server.conf")
	if err := x.server.command(x.server.dir, nil, "/usr/bin/swift-object-updater", conf, "--once"); err != nil {
		t.Fatalf("update listings: %v", err)
	}
}
