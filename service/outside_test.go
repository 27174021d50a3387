package service

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/ncw/swift/v2"

	"jetkeep/service/api"
	"jetkeep/service/config"
	"jetkeep/service/jsapi"
	"jetkeep/service/natsconn"
	"jetkeep/store"
	"jetkeep/store/object"
	"jetkeep/store/staging"
)

// outside are errors as the operating system, the network, TLS, NATS and the
// stores' libraries have them.
func outside() map[string]error {
	out := map[string]error{
		"EOF": io.EOF, "unexpected EOF": io.ErrUnexpectedEOF, "closed": net.ErrClosed, "pipe": io.ErrClosedPipe,
		"dns":         &net.DNSError{Err: "no such host", Name: "nats.example", IsNotFound: true},
		"dns timeout": &net.DNSError{Err: "i/o timeout", Name: "nats.example", IsTimeout: true, IsTemporary: true},
		"address":     &net.AddrError{Err: "missing port in address", Addr: "x"},
		"authority":   x509.UnknownAuthorityError{}, "host": x509.HostnameError{Certificate: &x509.Certificate{}, Host: "x"},
		"expired":     x509.CertificateInvalidError{Cert: &x509.Certificate{}, Reason: x509.Expired},
		"certificate": &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}},
		"no TLS":      tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"},
		"alert":       tls.AlertError(40), "certificate required": tls.AlertError(116),
		"deadline": os.ErrDeadlineExceeded,
		"some way": errors.New("malformed HTTP response"),
	}
	for _, n := range []syscall.Errno{
		syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.ECONNABORTED, syscall.EPIPE, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.ETIMEDOUT,
		syscall.EADDRNOTAVAIL, syscall.EMFILE, syscall.ENFILE, syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EACCES, syscall.EPERM,
		syscall.EIO, syscall.ESTALE, syscall.ENOTCONN, syscall.ENOENT, syscall.ENOTDIR, syscall.EISDIR, syscall.EBUSY, syscall.ENAMETOOLONG,
		syscall.EFBIG, syscall.EINTR, syscall.ENOMEM, syscall.ENODEV,
	} {
		out["net "+n.Error()] = &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", n)}
		out["file "+n.Error()] = &fs.PathError{Op: "open", Path: "/x", Err: n}
		out["link "+n.Error()] = &os.LinkError{Op: "link", Old: "/x", New: "/y", Err: n}
		out["bare "+n.Error()] = n
	}
	for _, e := range []error{
		nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrAccountAuthExpired, nats.ErrNoServers, nats.ErrTimeout,
		nats.ErrNoResponders, nats.ErrConnectionClosed, nats.ErrConnectionReconnecting, nats.ErrConnectionDraining, nats.ErrDisconnected,
		nats.ErrSecureConnRequired, nats.ErrSecureConnWanted, nats.ErrNoInfoReceived, nats.ErrMaxPayload, nats.ErrBadSubject, nats.ErrBadSubscription,
		nats.ErrSlowConsumer, nats.ErrStaleConnection, nats.ErrMaxConnectionsExceeded, nats.ErrMaxAccountConnectionsExceeded,
		nats.ErrMaxSubscriptionsExceeded, nats.ErrReconnectBufExceeded, nats.ErrPermissionViolation, nats.ErrHeadersNotSupported,
		nats.ErrInvalidConnection, nats.ErrInvalidMsg, nats.ErrNoEchoNotSupported, nats.ErrNkeysNotSupported, nats.ErrTokenAlreadySet,
		jetstream.ErrNoStreamResponse, jetstream.ErrStreamNotFound, jetstream.ErrBucketNotFound, jetstream.ErrKeyExists, jetstream.ErrKeyNotFound,
		jetstream.ErrConsumerNotFound, jetstream.ErrJetStreamNotEnabled, jetstream.ErrJetStreamNotEnabledForAccount, jetstream.ErrConsumerDeleted,
		jetstream.ErrNoHeartbeat, jetstream.ErrInvalidBucketName, jetstream.ErrTooManyStalledMsgs,
	} {
		out["nats "+e.Error()] = e
	}
	for _, code := range []int{400, 404, 409, 429, 500, 503} {
		for _, e := range []int{0, 10002, 10023, 10026, 10028, 10047, 10052, 10077, 10113, 10122} {
			out[fmt.Sprintf("jetstream %d %d", code, e)] = &jetstream.APIError{Code: code, ErrorCode: jetstream.ErrorCode(e), Description: "it does not want"}
			out[fmt.Sprintf("api %d %d", code, e)] = &jsapi.APIError{Code: code, ErrCode: e, Description: "it does not want"}
		}
	}
	for _, status := range []int{301, 400, 401, 403, 404, 405, 409, 411, 412, 413, 416, 422, 429, 498, 500, 501, 502, 503, 504, 507, 511} {
		for _, code := range []string{"", "NotImplemented", "InvalidArgument", "MalformedXML", "MethodNotAllowed", "InvalidRequest", "NoSuchUpload", "Unheard"} {
			out[fmt.Sprintf("s3 %d %s", status, code)] = minio.ErrorResponse{StatusCode: status, Code: code, Message: "it does not want"}
		}
		out[fmt.Sprintf("swift %d", status)] = &swift.Error{StatusCode: status, Text: "it does not want"}
	}
	return out
}

