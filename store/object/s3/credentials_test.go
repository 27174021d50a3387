package s3_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"jetkeep/store/object"
	"jetkeep/store/object/objectserver"
	"jetkeep/store/object/s3"
)

// bare returns options without keys, in an environment that has none.
func bare(t *testing.T, s *objectserver.S3Server, kind string) s3.Options {
	t.Helper()
	for _, v := range []string{
		"AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE",
		"AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
		"AWS_CONTAINER_AUTHORIZATION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "AWS_ENDPOINT_URL_STS", "AWS_EC2_METADATA_SERVICE_ENDPOINT",
	} {
		t.Setenv(v, "")
	}
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(t.TempDir(), "none"))
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "none"))
	o := options(t, s)
	o.AccessKey, o.SecretKey, o.Credentials = "", "", kind
	return o
}

// keys are credentials for a while where the server has them, else the root's.
func keys(t *testing.T, s *objectserver.S3Server) credentials.Value {
	t.Helper()
	if s.Kind != objectserver.MinIO {
		return credentials.Value{AccessKeyID: s.AccessKey, SecretAccessKey: s.SecretKey}
	}
	c, err := credentials.NewSTSAssumeRole(s.Endpoint, credentials.STSAssumeRoleOptions{AccessKey: s.AccessKey, SecretKey: s.SecretKey, DurationSeconds: 900, Location: s.Region})
	if err != nil {
		t.Fatal(err)
	}
	v, err := c.GetWithContext(nil)
	if err != nil || v.SessionToken == "" {
		t.Fatal("assume role:", err)
	}
	return v
}

// works wants that objects can be written, read and listed.
func works(t *testing.T, o s3.Options) *s3.Driver {
	t.Helper()
	d := open(t, o)
	if err := put(t.Context(), d, []byte("content")); err != nil && !errors.Is(err, object.ErrExist) {
		t.Fatal(err)
	}
	if got, err := get(t, d, 0, -1); err != nil || string(got) != "content" {
		t.Errorf("%q: %v", got, err)
	}
	if page, _, err := d.List(t.Context(), "", "", 10); err != nil || len(page) != 1 {
		t.Errorf("%v: %v", page, err)
	}
	return d
}

// refusedCredentials wants an error that says it is for the credentials, and is
// final.
func refusedCredentials(t *testing.T, err error, words ...string) {
	t.Helper()
	var p *object.PermissionError
	if !errors.As(err, &p) || p.Action != "the credentials" || errors.Is(err, object.ErrUnavailable) {
		t.Error("want that the credentials are to blame:", err)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%v does not say %q", err, w)
		}
	}
}

func TestStaticCredentials(t *testing.T) {
	each(t, func(t *testing.T, s *objectserver.S3Server) {
		o, k := bare(t, s, s3.CredentialsStatic), keys(t, s)
		o.AccessKey, o.SecretKey, o.SessionToken = k.AccessKeyID, k.SecretAccessKey, k.SessionToken
		works(t, o)
		wrong := o
		wrong.SecretKey = "wrong-secret"
		_, err := s3.Open(t.Context(), wrong)
		refusedCredentials(t, err)
		wrong = o
		wrong.AccessKey, wrong.SessionToken = "nobody", ""
		_, err = s3.Open(t.Context(), wrong)
		refusedCredentials(t, err)
		if s.Kind == objectserver.MinIO {
			wrong = o
			wrong.SessionToken = "none"
			_, err = s3.Open(t.Context(), wrong)
			refusedCredentials(t, err)
		}
	})
}

func TestEnvironmentCredentials(t *testing.T) {
	each(t, func(t *testing.T, s *objectserver.S3Server) {
		for _, kind := range []string{s3.CredentialsEnvironment, s3.CredentialsAuto} {
			o, k := bare(t, s, kind), keys(t, s)
			_, err := s3.Open(t.Context(), o)
			refusedCredentials(t, err, "environment")
			t.Setenv("AWS_ACCESS_KEY_ID", k.AccessKeyID)
			t.Setenv("AWS_SECRET_ACCESS_KEY", k.SecretAccessKey)
			t.Setenv("AWS_SESSION_TOKEN", k.SessionToken)
			works(t, o)
		}
	})
}

