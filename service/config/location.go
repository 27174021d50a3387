package config

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

var (
	// ErrLocation means that a text says no place for a repository.
	ErrLocation = errors.New("no location of a repository")
	// ErrSecretInURL means that a URL holds what must not be seen in lists of
	// processes, histories and logs.
	ErrSecretInURL = errors.New("secrets do not belong into a URL")
)

var urlPattern = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*://`)

// ParseLocation reads where a repository is:
//
//	/a/directory, file:///a/directory?mode=0660
//	s3://bucket/prefix?endpoint=https://…&region=…
//	swift://container/prefix?auth_url=https://…&region=…
//
// The query has the fields of S3 and Swift but for the secrets. Those, and what
// the URL does not say, come from the variables that the tools of these stores
// read, by getenv. No error shows the URL's user, password or query.
func ParseLocation(text string, getenv func(string) string) (Repository, error) {
	if text == "" {
		return Repository{}, fmt.Errorf("%w: it is empty", ErrLocation)
	}
	if !urlPattern.MatchString(text) {
		return Repository{Kind: KindLocal, Path: text}, nil
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return Repository{}, fmt.Errorf("%w: malformed URL", ErrLocation) // it may hold a password
	case u.User != nil:
		return Repository{}, fmt.Errorf("%w: leave out what stands before the @; %s", ErrSecretInURL, secretsFrom(u.Scheme))
	case u.Fragment != "":
		return Repository{}, fmt.Errorf("%w: a URL with #", ErrLocation)
	}
	r := Repository{Kind: u.Scheme}
	var fields map[string]reflect.Value
	var bucket, prefix string
	switch u.Scheme {
	case "file":
		if u.Host != "" || u.Path == "" {
			return Repository{}, fmt.Errorf("%w: a file URL is file:///DIR", ErrLocation)
		}
		r = Repository{Kind: KindLocal, Path: filepath.FromSlash(u.Path)}
		if err := setQuery(u, map[string]reflect.Value{"mode": reflect.ValueOf(&r.Mode).Elem()}); err != nil {
			return Repository{}, err
		}
		_, err := r.FileMode()
		return r, err
	case KindS3:
		r.S3.environment(getenv)
		bucket, prefix, fields = "bucket", "prefix", fieldsOf(&r.S3)
	case KindSwift:
		r.Swift.environment(getenv)
		bucket, prefix, fields = "container", "prefix", fieldsOf(&r.Swift)
	default:
		return Repository{}, fmt.Errorf("%w: %s:// is none, only a directory, file://, s3:// and swift://", ErrLocation, u.Scheme)
	}
	if u.Host == "" {
		return Repository{}, fmt.Errorf("%w: %s://: the %s is missing", ErrLocation, u.Scheme, bucket)
	}
	fields[bucket].SetString(u.Host)
	fields[prefix].SetString(strings.Trim(u.Path, "/"))
	delete(fields, bucket)
	delete(fields, prefix)
	return r, setQuery(u, fields)
}

// setQuery sets fields from a URL's query. Errors name the field and not the
// value.
func setQuery(u *url.URL, fields map[string]reflect.Value) error {
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return fmt.Errorf("%w: malformed query", ErrLocation)
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		f, ok := fields[name]
		switch {
		case !ok:
			return fmt.Errorf("%w: %s: %w", ErrLocation, name, unknown(name, public(fields)))
		case f.Type() == reflect.TypeFor[Secret]():
			return fmt.Errorf("%s: %w; %s", name, ErrSecretInURL, secretsFrom(u.Scheme))
		case len(query[name]) != 1:
			return fmt.Errorf("%w: %s is there twice", ErrLocation, name)
		}
		if err := setText(f, query[name][0]); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrLocation, name, err)
		}
	}
	return nil
}

// public leaves out secrets.
func public(fields map[string]reflect.Value) map[string]reflect.Value {
	out := maps.Clone(fields)
	maps.DeleteFunc(out, func(_ string, f reflect.Value) bool { return f.Type() == reflect.TypeFor[Secret]() })
	return out
}

