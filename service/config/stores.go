package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"jetkeep/service/natsconn"
)

// Secret is a string that does not show itself in prints, logs, errors or JSON.
type Secret = natsconn.Secret

// Kinds of repositories.
const (
	KindLocal = "local" // in a directory
	KindS3    = "s3"    // in a bucket of S3 or of what speaks like it
	KindSwift = "swift" // in a container of OpenStack Swift
)

// Kinds returns all kinds of repositories.
func Kinds() []string { return []string{KindLocal, KindS3, KindSwift} }

// S3 is where a repository of KindS3 lives. What its fields may hold, the
// driver in store/object/s3 says.
type S3 struct {
	Endpoint   string `conf:"endpoint"` // URL; empty: AWS
	Region     string `conf:"region"`
	Bucket     string `conf:"bucket"`
	Prefix     string `conf:"prefix"`
	Addressing string `conf:"addressing"` // auto, path or virtual

	Credentials  string `conf:"credentials"` // auto, static, environment, profile, web_identity or instance
	AccessKey    string `conf:"access_key"`
	SecretKey    Secret `conf:"secret_key"`
	SessionToken Secret `conf:"session_token"`
	Profile      string `conf:"profile"`
	ProfileFile  string `conf:"profile_file"`
	CAFile       string `conf:"ca_file"`

	StorageClass  string            `conf:"storage_class"`
	Encryption    string            `conf:"encryption"` // empty, aes256, kms or customer
	KMSKey        string            `conf:"kms_key"`
	CustomerKey   Secret            `conf:"customer_key"`
	Tags          map[string]string `conf:"tags"`
	RequesterPays bool              `conf:"requester_pays"`

	RetainMode string        `conf:"retain_mode"` // empty, governance or compliance
	RetainFor  time.Duration `conf:"retain_for"`

	Checksum          string `conf:"checksum"`           // auto, sha256 or none
	ConditionalWrites string `conf:"conditional_writes"` // auto, yes or no
	PartSize          int64  `conf:"part_size"`          // bytes
	Parallel          int    `conf:"parallel"`
	UploadRate        int64  `conf:"upload_rate"` // bytes a second
	DownloadRate      int64  `conf:"download_rate"`
	DeleteVersions    bool   `conf:"delete_versions"`

	RetryFor time.Duration `conf:"retry_for"` // how long one operation is tried again
}

// Swift is where a repository of KindSwift lives. What its fields may hold, the
// driver in store/object/swift says.
type Swift struct {
	AuthURL     string `conf:"auth_url"`
	AuthVersion int    `conf:"auth_version"` // 0: found out
	User        string `conf:"user"`
	UserID      string `conf:"user_id"`
	Key         Secret `conf:"key"`

	Domain        string `conf:"domain"`
	DomainID      string `conf:"domain_id"`
	Project       string `conf:"project"`
	ProjectID     string `conf:"project_id"`
	ProjectDomain string `conf:"project_domain"`

	ApplicationCredentialID     string `conf:"application_credential_id"`
	ApplicationCredentialName   string `conf:"application_credential_name"`
	ApplicationCredentialSecret Secret `conf:"application_credential_secret"`
	Token                       Secret `conf:"token"`
	StorageURL                  string `conf:"storage_url"`

	Region           string `conf:"region"`
	Interface        string `conf:"interface"` // public, internal or admin
	Container        string `conf:"container"`
	Prefix           string `conf:"prefix"`
	SegmentContainer string `conf:"segment_container"`
	SegmentSize      int64  `conf:"segment_size"` // bytes
	Parallel         int    `conf:"parallel"`
	UploadRate       int64  `conf:"upload_rate"` // bytes a second
	DownloadRate     int64  `conf:"download_rate"`
	CAFile           string `conf:"ca_file"`

	RetryFor time.Duration `conf:"retry_for"` // how long one operation is tried again
}

// Location says where a repository is, without secrets.
func (r *Repository) Location() string {
	switch r.Kind {
	case KindS3:
		return join("s3", r.S3.Bucket, r.S3.Prefix)
	case KindSwift:
		return join("swift", r.Swift.Container, r.Swift.Prefix)
	}
	return r.Path
}

func join(scheme, bucket, prefix string) string {
	return scheme + "://" + strings.TrimSuffix(bucket+"/"+strings.Trim(prefix, "/"), "/")
}

// place returns what two repositories must not have in common, and the field
// that says it.
func (r *Repository) place() (place, field string, err error) {
	if !slices.Contains(Kinds(), r.Kind) {
		return "", "", fmt.Errorf("kind: %q is none, only %s", r.Kind, strings.Join(Kinds(), ", "))
	}
	if d := max(r.S3.RetryFor, r.Swift.RetryFor); d > time.Hour || min(r.S3.RetryFor, r.Swift.RetryFor) < 0 {
		return "", "", errors.New("retry_for: must be at least 0, for the default, and at most 1h")
	}
	var value string
	switch r.Kind {
	case KindS3:
		field, value = "bucket", r.S3.Bucket
		place = strings.TrimSuffix(r.S3.Endpoint, "/") + " " + r.Location()
	case KindSwift:
		field, value = "container", r.Swift.Container
		place = strings.Join([]string{r.Swift.AuthURL, r.Swift.StorageURL, r.Swift.User, r.Swift.Project, r.Swift.ProjectID, r.Location()}, " ")
	default:
		field, value = "path", r.Path
		place = filepath.Clean(r.Path)
	}
	if r.Kind != KindLocal && r.Path != "" {
		return "", "", fmt.Errorf("path: a repository of kind %s has none", r.Kind)
	}
	if _, err := r.FileMode(); err != nil {
		return "", "", err
	}
	if value == "" {
		return "", "", fmt.Errorf("%s: is required", field)
	}
	return place, field, nil
}
