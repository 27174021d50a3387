package objectserver

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"jetkeep/store/object/httpclient"
	"jetkeep/store/testenv"
)

// Kinds of S3 servers.
const (
	Versitygw = "versitygw"
	MinIO     = "minio"
)

// S3Kinds returns the kinds of S3 servers, for tests to which it matters which it
// is: of policies of users, of whose retentions end when, of tokens, versions and
// keys that a store encrypts with.
func S3Kinds() []string { return []string{Versitygw, MinIO} }

// SomeS3Kinds returns the kinds of S3 servers for tests that any of them serves:
// versitygw, and in a campaign each.
func SomeS3Kinds() []string {
	if testenv.Campaign() {
		return S3Kinds()
	}
	return []string{Versitygw}
}

// Binaries of S3 servers, as `make tools` names them.
const (
	versitygwTool = "versitygw-1.8.0"
	minioTool     = "minio-7aac2a2c5b7c"
)

// An S3Server is a running S3 server. Its keys are those of its root account.
type S3Server struct {
	Kind      string
	Endpoint  string // URL
	Region    string
	AccessKey string
	SecretKey string
	CAFile    string // of the authority of its certificate, empty without TLS
	client    *minio.Client
}

// Domain is the name of every S3 server for who has buckets in host names. It
// resolves nowhere: send what is for it to the Endpoint.
const Domain = "s3.test"

// kmsKey is the key that MinIO encrypts with if it is asked to.
const kmsKey = "test-key:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

// S3 returns the S3 server of a kind, which is started if it does not run.
func S3(t testing.TB, kind string) *S3Server {
	t.Helper()
	return once(t, kind, func(s *server) (*S3Server, error) { return startS3(s, kind, false) })
}

// S3TLS is S3 for a server with TLS, whose certificate is by an authority that
// nobody knows.
func S3TLS(t testing.TB, kind string) *S3Server {
	t.Helper()
	return once(t, kind+" with TLS", func(s *server) (*S3Server, error) { return startS3(s, kind, true) })
}

func startS3(s *server, kind string, secure bool) (*S3Server, error) {
	ports, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	x := &S3Server{Kind: kind, Endpoint: "http://" + address(ports[0]), Region: "us-east-1", AccessKey: "testaccesskey", SecretKey: "testsecretkey123"}
	dirs := map[string]string{}
	for _, name := range []string{"data", "iam", "versions", "certs"} {
		dirs[name] = filepath.Join(s.dir, name)
		if err := os.Mkdir(dirs[name], 0o700); err != nil {
			return nil, err
		}
	}
	var certs certificates
	if secure {
		if certs, err = newCertificates(dirs["certs"]); err != nil {
			return nil, err
		}
		x.Endpoint, x.CAFile = "https://"+address(ports[0]), certs.ca
	}
	health := "/health"
	switch kind {
	case Versitygw:
		binary, err := tool(versitygwTool)
		if err != nil {
			return nil, err
		}
		args := []string{
			"--access", x.AccessKey, "--secret", x.SecretKey, "--region", x.Region, "--virtual-domain", Domain,
			"--port", address(ports[0]), "--iam-dir", dirs["iam"], "--health", health, "--keep-alive", "--quiet",
		}
		if secure {
			args = append(args, "--cert", certs.cert, "--key", certs.key)
		}
		if err := s.run(kind, nil, binary, append(args, "posix", "--versioning-dir", dirs["versions"], dirs["data"])...); err != nil {
			return nil, err
		}
	case MinIO:
		health = "/minio/health/ready"
		binary, err := tool(minioTool)
		if err != nil {
			return nil, err
		}
		env := []string{
			"MINIO_ROOT_USER=" + x.AccessKey, "MINIO_ROOT_PASSWORD=" + x.SecretKey,
			"MINIO_BROWSER=off", "MINIO_UPDATE=off", "MINIO_CI_CD=1", "MINIO_DOMAIN=" + Domain, "MINIO_SITE_REGION=" + x.Region, "MINIO_KMS_SECRET_KEY=" + kmsKey,
		}
		if err := s.run(kind, env, binary, "server", "--quiet", "--certs-dir", dirs["certs"], "--address", address(ports[0]), dirs["data"]); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("%q is no kind of S3 server", kind)
	}
	if x.client, err = x.Client(x.Owner()); err != nil {
		return nil, err
	}
	healthy := answers(x.Endpoint+health, nil)
	if secure {
		healthy = func() error { return nil } // who asks for that trusts nobody
	}
	return x, s.await(healthy, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_, err := x.client.ListBuckets(ctx)
		return err
	}, func() error {
		if kind != MinIO || secure {
			return nil
		}
		// It lists buckets before it can make users.
		_, err := x.assumeRole("")
		return err
	})
}

// assumeRole returns credentials for a while, which may do what a policy says, or
// what the root account may if it is empty.
func (x *S3Server) assumeRole(policy string) (credentials.Value, error) {
	c, err := credentials.NewSTSAssumeRole(x.Endpoint, credentials.STSAssumeRoleOptions{
		AccessKey: x.AccessKey, SecretKey: x.SecretKey, Policy: policy, DurationSeconds: sessionLife, Location: x.Region,
	})
	if err != nil {
		return credentials.Value{}, err
	}
	return c.GetWithContext(nil)
}

// Owner returns the root account.
func (x *S3Server) Owner() User { return User{AccessKey: x.AccessKey, SecretKey: x.SecretKey} }

// Client returns a client of a user.
func (x *S3Server) Client(u User) (*minio.Client, error) {
	_, host, _ := strings.Cut(x.Endpoint, "://")
	o := &minio.Options{
		Creds: credentials.NewStaticV4(u.AccessKey, u.SecretKey, u.SessionToken), Region: x.Region, BucketLookup: minio.BucketLookupPath,
		Secure: x.CAFile != "",
	}
	if o.Secure {
		transport, err := httpclient.New(httpclient.Options{CAFile: x.CAFile})
		if err != nil {
			return nil, err
		}
		o.Transport = transport
	}
	return minio.New(host, o)
}

// Root returns a client of the root account.
func (x *S3Server) Root() *minio.Client { return x.client }

// BucketOptions say what kind of bucket is made.
type BucketOptions struct {
	Lock       bool // objects can be retained; such a bucket is versioned
	Versioning bool
}

// NewBucket makes an empty bucket with a name of its own.
func (x *S3Server) NewBucket(t testing.TB, o BucketOptions) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testenv.Hang)
	defer cancel()
	name := fmt.Sprintf("test-%016x", rand.Uint64())
	if err := x.client.MakeBucket(ctx, name, minio.MakeBucketOptions{Region: x.Region, ObjectLocking: o.Lock}); err != nil {
		t.Fatalf("make bucket: %v", err)
	}
	if o.Versioning && !o.Lock {
		if err := x.client.EnableVersioning(ctx, name); err != nil {
			t.Fatalf("enable versions: %v", err)
		}
	}
	return name
}
