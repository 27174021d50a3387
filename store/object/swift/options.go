package swift

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/ncw/swift/v2"

	"jetkeep/store/object"
	"jetkeep/store/object/retry"
)

// Which of the endpoints that Keystone names is used.
const (
	InterfacePublic   = "public"
	InterfaceInternal = "internal"
	InterfaceAdmin    = "admin"
)

// Defaults and bounds of Options.
const (
	DefaultSegmentSize = 256 << 20
	DefaultParallel    = 3
	MinSegmentSize     = 1 << 20
	MaxParallel        = 64
	maxSegments        = 1000 // of one object, as Swift has it by default
)

// Options say where a container is and who asks. Container is required, and
// what it takes to be let in: AuthURL with a user and key, an application
// credential or a token, or a Token and the StorageURL that it is good for.
type Options struct {
	AuthURL     string
	AuthVersion int // 1, 2 or 3; found out of AuthURL if 0
	User        string
	UserID      string
	Key         string // or password

	Domain        string // of the user
	DomainID      string
	Project       string // or tenant
	ProjectID     string
	ProjectDomain string // if it is another one than the user's

	ApplicationCredentialID     string
	ApplicationCredentialName   string
	ApplicationCredentialSecret string
	Token                       string
	// StorageURL is used in place of the one that authentication names.
	StorageURL string

	Region    string
	Interface string
	Container string
	Prefix    string // of the names of all objects, without slashes around
	// SegmentContainer is where the parts of large objects are; the container
	// itself if empty.
	SegmentContainer string
	SegmentSize      int64 // bytes; larger objects are stored in segments
	Parallel         int   // segments at once
	CAFile           string
	// UploadRate and DownloadRate bound bytes a second; 0 is no bound.
	UploadRate, DownloadRate int64
	// Retry is for segments; whole operations are not repeated here.
	Retry retry.Policy
}

// String shows the options without secrets.
func (o Options) String() string {
	s := "swift://" + o.Container
	if o.Prefix != "" {
		s += "/" + o.Prefix
	}
	if at := o.AuthURL; at != "" {
		s += " at " + at
	} else if o.StorageURL != "" {
		s += " at " + o.StorageURL
	}
	return s
}

// GoString is String, so that %#v shows no secret.
func (o Options) GoString() string { return o.String() }

// LogValue is for logs.
func (o Options) LogValue() slog.Value { return slog.StringValue(o.String()) }

func (o *Options) setDefaults() {
	if o.Interface == "" {
		o.Interface = InterfacePublic
	}
	if o.SegmentContainer == "" {
		o.SegmentContainer = o.Container
	}
	if o.SegmentSize == 0 {
		o.SegmentSize = DefaultSegmentSize
	}
	if o.Parallel == 0 {
		o.Parallel = DefaultParallel
	}
}

// Validate names the field that is wrong as a configuration has it.
func (o Options) Validate() error {
	o.setDefaults()
	for _, c := range []struct{ field, name string }{{"container", o.Container}, {"segment_container", o.SegmentContainer}} {
		switch {
		case c.name == "":
			return fmt.Errorf("%s: is required", c.field)
		case strings.Contains(c.name, "/") || len(c.name) > 256:
			return fmt.Errorf("%s: %q is no name of a container", c.field, c.name)
		}
	}
	switch {
	case o.Prefix != "" && object.CheckName(o.Prefix) != nil:
		return fmt.Errorf("prefix: %w", object.CheckName(o.Prefix))
	case len(o.Prefix) > 300:
		return fmt.Errorf("prefix: is %d bytes long, at most 300 leave room for names", len(o.Prefix))
	case o.SegmentSize < MinSegmentSize || o.SegmentSize > object.MaxSize:
		return fmt.Errorf("segment_size: %d bytes, must be between 1 MiB and 5 GiB", o.SegmentSize)
	case o.Parallel < 1 || o.Parallel > MaxParallel:
		return fmt.Errorf("parallel: must be between 1 and %d", MaxParallel)
	case o.Interface != InterfacePublic && o.Interface != InterfaceInternal && o.Interface != InterfaceAdmin:
		return fmt.Errorf("interface: %q is none of public, internal, admin", o.Interface)
	case o.UploadRate < 0 || o.DownloadRate < 0:
		return errors.New("upload_rate: must not be negative, nor must download_rate")
	case o.AuthVersion < 0 || o.AuthVersion > 3:
		return fmt.Errorf("auth_version: %d is none of 1, 2, 3", o.AuthVersion)
	}
	return o.validateAccess()
}

