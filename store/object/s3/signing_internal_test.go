package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/signer"

	"jetkeep/store/object"
)

// Signatures are those of the client's library, which is another's code.
func TestSign(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, target := range []string{
			"https://s3.example.net/bucket/packs/ab/first",
			"https://s3.example.net:9000/storage/v1/s3/bucket/a=b+c@d?uploads=&partNumber=7&x=a%20b%2Bc",
			"https://bucket.s3.example.net/?list-type=2&prefix=p%2Fq&delimiter=",
			"https://s3.example.net/%C3%A9/x%20y",
		} {
			for _, value := range []credentials.Value{{AccessKeyID: "key/with", SecretAccessKey: "secret"}, {AccessKeyID: "key", SecretAccessKey: "secret", SessionToken: "token"}} {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, target, strings.NewReader("content"))
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set(contentHeader, "UNSIGNED-PAYLOAD")
				req.Header.Set("X-Amz-Meta-Text", "  two   words ")
				req.Header["X-Amz-Meta-More"] = []string{"a", "b"}
				req.Header.Set("User-Agent", "x")
				theirs := signer.SignV4(*req.Clone(t.Context()), value.AccessKeyID, value.SecretAccessKey, value.SessionToken, "eu-1")
				ours := theirs.Clone(t.Context())
				region, service, ok := scopeOf(ours)
				if !ok || region != "eu-1" || service != "s3" {
					t.Fatalf("scope %q, %q, %t", region, service, ok)
				}
				sign(ours, value, region, service, time.Now())
				if got, want := ours.Header.Get("Authorization"), theirs.Header.Get("Authorization"); got != want || want == "" {
					t.Errorf("%s:\n%s\n%s", target, got, want)
				}
				// What was signed with other credentials leaves nothing behind.
				sign(ours, credentials.Value{AccessKeyID: "other", SecretAccessKey: "other", SessionToken: "new"}, region, service, time.Now().Add(time.Hour))
				sign(ours, value, region, service, time.Now())
				if got, want := ours.Header.Get("Authorization"), theirs.Header.Get("Authorization"); got != want {
					t.Errorf("%s: signed again:\n%s\n%s", target, got, want)
				}
			}
		}
	})
}

// A refuser is a store that takes one key only.
type refuser struct {
	takes, code string
	asked       int
	date        func() time.Time
}

func (r *refuser) RoundTrip(req *http.Request) (*http.Response, error) {
	r.asked++
	resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody}
	if r.date != nil {
		resp.Header.Set("Date", r.date().UTC().Format(http.TimeFormat))
	}
	if !strings.Contains(req.Header.Get("Authorization"), "Credential="+r.takes+"/") {
		resp.StatusCode = http.StatusForbidden
		resp.Body = io.NopCloser(strings.NewReader("<Error><Code>" + r.code + "</Code></Error>"))
	}
	return resp, nil
}

// ask sends one request through a signing transport and returns the answer's
// status and body.
func ask(t *testing.T, s *signing) (status int, text string, err error) {
	t.Helper()
	req, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), http.MethodPut, "http://store.test/b/k", strings.NewReader("content"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(contentHeader, "UNSIGNED-PAYLOAD")
	resp, err := s.RoundTrip(signer.SignV4(*req, "any", "any", "", "r"))
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// Credentials that a source has some seconds late are waited for if those before
// expired, and not if they are wrong, or cannot change.
func TestLateCredentials(t *testing.T) {
	t.Setenv(containerURIVariable, "http://127.0.0.1/keys")
	t.Setenv(tokenFileVariable, "")
	for _, c := range []struct {
		code   string
		static bool
		late   time.Duration
		waits  bool
	}{
		{code: "ExpiredToken", late: 3 * time.Second, waits: true},
		{code: "TokenRefreshRequired", late: 3 * time.Second, waits: true},
		{code: "ExpiredToken", late: time.Hour},
		{code: "InvalidAccessKeyId", late: 3 * time.Second},
		{code: "AccessDenied", late: 3 * time.Second},
		{code: "ExpiredToken", late: 3 * time.Second, static: true},
	} {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun := time.Now()
				o := Options{Credentials: CredentialsInstance}
				if c.static {
					o = Options{Credentials: CredentialsStatic, AccessKey: "old", SecretKey: "secret"}
				}
				from := o.chain(http.DefaultTransport.(*http.Transport))
				from.client = &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
					key := "old"
					if time.Since(begun) >= c.late {
						key = "new"
					}
					body := fmt.Sprintf(`{"AccessKeyId":%q,"SecretAccessKey":"secret","Expiration":%q}`, key, begun.Add(24*time.Hour).UTC().Format(time.RFC3339))
					return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}, nil
				})}
				store := &refuser{takes: "new", code: c.code}
				d := &signing{next: store, chain: from, creds: credentials.New(from), endpoint: mustURL(t, "http://store.test")}
				status, text, err := ask(t, d)
				if took := status == http.StatusOK; err != nil || took != c.waits {
					t.Errorf("took it: %t, asked %d times in %s: %v", took, store.asked, time.Since(begun), err)
				}
				if !c.waits && store.asked != 1 {
					t.Errorf("the store was asked %d times with the same credentials", store.asked)
				}
				if time.Since(begun) > 10*time.Second {
					t.Errorf("waited %s", time.Since(begun))
				}
				if !c.waits && !strings.Contains(text, c.code) {
					t.Errorf("the refusal is not handed on: %q", text)
				}
			})
		})
	}
}

// A source that does not answer gives no credentials in place of those that the
// store refuses, though they were to hold longer; it may answer later.
func TestRefusedCredentialsNotUsedAgain(t *testing.T) {
	t.Setenv(containerURIVariable, "http://127.0.0.1/keys")
	t.Setenv(tokenFileVariable, "")
	l := &lender{expiration: time.Now().Add(time.Hour)}
	o := Options{Credentials: CredentialsInstance}
	from := o.chain(http.DefaultTransport.(*http.Transport))
	from.client = &http.Client{Transport: busy{l}}
	store := &refuser{takes: "key", code: "ExpiredToken"}
	s := &signing{next: store, chain: from, creds: credentials.New(from), endpoint: mustURL(t, "http://store.test")}
	if status, _, err := ask(t, s); err != nil || status != http.StatusOK {
		t.Fatal(status, err)
	}
	l.away, store.takes = true, "other"
	if _, _, err := ask(t, s); !errors.Is(err, object.ErrUnavailable) || errors.As(err, new(*object.PermissionError)) {
		t.Error("want that it may pass:", err)
	}
}

// A store whose answers' time is no help is asked so often, and no more.
func TestSkewBounded(t *testing.T) {
	for what, date := range map[string]func() time.Time{
		"none": nil, "ours": time.Now, "hours": func() time.Time { return time.Now().Add(5 * time.Hour) },
		"years": func() time.Time { return time.Now().AddDate(9, 0, 0) },
	} {
		store := &refuser{takes: "nobody", code: "RequestTimeTooSkewed", date: date}
		o := Options{Credentials: CredentialsStatic, AccessKey: "key", SecretKey: "secret"}
		from := o.chain(http.DefaultTransport.(*http.Transport))
		s := &signing{next: store, chain: from, creds: credentials.New(from), endpoint: mustURL(t, "http://store.test")}
		status, _, err := ask(t, s)
		want := signings
		if what == "years" {
			want = 1
		}
		if err != nil || status != http.StatusForbidden || store.asked != want {
			t.Errorf("%s: %d, asked %d times: %v", what, status, store.asked, err)
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func mustURL(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
