package s3

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"jetkeep/store/object"
)

const (
	// credentialsTimeout bounds asking one source for credentials.
	credentialsTimeout = 15 * time.Second
	// credentialsWait is how long credentials that are to be renewed, and still
	// hold, are used before a source that did not answer is asked again.
	credentialsWait = 30 * time.Second
)

// theCredentials is what is refused if it is not the action.
const theCredentials = "the credentials"

// A chain asks its sources for credentials, one after the other, and keeps to
// the first that has some. If none has, that is an error: nothing is ever asked
// of a store without credentials.
type chain struct {
	sources []source
	client  *http.Client
	current *source // nil until one had some
	last    credentials.Value
	again   time.Time // before it, nobody is asked again who did not answer
	// refused, if set, are credentials that the store does not take any more.
	refused atomic.Pointer[credentials.Value]
	from    atomic.Pointer[string] // the name of current
}

// refuse has credentials not be used again, though they may be said to hold.
func (c *chain) refuse(value credentials.Value) { c.refused.Store(&value) }

// rotates says whether the source may have other credentials without a change
// of the configuration.
func (c *chain) rotates() bool {
	from := c.from.Load()
	return from != nil && *from != CredentialsStatic && *from != CredentialsEnvironment
}

type source struct {
	name     string
	provider credentials.Provider
	check    func() error // what is wrong before it is asked; nil for nothing
}

// chain returns where credentials come from.
func (o *Options) chain(t *http.Transport) *chain {
	t = t.Clone()
	t.DisableKeepAlives = true
	t.Proxy = func(r *http.Request) (*url.URL, error) {
		if ip := net.ParseIP(r.URL.Hostname()); ip != nil && ip.IsLinkLocalUnicast() {
			return nil, nil // no proxy knows this machine
		}
		return http.ProxyFromEnvironment(r)
	}
	c := &chain{client: &http.Client{Transport: busy{t}, Timeout: credentialsTimeout}}
	environment := source{name: CredentialsEnvironment, provider: &credentials.EnvAWS{}}
	shared := source{name: CredentialsProfile, provider: &profile{file: o.ProfileFile, name: o.Profile, region: o.Region}}
	identity := source{name: CredentialsWebIdentity, check: hasIdentity, provider: &credentials.IAM{
		Endpoint: os.Getenv("AWS_ENDPOINT_URL_STS"), Region: o.Region,
	}}
	instance := source{name: CredentialsInstance, check: hasInstance, provider: &credentials.IAM{Endpoint: metadataEndpoint()}}
	switch {
	case o.Credentials == CredentialsEnvironment:
		c.sources = []source{environment}
	case o.Credentials == CredentialsProfile:
		c.sources = []source{shared}
	case o.Credentials == CredentialsWebIdentity:
		c.sources = []source{identity}
	case o.Credentials == CredentialsInstance:
		c.sources = []source{instance}
	case o.AccessKey != "":
		c.sources = []source{{name: CredentialsStatic, provider: &credentials.Static{Value: credentials.Value{
			AccessKeyID: o.AccessKey, SecretAccessKey: o.SecretKey, SessionToken: o.SessionToken, SignerType: credentials.SignatureV4,
		}}}}
	default:
		c.sources = []source{environment, shared, identity, instance}
	}
	return c
}

const (
	tokenFileVariable    = "AWS_WEB_IDENTITY_TOKEN_FILE"
	containerURIVariable = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
	relativeURIVariable  = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"
)

func hasIdentity() error {
	if os.Getenv(tokenFileVariable) == "" {
		return errors.New(tokenFileVariable + " is not set")
	}
	return nil
}

func hasInstance() error {
	switch {
	case os.Getenv(tokenFileVariable) != "":
		// The client's library takes that first.
		return errors.New(tokenFileVariable + " is set: have credentials come from " + CredentialsWebIdentity + ", or unset it")
	case strings.EqualFold(os.Getenv("AWS_EC2_METADATA_DISABLED"), "true") && !inContainer():
		return errors.New("AWS_EC2_METADATA_DISABLED is set")
	}
	return nil
}

