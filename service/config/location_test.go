package config

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParseLocation(t *testing.T) {
	env := map[string]string{}
	for text, want := range map[string]Repository{
		"some/dir":      {Kind: KindLocal, Path: "some/dir"},
		"file:///srv/r": {Kind: KindLocal, Path: "/srv/r"},
		"s3://bucket":   {Kind: KindS3, S3: S3{Bucket: "bucket"}},
		"s3://b/p/q/?region=eu-1&endpoint=http://127.0.0.1:9000&addressing=path&parallel=3&part_size=1048576&retain_for=24h&requester_pays=true": {
			Kind: KindS3, S3: S3{Bucket: "b", Prefix: "p/q", Region: "eu-1", Endpoint: "http://127.0.0.1:9000", Addressing: "path",
				Parallel: 3, PartSize: 1 << 20, RetainFor: 24 * time.Hour, RequesterPays: true}},
		"swift://c/p?auth_url=https://k/v3&auth_version=3&region=r": {
			Kind: KindSwift, Swift: Swift{Container: "c", Prefix: "p", AuthURL: "https://k/v3", AuthVersion: 3, Region: "r"}},
	} {
		got, err := ParseLocation(text, func(name string) string { return env[name] })
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v %v", text, got, err)
		}
	}
}

func TestLocationFromEnvironment(t *testing.T) {
	env := map[string]string{
		"AWS_ENDPOINT_URL": "http://s3", "AWS_REGION": "r", "AWS_CA_BUNDLE": "ca", "AWS_PROFILE": "p",
		"ST_AUTH": "http://st/auth/v1.0", "ST_USER": "u:v", "ST_KEY": "k",
	}
	get := func(name string) string { return env[name] }
	r, err := ParseLocation("s3://b?region=other", get)
	if want := (S3{Bucket: "b", Endpoint: "http://s3", Region: "other", CAFile: "ca", Profile: "p"}); err != nil || !reflect.DeepEqual(r.S3, want) {
		t.Errorf("%+v %v", r, err)
	}
	r, err = ParseLocation("swift://c", get)
	if want := (Swift{Container: "c", AuthURL: "http://st/auth/v1.0", User: "u:v", Key: "k"}); err != nil || r.Swift != want {
		t.Errorf("%+v %v", r, err)
	}
	for name, value := range map[string]string{
		"OS_AUTH_URL": "http://k/v3", "OS_IDENTITY_API_VERSION": "3.0", "OS_USERNAME": "u", "OS_USER_ID": "uid", "OS_PASSWORD": "pw",
		"OS_USER_DOMAIN_NAME": "d", "OS_USER_DOMAIN_ID": "did", "OS_TENANT_NAME": "p", "OS_PROJECT_ID": "pid", "OS_PROJECT_DOMAIN_NAME": "pd",
		"OS_APPLICATION_CREDENTIAL_ID": "aid", "OS_APPLICATION_CREDENTIAL_NAME": "an", "OS_APPLICATION_CREDENTIAL_SECRET": "as",
		"OS_TOKEN": "t", "OS_STORAGE_URL": "su", "OS_REGION_NAME": "r", "OS_CACERT": "ca", "OS_ENDPOINT_TYPE": "internalURL",
	} {
		env[name] = value
	}
	r, err = ParseLocation("swift://c/p", get)
	want := Swift{
		AuthURL: "http://k/v3", AuthVersion: 3, User: "u", UserID: "uid", Key: "pw", Domain: "d", DomainID: "did", Project: "p", ProjectID: "pid",
		ProjectDomain: "pd", ApplicationCredentialID: "aid", ApplicationCredentialName: "an", ApplicationCredentialSecret: "as", Token: "t",
		StorageURL: "su", Region: "r", CAFile: "ca", Interface: "internal", Container: "c", Prefix: "p",
	}
	if err != nil || r.Swift != want {
		t.Errorf("%+v %v", r, err)
	}
}

// TestNoSecretsInURLs: they are refused, and the refusal does not repeat them.
func TestNoSecretsInURLs(t *testing.T) {
	for text, want := range map[string]string{
		"s3://AKIA:hidden@bucket/p":     "AWS_SECRET_ACCESS_KEY",
		"swift://user:hidden@c":         "OS_PASSWORD",
		"https://user:hidden@host/":     "environment",
		"s3://b?secret_key=hidden":      "secret_key: secrets do not belong into a URL",
		"s3://b?secretkey=hidden":       "secretkey: unknown field, there are access_key",
		"s3://b?customer_key=hidden":    "customer_key: secrets",
		"swift://b?key=hidden":          "key: secrets",
		"swift://b?token=hidden":        "token: secrets",
		"s3://b?region=hidden&region=2": "region is there twice",
		"s3://b?bucket=hidden":          "bucket: unknown field",
		"s3://b?parallel=hidden":        "parallel: must be a whole number",
		"s3://b?requester_pays=hidden":  "requester_pays: must be true or false",
		"s3://b?retain_for=hidden":      "retain_for: must be a duration",
		"s3://b?tags=hidden":            "tags: cannot be in a URL",
		"s3://b?%zz=hidden":             "malformed query",
		"s3://b#hidden":                 "#",
		"s3://hid den:x@":               "malformed URL",
		"s3:///p":                       "the bucket is missing",
		"file://host/x":                 "file:///DIR",
		"tape://hidden":                 "tape:// is none, only a directory, file://, s3:// and swift://",
		"":                              "empty",
	} {
		_, err := ParseLocation(text, func(string) string { return "" })
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hid") {
			t.Errorf("%s: %v", text, err)
		}
		if !errors.Is(err, ErrLocation) && !errors.Is(err, ErrSecretInURL) {
			t.Errorf("%s: %v is none of the package's errors", text, err)
		}
	}
}
