package s3

import (
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/minio/minio-go/v7/pkg/encrypt"
	"github.com/minio/minio-go/v7/pkg/tags"

	"jetkeep/store/object"
	"jetkeep/store/object/retry"
)

// Where credentials come from.
const (
	CredentialsAuto        = "auto" // static if there is an access key, else each of the others in this order
	CredentialsStatic      = "static"
	CredentialsEnvironment = "environment"  // AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN
	CredentialsProfile     = "profile"      // of ~/.aws/credentials and ~/.aws/config, or AWS_SHARED_CREDENTIALS_FILE and AWS_CONFIG_FILE
	CredentialsWebIdentity = "web_identity" // AWS_ROLE_ARN, AWS_WEB_IDENTITY_TOKEN_FILE; AWS_ENDPOINT_URL_STS
	CredentialsInstance    = "instance"     // of the machine, AWS_EC2_METADATA_SERVICE_ENDPOINT, or container, AWS_CONTAINER_*
)

// How a bucket is named in requests.
const (
	AddressingAuto    = "auto"
	AddressingPath    = "path"
	AddressingVirtual = "virtual"
)

// Who encrypts what is stored.
const (
	EncryptionAES256   = "aes256"   // the store, with keys of its own
	EncryptionKMS      = "kms"      // the store, with a key of its key service
	EncryptionCustomer = "customer" // the store, with a key that each request brings
)

// How objects are retained in a bucket with object lock.
const (
	RetainGovernance = "governance" // those with the right to may still delete
	RetainCompliance = "compliance" // nobody may
)

// Whether the store has conditional writes, If-None-Match: *.
const (
	ConditionalAuto = "auto" // it is tried
	ConditionalYes  = "yes"
	ConditionalNo   = "no"
)

// Checksums that are sent with what is stored, besides the one in the
// signature.
const (
	ChecksumAuto   = "auto" // sha256
	ChecksumSHA256 = "sha256"
	ChecksumNone   = "none" // for stores that do not know them
)

// Defaults and bounds of Options.
const (
	DefaultPartSize = 32 << 20
	DefaultParallel = 3
	MinPartSize     = 5 << 20
	MaxParallel     = 64
	maxParts        = 10000
)

// Options say where a bucket is and how to speak to it. Bucket is required, all
// else has a default.
type Options struct {
	Endpoint   string // URL, which may have a path; AWS in Region if empty
	Region     string // us-east-1 if empty
	Bucket     string
	Prefix     string // of the names of all objects, without slashes around
	Addressing string

	Credentials  string
	AccessKey    string
	SecretKey    string
	SessionToken string
	Profile      string // default if empty
	ProfileFile  string
	CAFile       string // PEM of authorities to trust besides the system's

	StorageClass  string
	Encryption    string // empty: what the bucket does
	KMSKey        string // id of the key; the bucket's default if empty
	CustomerKey   string // 32 bytes in base64
	Tags          map[string]string
	RequesterPays bool

	// RetainMode and RetainFor have the store keep every object for so long
	// after it was written.
	RetainMode string
	RetainFor  time.Duration

	Checksum          string
	ConditionalWrites string
	// PartSize is how large the parts are in which objects are written that are
	// larger than two of them, Parallel how many parts at once.
	PartSize int64
	Parallel int
	// DeleteVersions deletes all versions of an object in a bucket with
	// versions. Without it a deleted object still takes space.
	DeleteVersions bool
	// UploadRate and DownloadRate bound bytes a second; 0 is no bound.
	UploadRate, DownloadRate int64
	// Retry is for parts of large objects; whole operations are not repeated
	// here.
	Retry retry.Policy
}

// String shows the options without secrets.
func (o Options) String() string {
	s := "s3://" + o.Bucket
	if o.Prefix != "" {
		s += "/" + o.Prefix
	}
	if o.Endpoint != "" {
		s += " at " + o.Endpoint
	}
	return s
}

// GoString is String, so that %#v shows no secret.
func (o Options) GoString() string { return o.String() }

// LogValue is for logs.
func (o Options) LogValue() slog.Value { return slog.StringValue(o.String()) }

func (o *Options) setDefaults() {
	// A deletion that only hides a version would be no deletion, and would hide
	// what was promised to be kept.
	o.DeleteVersions = o.DeleteVersions || o.RetainMode != ""
	set := func(v *string, d string) {
		if *v == "" {
			*v = d
		}
	}
	set(&o.Region, "us-east-1")
	set(&o.Endpoint, "https://s3."+o.Region+".amazonaws.com")
	set(&o.Addressing, AddressingAuto)
	set(&o.Credentials, CredentialsAuto)
	set(&o.Checksum, ChecksumAuto)
	set(&o.ConditionalWrites, ConditionalAuto)
	if o.PartSize == 0 {
		o.PartSize = DefaultPartSize
	}
	if o.Parallel == 0 {
		o.Parallel = DefaultParallel
	}
}

