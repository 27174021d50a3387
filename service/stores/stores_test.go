package stores

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ncw/swift/v2"

	"jetkeep/service/config"
	"jetkeep/store"
	"jetkeep/store/object"
	"jetkeep/store/object/objectserver"
	"jetkeep/store/testenv"
)

func TestMain(m *testing.M) { os.Exit(objectserver.Main(m)) }

// fill sets every field of a struct to something of its own.
func fill(t *testing.T, v any) {
	t.Helper()
	s := reflect.ValueOf(v).Elem()
	for i := range s.NumField() {
		switch f := s.Field(i); f.Kind() {
		case reflect.String:
			f.SetString(s.Type().Field(i).Name)
		case reflect.Int, reflect.Int64:
			f.SetInt(int64(i) + 1)
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Map:
			f.Set(reflect.ValueOf(map[string]string{"a": "b"}))
		default:
			t.Fatalf("%s is of a kind that the test does not know", s.Type().Field(i).Name)
		}
	}
}

// sameFields compares a driver's options with what the configuration says, by
// the names of the fields. Every field of the options is to be in the
// configuration.
func sameFields(t *testing.T, options, conf any) {
	t.Helper()
	o, c := reflect.ValueOf(options), reflect.ValueOf(conf)
	if o.NumField() != c.NumField() {
		t.Errorf("%T has %d fields, %T has %d", options, o.NumField(), conf, c.NumField())
	}
	for i := range c.NumField() {
		name := c.Type().Field(i).Name
		f := o.FieldByName(name)
		if name == "RetryFor" {
			f = o.FieldByName("Retry").FieldByName("Budget")
		}
		if !f.IsValid() {
			t.Errorf("%T has no %s", options, name)
			continue
		}
		want := c.Field(i).Interface()
		if s, ok := want.(config.Secret); ok {
			want = s.Reveal()
		}
		if !reflect.DeepEqual(f.Interface(), want) {
			t.Errorf("%s is %v instead of %v", name, f.Interface(), want)
		}
	}
}

// TestEveryFieldReachesTheDriver: what can be configured has an effect.
func TestEveryFieldReachesTheDriver(t *testing.T) {
	t.Parallel()
	r := config.Repository{}
	fill(t, &r.S3)
	sameFields(t, s3Options(&r), r.S3)
	fill(t, &r.Swift)
	sameFields(t, swiftOptions(&r), r.Swift)
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for want, r := range map[string]config.Repository{
		"":                               {Kind: config.KindLocal, Path: "/x"},
		"kind: \"tape\"":                 {Kind: "tape"},
		"endpoint: must not hold":        {Kind: config.KindS3, S3: config.S3{Bucket: "bucket", Endpoint: "https://a:hidden@x"}},
		"access_key: is required":        {Kind: config.KindS3, S3: config.S3{Bucket: "bucket", SecretKey: "hidden"}},
		"customer_key: must be 32":       {Kind: config.KindS3, S3: config.S3{Bucket: "bucket", Encryption: "customer", CustomerKey: "hidden"}},
		"addressing: \"odd\" is none of": {Kind: config.KindS3, S3: config.S3{Bucket: "bucket", Addressing: "odd"}},
	} {
		err := Check(&r)
		if (err == nil) != (want == "") || err != nil && (!strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "hidden")) {
			t.Errorf("%+v: %v, want %s", r, err, want)
		}
		if _, oerr := Open(t.Context(), &r); err != nil && (oerr == nil || oerr.Error() != err.Error()) {
			t.Errorf("opened: %v", oerr)
		}
	}
}

// within opens a store, again if all tries together have taken longer than they may.
func within(t *testing.T, open func() (object.Driver, error)) (d object.Driver, err error) {
	t.Helper()
	testenv.True(t, "a store that answers within the limit of all tries", func() bool {
		begun := time.Now()
		d, err = open()
		late := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, object.ErrUnavailable)
		return !late || time.Since(begun) < openBudget/2
	})
	return d, err
}

func opened(t *testing.T, r *config.Repository) (object.Driver, error) {
	t.Helper()
	return within(t, func() (object.Driver, error) { return Open(t.Context(), r) })
}