// coded checks that an error has a code that says what to do.
func checkCoded(t *testing.T, where string, err error, not ...api.ErrCode) {
	t.Helper()
	e, known := classify(err)
	if err == nil || !known || e.ErrCode == api.CodeInternal {
		t.Errorf("%s: %v is told as %+v", where, err, e)
	}
	for _, code := range not {
		if e.ErrCode == code {
			t.Errorf("%s: %v is told as %s", where, err, code)
		}
	}
}

// failing is a store of which every operation fails, or reading what was opened.
type failing struct {
	err   error
	later bool
}

func (f failing) Put(context.Context, string, io.ReaderAt, int64) error { return f.err }
func (f failing) Stat(context.Context, string) (object.Info, error)     { return object.Info{}, f.err }
func (f failing) Delete(context.Context, string) error                  { return f.err }
func (f failing) List(context.Context, string, string, int) ([]object.Info, bool, error) {
	return nil, false, f.err
}

func (f failing) Get(context.Context, string, int64, int64) (io.ReadCloser, error) {
	if f.later {
		return io.NopCloser(brokenReader(f)), nil
	}
	return nil, f.err
}

type brokenReader failing

func (b brokenReader) Read([]byte) (int, error) { return 0, b.err }

// TestNothingFromOutsideIsInternal: whatever goes wrong outside of this process,
// wherever it is met, it has a code by which a person knows where to look.
func TestNothingFromOutsideIsInternal(t *testing.T) {
	t.Parallel()
	seen := map[api.ErrCode]int{}
	for name, err := range outside() {
		checkCoded(t, "connect to a target: "+name, connecting("t", fmt.Errorf("connect to nats://x: %w", err)))
		// Only they who know where it comes from can name what a store's library says.
		if name != "some way" && !strings.HasPrefix(name, "s3 ") && !strings.HasPrefix(name, "swift ") {
			checkCoded(t, "anywhere: "+name, fmt.Errorf("do something: %w", err))
		}
		for _, later := range []bool{false, true} {
			bucket := object.NewBucket(failing{err, later})
			where := fmt.Sprintf("store, %s, later %v", name, later)
			_, oerr := store.Open(t.Context(), bucket, store.OpenOptions{})
			checkCoded(t, where+", open", oerr)
			_, ierr := store.Init(t.Context(), bucket, store.InitOptions{})
			checkCoded(t, where+", init", ierr)
			checkCoded(t, where+", put", bucket.PutBytes(t.Context(), "x", nil))
			_, serr := bucket.Stat(t.Context(), "x")
			_, rerr := bucket.ReadAll(t.Context(), "x", 10)
			derr := bucket.Delete(t.Context(), "x")
			for op, err := range map[string]error{"stat": serr, "read": rerr, "delete": derr} {
				if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) { // too short an object, which the store judges
					checkCoded(t, where+", "+op, err, api.CodeConnectionLost)
				}
			}
			for _, lerr := range bucket.List(t.Context(), "") {
				checkCoded(t, where+", list", lerr)
			}
			e, _ := classify(oerr)
			seen[e.ErrCode]++
		}
	}
	t.Logf("codes of opening a repository: %v", seen)
}