func setText(f reflect.Value, text string) error {
	if _, ok := f.Interface().(time.Duration); ok {
		d, err := time.ParseDuration(text)
		if err != nil || d < 0 {
			return errors.New("must be a duration, such as 20s")
		}
		f.SetInt(int64(d))
		return nil
	}
	switch f.Kind() {
	case reflect.String:
		f.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return errors.New("must be true or false")
		}
		f.SetBool(b)
	case reflect.Int, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, f.Type().Bits())
		if err != nil {
			return errors.New("must be a whole number")
		}
		f.SetInt(n)
	default:
		return errors.New("cannot be in a URL, only in a configuration file")
	}
	return nil
}

// secretsFrom says where secrets come from instead.
func secretsFrom(scheme string) string {
	switch scheme {
	case KindS3:
		return "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
	case KindSwift:
		return "set OS_USERNAME and OS_PASSWORD, an application credential, or ST_USER and ST_KEY"
	}
	return "set them in the environment"
}

// environment takes over what the tools of S3 read. The keys themselves the
// driver finds.
func (s *S3) environment(getenv func(string) string) {
	s.Endpoint = firstOf(getenv, "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
	s.Region = firstOf(getenv, "AWS_REGION", "AWS_DEFAULT_REGION")
	s.CAFile = getenv("AWS_CA_BUNDLE")
	s.Profile = getenv("AWS_PROFILE")
}

// environment takes over what the tools of OpenStack and Swift read.
func (s *Swift) environment(getenv func(string) string) {
	if s.AuthURL = getenv("OS_AUTH_URL"); s.AuthURL == "" {
		s.AuthURL, s.User, s.Key = getenv("ST_AUTH"), getenv("ST_USER"), Secret(getenv("ST_KEY"))
		s.StorageURL, s.Token = getenv("OS_STORAGE_URL"), Secret(firstOf(getenv, "OS_AUTH_TOKEN", "OS_TOKEN"))
		return
	}
	s.AuthVersion, _ = strconv.Atoi(strings.SplitN(getenv("OS_IDENTITY_API_VERSION"), ".", 2)[0])
	s.User, s.UserID, s.Key = getenv("OS_USERNAME"), getenv("OS_USER_ID"), Secret(getenv("OS_PASSWORD"))
	s.Domain = firstOf(getenv, "OS_USER_DOMAIN_NAME", "OS_DOMAIN_NAME")
	s.DomainID = firstOf(getenv, "OS_USER_DOMAIN_ID", "OS_DOMAIN_ID")
	s.Project, s.ProjectID = firstOf(getenv, "OS_PROJECT_NAME", "OS_TENANT_NAME"), firstOf(getenv, "OS_PROJECT_ID", "OS_TENANT_ID")
	s.ProjectDomain = getenv("OS_PROJECT_DOMAIN_NAME")
	s.ApplicationCredentialID = getenv("OS_APPLICATION_CREDENTIAL_ID")
	s.ApplicationCredentialName = getenv("OS_APPLICATION_CREDENTIAL_NAME")
	s.ApplicationCredentialSecret = Secret(getenv("OS_APPLICATION_CREDENTIAL_SECRET"))
	s.Token, s.StorageURL = Secret(firstOf(getenv, "OS_AUTH_TOKEN", "OS_TOKEN")), getenv("OS_STORAGE_URL")
	s.Region, s.CAFile = getenv("OS_REGION_NAME"), getenv("OS_CACERT")
	s.Interface = strings.TrimSuffix(firstOf(getenv, "OS_INTERFACE", "OS_ENDPOINT_TYPE"), "URL")
}

func firstOf(getenv func(string) string, names ...string) string {
	for _, name := range names {
		if v := getenv(name); v != "" {
			return v
		}
	}
	return ""
}