// Each source is named that has none.
func TestNoCredentials(t *testing.T) {
	each(t, func(t *testing.T, s *objectserver.S3Server) {
		o := bare(t, s, s3.CredentialsAuto)
		_, err := s3.Open(t.Context(), o)
		refusedCredentials(t, err, "environment", "profile", "web_identity", "instance")
		o.Credentials = s3.CredentialsWebIdentity
		_, err = s3.Open(t.Context(), o)
		refusedCredentials(t, err, "AWS_WEB_IDENTITY_TOKEN_FILE")
		o.Credentials = s3.CredentialsInstance
		_, err = s3.Open(t.Context(), o)
		refusedCredentials(t, err, "AWS_EC2_METADATA_DISABLED")
	})
}

// A profile of a file that is given, or of the shared one. When its keys change
// the new ones are used.
func TestProfileCredentials(t *testing.T) {
	each(t, func(t *testing.T, s *objectserver.S3Server) {
		o, k := bare(t, s, s3.CredentialsProfile), keys(t, s)
		file := filepath.Join(t.TempDir(), "credentials")
		write := func(secret string) {
			t.Helper()
			text := fmt.Sprintf("[default]\naws_access_key_id = x\naws_secret_access_key = y\n\n[backup]\naws_access_key_id = %s\naws_secret_access_key = %s\n",
				k.AccessKeyID, secret)
			if k.SessionToken != "" {
				text += "aws_session_token = " + k.SessionToken + "\n"
			}
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write(k.SecretAccessKey)
		_, err := s3.Open(t.Context(), o)
		refusedCredentials(t, err, "profile")
		given := o
		given.ProfileFile, given.Profile = file, "backup"
		d := works(t, given)
		given.Profile = "missing"
		_, err = s3.Open(t.Context(), given)
		refusedCredentials(t, err, "missing")
		t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
		t.Setenv("AWS_PROFILE", "backup")
		works(t, o)
		write("another")
		_, err = d.Stat(t.Context(), name)
		refusedCredentials(t, err)
		write(k.SecretAccessKey)
		if _, err := d.Stat(t.Context(), name); err != nil {
			t.Error("the new keys are not used:", err)
		}
	})
}

// A token in a file is exchanged for keys, and again when they expire.
func TestWebIdentityCredentials(t *testing.T) {
	each(t, func(t *testing.T, s *objectserver.S3Server) {
		o, k := bare(t, s, s3.CredentialsWebIdentity), keys(t, s)
		var asked atomic.Int64
		lifetime := time.Hour
		sts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			w.Header().Set("Content-Type", "text/xml")
			if r.FormValue("Action") != "AssumeRoleWithWebIdentity" || r.FormValue("RoleArn") != "arn:aws:iam::1:role/backup" || r.FormValue("WebIdentityToken") != "the token" {
				w.WriteHeader(http.StatusBadRequest)
				fmt.Fprint(w, `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>InvalidIdentityToken</Code><Message>no such token</Message></Error></ErrorResponse>`)
				return
			}
			fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials>`+
				`<AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s</SecretAccessKey><SessionToken>%s</SessionToken><Expiration>%s</Expiration>`+
				`</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`,
				k.AccessKeyID, k.SecretAccessKey, k.SessionToken, time.Now().Add(lifetime).UTC().Format(time.RFC3339))
		}))
		defer sts.Close()
		file := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(file, []byte("the token"), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv("AWS_ENDPOINT_URL_STS", sts.URL)
		t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/backup")
		t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", file)
		for _, kind := range []string{s3.CredentialsWebIdentity, s3.CredentialsAuto} {
			o.Credentials = kind
			asked.Store(0)
			works(t, o)
			if n := asked.Load(); n != 1 {
				t.Errorf("%s: asked %d times", kind, n)
			}
		}
		lifetime = -time.Minute // already over
		asked.Store(0)
		works(t, o)
		if n := asked.Load(); n < 3 {
			t.Errorf("asked %d times though what it gave was over", n)
		}
		if err := os.WriteFile(file, []byte("another token"), 0o600); err != nil {
			t.Fatal(err)
		}
		o.Credentials = s3.CredentialsWebIdentity
		_, err := s3.Open(t.Context(), o)
		refusedCredentials(t, err, "web_identity", "no such token")
		o.Credentials = s3.CredentialsInstance
		_, err = s3.Open(t.Context(), o)
		refusedCredentials(t, err, "AWS_WEB_IDENTITY_TOKEN_FILE")
		o.Credentials = s3.CredentialsWebIdentity
		sts.Close()
		if _, err := s3.Open(t.Context(), o); !errors.Is(err, object.ErrUnavailable) {
			t.Error("want that it may pass:", err)
		}
	})
}

// The machine or container says which keys it has; requests that the asker pays
// for are signed with the same.
func TestInstanceCredentials(t *testing.T) {
	each(t, func(t *testing.T, s *objectserver.S3Server) {
		k := keys(t, s)
		var asked atomic.Int64
		give := func(w http.ResponseWriter) {
			asked.Add(1)
			_ = json.NewEncoder(w).Encode(map[string]string{
				"Code": "Success", "AccessKeyId": k.AccessKeyID, "SecretAccessKey": k.SecretAccessKey, "Token": k.SessionToken,
				"Expiration": time.Now().Add(time.Hour).UTC().Format(time.RFC3339),
			})
		}
		mux := http.NewServeMux()
		mux.HandleFunc("PUT /latest/api/token", func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Aws-Ec2-Metadata-Token-Ttl-Seconds") == "" {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			fmt.Fprint(w, "session")
		})
		const roles = "GET /latest/meta-data/iam/security-credentials/"
		allowed := func(w http.ResponseWriter, r *http.Request) bool {
			if r.Header.Get("X-Aws-Ec2-Metadata-Token") != "session" {
				w.WriteHeader(http.StatusUnauthorized)
				return false
			}
			return true
		}
		mux.HandleFunc(roles+"{$}", func(w http.ResponseWriter, r *http.Request) {
			if allowed(w, r) {
				fmt.Fprint(w, "backup")
			}
		})
		mux.HandleFunc(roles+"backup", func(w http.ResponseWriter, r *http.Request) {
			if allowed(w, r) {
				give(w)
			}
		})
		mux.HandleFunc("GET /container", func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "of the container" {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			give(w)
		})
		metadata := httptest.NewServer(mux)
		defer metadata.Close()
		for what, set := range map[string]func(t *testing.T){
			"machine": func(t *testing.T) {
				t.Helper()
				t.Setenv("AWS_EC2_METADATA_DISABLED", "")
				t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.URL+"/")
			},
			"container": func(t *testing.T) {
				t.Helper()
				t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", metadata.URL+"/container")
				t.Setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "of the container")
			},
		} {
			for _, kind := range []string{s3.CredentialsInstance, s3.CredentialsAuto} {
				t.Run(what+"/"+kind, func(t *testing.T) {
					o := bare(t, s, kind)
					set(t)
					asked.Store(0)
					works(t, o)
					if n := asked.Load(); n != 1 {
						t.Errorf("asked %d times", n)
					}
					p := newProxy(t, s)
					o.Endpoint, o.RequesterPays = p.URL, true
					works(t, o)
					paid := func(r *http.Request) bool {
						return r.Header.Get("X-Amz-Request-Payer") == "requester" && strings.Contains(r.Header.Get("Authorization"), "x-amz-request-payer")
					}
					if all := p.count(func(*http.Request) bool { return true }); all == 0 || p.count(paid) != all {
						t.Errorf("%d of %d requests are paid for", p.count(paid), all)
					}
				})
			}
		}
	})
}