func created(t *testing.T, r *config.Repository) (object.Driver, error) {
	t.Helper()
	return within(t, func() (object.Driver, error) { return Create(t.Context(), r) })
}

// cycle makes the place of a repository and a repository in it, and finds it
// again.
func cycle(t *testing.T, r *config.Repository) {
	t.Helper()
	if _, err := opened(t, r); !errors.Is(err, object.ErrNotExist) {
		t.Fatalf("opened what is not there: %v", err)
	}
	for range 2 { // what is there is no fault
		d, err := created(t, r)
		if err != nil {
			t.Fatal(err)
		}
		if err := object.NewBucket(d).Close(); err != nil {
			t.Error(err)
		}
	}
	d, err := opened(t, r)
	if err != nil {
		t.Fatal(err)
	}
	bucket := object.NewBucket(d)
	made, err := store.Init(t.Context(), bucket, store.InitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	found, err := store.Open(t.Context(), bucket, store.OpenOptions{})
	if err != nil || found.Marker().ID != made.Marker().ID {
		t.Errorf("found %+v: %v", found, err)
	}
	report := store.Probe(t.Context(), bucket)
	var out bytes.Buffer
	fmt.Fprintf(&out, "%+v", report)
	if !report.Usable() || len(report) != 4 || report[3].Outcome != store.ProbeOK {
		t.Errorf("probe: %s", out.String())
	}
	if err := bucket.Close(); err != nil {
		t.Error(err)
	}
	if n, err := Clear(t.Context(), r); err != nil || Distant(r) && n != 2 {
		t.Errorf("%d objects cleared, %v", n, err)
	}
}

func TestLocal(t *testing.T) {
	t.Parallel()
	cycle(t, &config.Repository{Kind: config.KindLocal, Path: filepath.Join(t.TempDir(), "r")})
}

func TestS3(t *testing.T) {
	t.Parallel()
	server := objectserver.S3(t, objectserver.Versitygw)
	r := &config.Repository{Kind: config.KindS3, S3: config.S3{
		Endpoint: server.Endpoint, Region: server.Region, AccessKey: server.AccessKey, SecretKey: config.Secret(server.SecretKey),
		Bucket: fmt.Sprintf("stores-%x", time.Now().UnixNano()), Prefix: "/some/prefix/",
	}}
	cycle(t, r)
	r.S3.SecretKey = "hidden-and-wrong"
	if _, err := opened(t, r); !errors.Is(err, object.ErrPermission) || strings.Contains(err.Error(), "hidden") {
		t.Errorf("another key: %v", err)
	}
}

func TestSwift(t *testing.T) {
	t.Parallel()
	server := objectserver.Swift(t, objectserver.SwiftOptions{})
	r := &config.Repository{Kind: config.KindSwift, Swift: config.Swift{
		AuthURL: server.AuthURL, User: server.User, Key: config.Secret(server.Key),
		Container: fmt.Sprintf("stores-%x", time.Now().UnixNano()), Prefix: "/some/prefix/",
	}}
	cycle(t, r)
	r.Swift.Key = "hidden-and-wrong"
	if _, err := opened(t, r); !errors.Is(err, object.ErrPermission) || strings.Contains(err.Error(), "hidden") {
		t.Errorf("another key: %v", err)
	}
}

// TestKeystone: a URL and the variables of OpenStack's tools are enough.
func TestKeystone(t *testing.T) {
	t.Parallel()
	k := objectserver.Swift(t, objectserver.SwiftOptions{Keystone: true}).Keystone
	env := map[string]string{
		"OS_AUTH_URL": k.AuthURL, "OS_IDENTITY_API_VERSION": "3", "OS_USERNAME": k.User, "OS_PASSWORD": k.Password,
		"OS_USER_DOMAIN_NAME": k.Domain, "OS_PROJECT_NAME": k.Project, "OS_PROJECT_DOMAIN_NAME": k.Domain, "OS_REGION_NAME": k.Region,
		"OS_ENDPOINT_TYPE": "publicURL",
	}
	r, err := config.ParseLocation(fmt.Sprintf("swift://keystone-%x/p", time.Now().UnixNano()), func(name string) string { return env[name] })
	if err != nil {
		t.Fatal(err)
	}
	cycle(t, &r)
	r.Swift.User, r.Swift.Key = k.Reader, config.Secret(k.ReaderPassword)
	if _, err := opened(t, &r); !errors.Is(err, object.ErrPermission) {
		t.Errorf("a user without rights: %v", err)
	}
}

// TestReaderIsToldWhatIsMissing: who may only read can restore, and a probe
// names what cannot be done.
func TestReaderIsToldWhatIsMissing(t *testing.T) {
	t.Parallel()
	server := objectserver.Swift(t, objectserver.SwiftOptions{})
	name := fmt.Sprintf("reader-%x", time.Now().UnixNano())
	r := &config.Repository{Kind: config.KindSwift, Swift: config.Swift{
		AuthURL: server.AuthURL, User: server.User, Key: config.Secret(server.Key), Container: name,
	}}
	d, err := created(t, r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Init(t.Context(), object.NewBucket(d), store.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	owner := &swift.Connection{AuthUrl: server.AuthURL, UserName: server.User, ApiKey: server.Key, AuthVersion: 1}
	if err := owner.ContainerUpdate(t.Context(), name, swift.Headers{"X-Container-Read": server.Reader}); err != nil {
		t.Fatal(err)
	}
	r.Swift.User, r.Swift.Key, r.Swift.StorageURL = server.Reader, "testing3", owner.StorageUrl
	if d, err = opened(t, r); err != nil {
		t.Fatal(err)
	}
	bucket := object.NewBucket(d)
	if _, err := store.Open(t.Context(), bucket, store.OpenOptions{}); err != nil {
		t.Error(err)
	}
	report := store.Probe(t.Context(), bucket)
	denied := new(object.PermissionError)
	if report.Usable() || report[0].Outcome != store.ProbeDenied || !errors.As(report[0].Err, &denied) || denied.Action == "" {
		t.Errorf("%+v", report)
	}
	if report[1].Outcome != store.ProbeOK || report[2].Outcome != store.ProbeOK || report[3].Outcome != store.ProbeSkipped {
		t.Errorf("%+v", report)
	}
	t.Logf("the reader lacks %s", denied.Action)
}

// TestHiccup: a store that is away for a moment is asked again; one that stays
// away is given up soon. All tries together have a limit, which a slow machine may
// reach.
func TestHiccup(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{config.KindS3, config.KindSwift} {
		for fails, want := range map[int32]error{1: object.ErrPermission, 100: object.ErrUnavailable} {
			t.Run(fmt.Sprintf("%s, away for %d", kind, fails), func(t *testing.T) {
				t.Parallel()
				testenv.Until(t, "tries within their limit", func() error {
					begun := time.Now()
					err := hiccup(t, kind, fails, want)
					if err != nil && time.Since(begun) < openBudget/2 {
						t.Fatal(err)
					}
					return err
				})
			})
		}
	}
}

func hiccup(t *testing.T, kind string, fails int32, want error) error {
	t.Helper()
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) <= fails {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusForbidden)
	}))
	defer server.Close()
	r := &config.Repository{
		Kind:  kind,
		S3:    config.S3{Endpoint: server.URL, Bucket: "bucket", AccessKey: "a", SecretKey: "hidden"},
		Swift: config.Swift{AuthURL: server.URL + "/auth/v1.0", User: "a", Key: "hidden", Container: "c"},
	}
	var told bytes.Buffer
	_, err := Opener{Log: slog.New(slog.NewTextHandler(&told, nil))}.Open(t.Context(), r)
	if err == nil || strings.Contains(told.String()+err.Error(), "hidden") {
		t.Fatalf("%v, the log is\n%s", err, told.String())
	}
	if n := strings.Count(told.String(), "store is asked again"); n != min(int(fails), openAttempts-1) {
		return fmt.Errorf("it was asked %d times again, the log is\n%s", n, told.String())
	}
	if !errors.Is(err, want) || asked.Load() < 2 {
		return fmt.Errorf("%w after %d requests", err, asked.Load())
	}
	return nil
}