func inContainer() bool {
	return cmp.Or(os.Getenv(containerURIVariable), os.Getenv(relativeURIVariable)) != ""
}

// metadataEndpoint is where a machine is asked for its credentials, empty for
// the usual place. Containers say it themselves.
func metadataEndpoint() string {
	if inContainer() {
		return ""
	}
	return strings.TrimSuffix(os.Getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT"), "/")
}

// RetrieveWithCredContext implements credentials.Provider.
func (c *chain) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	if c.current != nil {
		return c.renew(cc)
	}
	var errs []string
	for i := range c.sources {
		s := &c.sources[i]
		value, err := c.ask(s, cc)
		if err == nil {
			c.current, c.last = s, value
			c.from.Store(&s.name)
			return value, nil
		}
		if len(c.sources) == 1 {
			return value, err
		}
		errs = append(errs, err.Error())
	}
	return credentials.Value{}, missing(errors.New("there are none: " + strings.Join(errs, "; ")))
}

// renew asks the source that had credentials before. If it does not answer, they
// are good for as long as they hold: they are renewed well before.
func (c *chain) renew(cc *credentials.CredContext) (credentials.Value, error) {
	value, err := c.ask(c.current, cc)
	if err == nil {
		c.last, c.again = value, time.Time{}
		return value, nil
	}
	now := time.Now()
	refused := c.refused.Load()
	if errors.As(err, new(*object.PermissionError)) || !c.last.Expiration.After(now) || refused != nil && same(*refused, c.last) {
		return value, err
	}
	c.again = now.Add(min(credentialsWait, c.last.Expiration.Sub(now)))
	return c.last, nil
}

// ask asks one source.
func (c *chain) ask(s *source, cc *credentials.CredContext) (credentials.Value, error) {
	if s.check != nil {
		if err := s.check(); err != nil {
			return credentials.Value{}, missing(fmt.Errorf("from %s: %w", s.name, err))
		}
	}
	ctx := context.Background()
	if cc.Context != nil {
		ctx = cc.Context
	}
	ctx, cancel := context.WithTimeout(ctx, credentialsTimeout)
	defer cancel()
	value, err := s.provider.RetrieveWithCredContext(&credentials.CredContext{Client: c.client, Endpoint: cc.Endpoint, Context: ctx})
	var (
		broken net.Error
		file   *fs.PathError // whose reasons look as if they may pass
	)
	switch {
	case err == nil && (value.AccessKeyID == "" || value.SecretAccessKey == ""):
		return credentials.Value{}, missing(fmt.Errorf("from %s: there are none", s.name))
	case errors.As(err, &broken) && !errors.As(err, &file):
		return credentials.Value{}, fmt.Errorf("credentials from %s: %w", s.name, err) // which may pass
	case err != nil:
		return credentials.Value{}, missing(fmt.Errorf("from %s: %w", s.name, err))
	}
	return value, nil
}

func missing(err error) error {
	return &object.PermissionError{Action: theCredentials, Kind: object.ErrPermission, Err: err}
}

// Retrieve implements credentials.Provider.
func (c *chain) Retrieve() (credentials.Value, error) {
	return c.RetrieveWithCredContext(&credentials.CredContext{})
}

// IsExpired implements credentials.Provider.
func (c *chain) IsExpired() bool {
	return c.current == nil || c.current.provider.IsExpired() && !time.Now().Before(c.again)
}

// busy takes the answer of a source that cannot answer for none.
type busy struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (b busy) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := b.next.RoundTrip(req)
	if err != nil || resp.StatusCode < http.StatusInternalServerError && resp.StatusCode != http.StatusTooManyRequests {
		return resp, err
	}
	_ = resp.Body.Close()
	return nil, fmt.Errorf("%w: %s", object.ErrUnavailable, resp.Status)
}