// Validate names the field that is wrong as a configuration has it.
func (o Options) Validate() error {
	o.setDefaults()
	u, err := url.Parse(o.Endpoint)
	switch {
	case o.Bucket == "":
		return errors.New("bucket: is required")
	case strings.ContainsAny(o.Bucket, "/ ") || len(o.Bucket) < 3 || len(o.Bucket) > 63:
		return fmt.Errorf("bucket: %q is no name of a bucket", o.Bucket)
	case err != nil:
		return errors.New("endpoint: is no URL") // it may hold a password
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return fmt.Errorf("endpoint: %s is no URL such as https://s3.example.net", u.Redacted())
	case u.User != nil:
		return errors.New("endpoint: must not hold credentials, give access_key and secret_key")
	case u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("endpoint: %s must end with its path", u.Redacted())
	case strings.TrimSuffix(u.Path, "/") != "" && path.Clean(u.Path) != strings.TrimSuffix(u.Path, "/"):
		return fmt.Errorf("endpoint: %s has a path with empty parts or dots", u.Redacted())
	case strings.TrimSuffix(u.Path, "/") != "" && o.Addressing == AddressingVirtual:
		return fmt.Errorf("endpoint: %s has a path, which does not go with addressing virtual", u.Redacted())
	case o.Prefix != "" && object.CheckName(o.Prefix) != nil:
		return fmt.Errorf("prefix: %w", object.CheckName(o.Prefix))
	case len(o.Prefix) > 300:
		return fmt.Errorf("prefix: is %d bytes long, at most 300 leave room for names", len(o.Prefix))
	}
	if err := o.validateChoices(); err != nil {
		return err
	}
	return o.validateSecurity(u.Scheme == "https")
}

func (o *Options) validateChoices() error {
	for _, c := range []struct {
		field, value string
		choices      []string
	}{
		{"addressing", o.Addressing, []string{AddressingAuto, AddressingPath, AddressingVirtual}},
		{"credentials", o.Credentials, []string{CredentialsAuto, CredentialsStatic, CredentialsEnvironment, CredentialsProfile, CredentialsWebIdentity, CredentialsInstance}},
		{"encryption", o.Encryption, []string{"", EncryptionAES256, EncryptionKMS, EncryptionCustomer}},
		{"retain_mode", o.RetainMode, []string{"", RetainGovernance, RetainCompliance}},
		{"conditional_writes", o.ConditionalWrites, []string{ConditionalAuto, ConditionalYes, ConditionalNo}},
		{"checksum", o.Checksum, []string{ChecksumAuto, ChecksumSHA256, ChecksumNone}},
	} {
		found := false
		for _, x := range c.choices {
			found = found || x == c.value
		}
		if !found {
			return fmt.Errorf("%s: %q is none of %s", c.field, c.value, strings.TrimPrefix(strings.Join(c.choices, ", "), ", "))
		}
	}
	switch {
	case o.PartSize < MinPartSize || o.PartSize > object.MaxSize:
		return fmt.Errorf("part_size: %d bytes, must be between 5 MiB and 5 GiB", o.PartSize)
	case o.Parallel < 1 || o.Parallel > MaxParallel:
		return fmt.Errorf("parallel: must be between 1 and %d", MaxParallel)
	case (o.RetainMode == "") != (o.RetainFor == 0):
		return errors.New("retain_for: retain_mode and retain_for go together")
	case o.RetainFor < 0:
		return errors.New("retain_for: must not be negative")
	case o.UploadRate < 0 || o.DownloadRate < 0:
		return errors.New("upload_rate: must not be negative, nor must download_rate")
	case len(o.Tags) > 10:
		return fmt.Errorf("tags: %d are too many, objects have at most 10", len(o.Tags))
	}
	if _, err := tags.NewTags(o.Tags, true); err != nil { // which would be left out without a word
		return fmt.Errorf("tags: %w; names and values have letters, digits, spaces and +-=._:/@ in them", err)
	}
	return nil
}

func (o *Options) validateSecurity(https bool) error {
	static := o.AccessKey != "" || o.SecretKey != "" || o.SessionToken != ""
	switch {
	case static && o.AccessKey == "":
		return errors.New("access_key: is required with secret_key")
	case static && o.SecretKey == "":
		return errors.New("secret_key: is required with access_key")
	case o.Credentials == CredentialsStatic && !static:
		return errors.New("access_key: is required for static credentials")
	case static && o.Credentials != CredentialsStatic && o.Credentials != CredentialsAuto:
		return fmt.Errorf("access_key: is given, but credentials are to come from %s", o.Credentials)
	case o.KMSKey != "" && o.Encryption != EncryptionKMS:
		return errors.New("kms_key: needs encryption kms")
	case (o.CustomerKey != "") != (o.Encryption == EncryptionCustomer):
		return errors.New("customer_key: it and encryption customer go together")
	case o.Encryption == EncryptionCustomer && !https:
		return errors.New("endpoint: must be https, or the customer_key goes over the network as it is")
	}
	if _, err := o.serverSide(); err != nil {
		return err
	}
	return nil
}

// serverSide returns what the store is to encrypt with, nil for nothing.
func (o *Options) serverSide() (encrypt.ServerSide, error) {
	switch o.Encryption {
	case EncryptionAES256:
		return encrypt.NewSSE(), nil
	case EncryptionKMS:
		return encrypt.NewSSEKMS(o.KMSKey, nil)
	case EncryptionCustomer:
		key, err := base64.StdEncoding.DecodeString(o.CustomerKey)
		if err != nil || len(key) != 32 {
			return nil, errors.New("customer_key: must be 32 bytes in base64")
		}
		return encrypt.NewSSEC(key)
	}
	return nil, nil // nothing is encrypted
}
