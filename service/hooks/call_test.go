package hooks

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"jetkeep/service/config"
	"jetkeep/store/testenv"
)

// A command may print what it likes: it takes no more memory than what is read.
func TestCommandThatPrintsALot(t *testing.T) {
	for _, to := range []string{"", " >&2; exit 1"} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := run(t.Context(), []string{"/bin/sh", "-c", "head -c 50000000 /dev/zero" + to}, "k", []byte("{}"))
		runtime.ReadMemStats(&after)
		if err == nil || len(err.Error()) > 1000 {
			t.Errorf("%q: %v", to, err)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 5<<20 {
			t.Errorf("%q: it took %d bytes", to, n)
		}
	}
}

// Nothing is left of a command whose time is over, nor of what it started.
func TestCommandThatHangs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := run(ctx, []string{"/bin/sh", "-c", `sleep 777 & echo $! > "$0"; sleep 777`, file}, "k", []byte("{}"))
		ended <- err
	}()
	pid := 0
	testenv.Until(t, "what the command starts", func() error {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		pid, err = strconv.Atoi(strings.TrimSuffix(string(b), "\n"))
		return err
	})
	cancel()
	if err := testenv.Receive(t, "the end of the command", ended); err == nil {
		t.Fatal("it ended well")
	}
	t.Cleanup(func() {
		if t.Failed() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	testenv.True(t, "the end of what the command started", func() bool { return syscall.Kill(pid, 0) != nil || zombie(pid) })
}

// zombie tells whether a process has ended and nobody asked how.
func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(b), ") Z ")
}

// A redirection is not followed, what is secret goes nowhere else, and an answer
// that repeats it shows it to nobody.
func TestPost(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
	}))
	defer other.Close()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved/secret":
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
		case "/refused":
			bare := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
			http.Error(w, fmt.Sprintf("key %s, token %s, %s", r.Header.Get("X-Api-Key"), bare, r.URL.Query().Get("x")), http.StatusForbidden)
		case "/empty/secret":
			w.WriteHeader(http.StatusBadGateway)
		case "/large/secret":
			for range 100 {
				_, _ = w.Write(make([]byte, 1000))
			}
		default:
			http.Error(w, fmt.Sprintf("cannot POST %s as %s", r.URL.RequestURI(), r.Header.Get("Authorization")), http.StatusNotFound)
		}
	}))
	defer web.Close()
	for path, want := range map[string]string{
		"/empty/secret":        "answers 502 Bad Gateway\n",
		"/moved/secret":        "answers 307 Temporary Redirect",
		"/large/secret":        "has more than 65536 bytes",
		"/refused?x=secret%21": "answers 403 Forbidden: key [redacted], token [redacted], [redacted]",
		"/none/secret?x=%21":   "answers 404 Not Found: cannot POST [redacted] as [redacted]",
	} {
		to := &config.Call{URL: config.Secret(web.URL + path), Authorization: "Bearer secret", Timeout: testenv.Hang, Headers: map[string]config.Secret{"X-Api-Key": "secret key"}}
		_, err := new(Caller).ask(t.Context(), to, "", "k", []byte("{}"))
		if err == nil || !strings.Contains(err.Error()+"\n", want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, should have %s", path, err, want)
		}
	}
}