// TestTargetsThatAreNone: what listens where a target should be.
func TestTargetsThatAreNone(t *testing.T) {
	t.Parallel()
	for name, behave := range map[string]func(net.Conn){
		"closes at once":           func(net.Conn) {},
		"resets":                   func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) },
		"closes after a greeting":  func(c net.Conn) { _, _ = io.WriteString(c, "INFO {}\r\n") },
		"closes within a greeting": func(c net.Conn) { _, _ = io.WriteString(c, "INFO {\"server_id\":") },
		"speaks HTTP":              func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") },
		"speaks nonsense":          func(c net.Conn) { _, _ = io.WriteString(c, "\x00\xff\r\n\r\n") },
		"greets with nonsense":     func(c net.Conn) { _, _ = io.WriteString(c, "INFO {\"max_payload\":\"x\"}\r\n") },
		"refuses":                  func(c net.Conn) { _, _ = io.WriteString(c, "-ERR 'maximum connections exceeded'\r\n") },
		"demands TLS": func(c net.Conn) {
			_, _ = io.WriteString(c, "INFO {\"tls_required\":true}\r\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					behave(c)
					_ = c.Close()
				}
			}()
			defer func() {
				_ = l.Close() // ends the loop
				<-done
			}()
			for scheme, o := range map[string]natsconn.Options{
				"nats": {}, "tls": {}, "tls first": {TLS: natsconn.TLS{First: true}},
			} {
				o.URL = "nats://" + l.Addr().String()
				if scheme == "tls" {
					o.URL = "tls://" + l.Addr().String()
				}
				list := targets{list: []config.Target{{Name: "x", Options: o}}}
				_, err := list.Dial(t.Context(), "x")
				if e := mapError(err); err == nil || e.ErrCode != api.CodeTargetUnavailable || e.Hint == "" {
					t.Errorf("%s: %v is told as %+v", scheme, err, e)
				}
			}
		})
	}
}