func (o *Options) validateAccess() error {
	for _, c := range []struct{ field, url string }{{"auth_url", o.AuthURL}, {"storage_url", o.StorageURL}} {
		u, err := url.Parse(c.url)
		switch {
		case c.url == "":
		case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
			return fmt.Errorf("%s: is no URL such as https://keystone.example.net/v3", c.field)
		case u.User != nil || u.RawQuery != "":
			return fmt.Errorf("%s: must not hold credentials or a query", c.field)
		}
	}
	application := o.ApplicationCredentialID != "" || o.ApplicationCredentialName != "" || o.ApplicationCredentialSecret != ""
	switch {
	case o.AuthURL == "" && (o.Token == "" || o.StorageURL == ""):
		return errors.New("auth_url: is required, unless there are token and storage_url")
	case o.AuthURL == "":
		return nil
	case application && o.ApplicationCredentialSecret == "":
		return errors.New("application_credential_secret: is required with an application credential")
	case application && o.ApplicationCredentialID == "" && o.ApplicationCredentialName == "":
		return errors.New("application_credential_id: it or application_credential_name is required")
	case application && o.ApplicationCredentialID == "" && o.User == "" && o.UserID == "":
		return errors.New("user: is required with application_credential_name")
	case application || o.Token != "":
		return nil
	case o.User == "" && o.UserID == "":
		return errors.New("user: is required")
	case o.Key == "":
		return errors.New("key: is required")
	}
	return nil
}

// connection returns the client's library set up.
func (o *Options) connection(transport http.RoundTripper) *swift.Connection {
	c := &swift.Connection{
		AuthUrl: o.AuthURL, AuthVersion: o.AuthVersion, UserName: o.User, UserId: o.UserID, ApiKey: o.Key,
		Domain: o.Domain, DomainId: o.DomainID, Tenant: o.Project, TenantId: o.ProjectID, TenantDomain: o.ProjectDomain,
		ApplicationCredentialId: o.ApplicationCredentialID, ApplicationCredentialName: o.ApplicationCredentialName,
		ApplicationCredentialSecret: o.ApplicationCredentialSecret, Token: o.Token,
		Region: o.Region, EndpointType: swift.EndpointType(o.Interface), Internal: o.Interface == InterfaceInternal,
		Transport: transport, UserAgent: "jetkeep", Retries: 1, ConnectTimeout: 30 * time.Second, Timeout: time.Minute,
	}
	switch {
	case o.AuthURL == "":
		c.StorageUrl, c.AuthToken, c.Auth = o.StorageURL, o.Token, onlyToken{}
	case o.StorageURL != "":
		c.Auth = &elsewhere{storageURL: o.StorageURL}
	}
	return c
}

// elsewhere is the library's authentication for a storage that is not where it
// says. It is set before the first one, so that each request of the library goes
// there, and that of a user whose own account is another one.
type elsewhere struct {
	swift.Authenticator // nil before the first
	storageURL          string
}

// Request implements swift.Authenticator.
func (e *elsewhere) Request(ctx context.Context, c *swift.Connection) (*http.Request, error) {
	if e.Authenticator == nil {
		// The library makes one while it authenticates, and no other way.
		maker := &swift.Connection{AuthUrl: c.AuthUrl, AuthVersion: c.AuthVersion, ApiKey: c.ApiKey, Transport: nowhere{}}
		if err := maker.Authenticate(ctx); maker.Auth == nil {
			return nil, err
		}
		e.Authenticator = maker.Auth
	}
	return e.Authenticator.Request(ctx, c)
}

// StorageUrl implements swift.Authenticator.
func (e *elsewhere) StorageUrl(bool) string { return e.storageURL }

// Expires implements swift.Expireser.
func (e *elsewhere) Expires() time.Time {
	if x, ok := e.Authenticator.(swift.Expireser); ok {
		return x.Expires()
	}
	return time.Time{}
}

// nowhere sends nothing.
type nowhere struct{}

var errNowhere = errors.New("nothing is sent")

// RoundTrip implements http.RoundTripper.
func (nowhere) RoundTrip(*http.Request) (*http.Response, error) { return nil, errNowhere }

// onlyToken is an authentication that knows of one token and no other.
type onlyToken struct{ swift.Authenticator }

var errOnlyToken = errors.New("without auth_url there is no other token")

// Request implements swift.Authenticator: it is called when the token was
// refused.
func (onlyToken) Request(context.Context, *swift.Connection) (*http.Request, error) {
	return nil, &object.PermissionError{Action: "the token, which may have expired", Kind: object.ErrPermission, Err: errOnlyToken}
}