// TestStagingErrorsAreNamed: the same for the local disk.
func TestStagingErrorsAreNamed(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	dir := filepath.Join(parent, "below", "staging")
	area, err := staging.Open(dir, 100)
	if err != nil {
		t.Fatal(err)
	}
	defer area.Close()
	if err := os.RemoveAll(filepath.Join(parent, "below")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(parent, "below"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = area.Create(t.Context(), 10)
	checkCoded(t, "staging is gone", err)
	s := &Service{staging: area}
	if p := s.problems(); len(p) != 1 || !strings.Contains(p[0].Problem, dir) || p[0].Hint == "" {
		t.Errorf("problems: %+v", p)
	}
}

// TestDamageIsCalledDamage: whatever it was found by.
func TestDamageIsCalledDamage(t *testing.T) {
	for _, c := range codes() {
		err := fmt.Errorf("read: %w", &store.DamageError{Object: "packs/x", Err: c.err})
		switch e, _ := classify(err); {
		case errors.Is(c.err, store.ErrLocked), errors.Is(c.err, store.ErrWrongIdentity), errors.Is(c.err, store.ErrUntrusted):
		case e.ErrCode != api.CodeDamaged:
			t.Errorf("damage by %v is told as %s", c.err, e.ErrCode)
		}
	}
}

// unshown are errors that no answer can have, with the reason.
var unshown = map[string]string{
	"service/client.ErrNoService":     "of the client",
	"service/config.ErrRepeated":      "of a configuration, before the service begins",
	"service/config.ErrUnknownField":  "of a configuration",
	"service/config.ErrLocation":      "of a configuration or a command",
	"service/config.ErrSecretInURL":   "of a configuration or a command",
	"service/natsconn.ErrExposed":     "a warning",
	"service/queue.ErrNone":           "no task, which is awaited",
	"service/queue.ErrSubjects":       "of the start",
	"service.ErrServerTooOld":         "of the start",
	"service/stores.ErrKind":          "of a configuration",
	"service/scheduler.ErrExists":     "a session that another instance made",
	"service/session.ErrAbandoned":    "has its code where it is written down",
	"service/session.ErrNotOwner":     "another instance has the task, and says how it ended",
	"service/session.ErrTransition":   "a defect",
	"service/session.ErrExists":       "a session that another instance made",
	"service/state.ErrNone":           "handled where it is met",
	"service/transfer.ErrExists":      "of a command",
	"service/transfer.ErrOwn":         "of a command",
	"service/transfer.ErrNotBackedUp": "of a command",
	"service/transfer.ErrNoStream":    "of a command",
	"service/transfer.ErrMemory":      "of a command",
	"service/transfer.ErrNotABackup":  "of a command",
	"store.ErrBase":                   "a backup without it is made",
	"store.ErrLastOperator":           "of a command",
	"store.ErrNoOperator":             "of a command",
	"store.ErrNotEncrypted":           "of a command",
	"store.ErrOperatorExists":         "of a command",
	"store.ErrPlanUsed":               "a defect",
	"store.ErrSupposed":               "a defect",
	"store.ErrClosed":                 "a defect",
	"store.ErrOrder":                  "a defect: captures are checked before",
	"store.ErrIsRepository":           "of a command",
	"store.ErrNeedsLock":              "of a command: the service has the lock",
	"store/object.ErrExist":           "handled where it is met",
	"store/object.ErrNotExist":        "handled where it is met",
	"store/object.ErrUnexpected":      "has its code behind those that say more",
	"store/object.ErrInvalidName":     "a defect",
	"store/object/faulty.ErrInjected": "of tests",
	"store/seal.ErrLocked":            "store.ErrLocked",
	"store/seal.ErrWrongIdentity":     "store.ErrWrongIdentity",
	"store/sign.ErrUntrusted":         "store.ErrUntrusted",
	"store/seal.ErrKind":              "of a command",
	"store/sign.ErrKey":               "has its code where it is met",
	"store/staging.ErrLocked":         "of the start",
	"store/staging.ErrReserved":       "a defect",
}

// TestEverySentinelHasACode: an error that somebody found worth a name, and that
// an answer can have, has a code.
func TestEverySentinelHasACode(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("errors.go")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, root := range []string{".", "../store"} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			for _, name := range sentinels(t, path) {
				found++
				dir := filepath.ToSlash(filepath.Join("service", filepath.Dir(path)))
				if strings.Contains(string(source), "{"+filepath.Base(dir)+"."+name+", api.Code") {
					continue
				}
				if unshown[dir+"."+name] == "" {
					t.Errorf("%s.%s has no code in errors.go, and no reason for that here", dir, name)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if found < 80 {
		t.Errorf("only %d errors were found", found)
	}
}

// sentinels returns the exported errors that a file makes by errors.New.
func sentinels(t *testing.T, path string) (names []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	for _, decl := range file.Decls {
		g, ok := decl.(*ast.GenDecl)
		if !ok || g.Tok != token.VAR {
			continue
		}
		for _, spec := range g.Specs {
			v := spec.(*ast.ValueSpec)
			for i, name := range v.Names {
				if i >= len(v.Values) || !strings.HasPrefix(name.Name, "Err") || !name.IsExported() {
					continue
				}
				if call, ok := v.Values[i].(*ast.CallExpr); ok {
					if f, ok := call.Fun.(*ast.SelectorExpr); ok && f.Sel.Name == "New" {
						names = append(names, name.Name)
					}
				}
			}
		}
	}
	return names
}
