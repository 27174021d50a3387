// Package stores makes drivers of what a configuration says of a repository.
//
// A driver of a distant store stands behind the portable layer: what may pass
// is tried again, what does not move on is ended, and only so much is asked at
// once. Nothing here speaks to a store before Open or Create is
// called, and no error shows a secret.
package stores

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"jetkeep/service/config"
	"jetkeep/store/object"
	"jetkeep/store/object/deadline"
	"jetkeep/store/object/limit"
	"jetkeep/store/object/local"
	"jetkeep/store/object/observe"
	"jetkeep/store/object/retry"
	"jetkeep/store/object/s3"
	"jetkeep/store/object/swift"
)

// ErrKind means that this program has no driver for a kind of repository.
var ErrKind = errors.New("no driver for this kind of repository")

// Distant says whether a repository is reached over a network: it is opened
// once, for what is there cannot be mistaken for an empty directory.
func Distant(r *config.Repository) bool { return r.Kind != config.KindLocal && r.Kind != "" }

// Check says what is wrong with a repository's fields, without asking anybody.
// Errors begin with the field as it is called in the configuration.
func Check(r *config.Repository) error {
	switch r.Kind {
	case config.KindLocal, "":
		_, err := r.FileMode()
		return err
	case config.KindS3:
		return s3Options(r).Validate()
	case config.KindSwift:
		return swiftOptions(r).Validate()
	}
	return fmt.Errorf("kind: %q: %w", r.Kind, ErrKind)
}

// Open opens the place where a repository lives or is to live. It fails with
// object.ErrNotExist if there is no such directory, bucket or container. It
// needs no permission to write. The caller closes what it returns by
// object.NewBucket(d).Close.
func Open(ctx context.Context, r *config.Repository) (object.Driver, error) {
	return Opener{}.Open(ctx, r)
}

// Create makes the place for a repository, unless it is there, and opens it.
func Create(ctx context.Context, r *config.Repository) (object.Driver, error) {
	return Opener{}.Create(ctx, r)
}

// An Opener opens places and tells a log of what is tried again there.
type Opener struct {
	Log *slog.Logger // may be nil
	// Observe, if set, is told of each operation on a repository's store, by many
	// goroutines at once. It must not block.
	Observe func(repository string, o observe.Operation)
	// Retried, if set, is told of each try that failed and is made again.
	Retried func(repository string)
}

// observed puts what tells of operations before a driver.
func (o Opener) observed(r *config.Repository, d object.Driver, err error) (object.Driver, error) {
	if err != nil || o.Observe == nil {
		return d, err
	}
	name := r.Name
	return observe.New(d, func(op observe.Operation) { o.Observe(name, op) }), nil
}

// Open is the function of that name.
func (o Opener) Open(ctx context.Context, r *config.Repository) (object.Driver, error) {
	if err := Check(r); err != nil {
		return nil, err
	}
	switch r.Kind {
	case config.KindS3:
		return portable(ctx, o, r, o.s3(r), s3.Open)
	case config.KindSwift:
		return portable(ctx, o, r, o.swift(r), swift.Open)
	default:
		return o.local(r, local.OpenWith)
	}
}

// local opens a directory.
func (o Opener) local(r *config.Repository, open func(local.Options) (*local.Driver, error)) (object.Driver, error) {
	mode, err := r.FileMode()
	if err != nil {
		return nil, err
	}
	d, err := open(local.Options{Dir: r.Path, Mode: mode})
	if err != nil {
		return nil, err
	}
	return o.observed(r, d, nil)
}

// Create is the function of that name.
func (o Opener) Create(ctx context.Context, r *config.Repository) (object.Driver, error) {
	if err := Check(r); err != nil {
		return nil, err
	}
	switch r.Kind {
	case config.KindS3:
		return portable(ctx, o, r, o.s3(r), s3.Create)
	case config.KindSwift:
		return portable(ctx, o, r, o.swift(r), swift.Create)
	default:
		d, err := o.local(r, local.OpenWith)
		if errors.Is(err, object.ErrNotExist) {
			d, err = o.local(r, local.CreateWith)
		}
		return d, err
	}
}

// Clear deletes every object of a place, the repository and whatever else, and
// what the driver keeps there for itself. It is for places that were made to be
// thrown away.
func Clear(ctx context.Context, r *config.Repository) (int, error) {
	if !Distant(r) {
		return 0, os.RemoveAll(r.Path)
	}
	d, err := Open(ctx, r)
	if err != nil {
		return 0, err
	}
	bucket := object.NewBucket(d)
	var names []string
	for info, err := range bucket.List(ctx, "") {
		if err != nil {
			return 0, errors.Join(err, bucket.Close())
		}
		names = append(names, info.Name)
	}
	errs := bucket.DeleteAll(ctx, names)
	if r.Kind == config.KindS3 {
		for _, name := range s3.Traces() { // hidden, so that the bucket knows of none
			errs = append(errs, d.Delete(ctx, name))
		}
	}
	return len(names), errors.Join(append(errs, bucket.Close())...)
}

// A store is asked so often whether the place is there: a hiccup fails nothing,
// and who asks for something hears soon that the store is away.
const (
	openAttempts = 3
	openBudget   = 10 * time.Second
)

// portable opens a distant store and puts the portable layer before it.
func portable[O any, D object.Driver](ctx context.Context, by Opener, r *config.Repository, o O, open func(context.Context, O) (D, error)) (object.Driver, error) {
	var d D
	again := by.again(r)
	opening := retry.Policy{Attempts: openAttempts, Budget: openBudget, Log: again}
	err := opening.Do(ctx, "open", r.Location(), func(ctx context.Context) (err error) {
		d, err = open(ctx, o)
		return err
	})
	if err != nil {
		return nil, err
	}
	bounded := limit.New(deadline.New(d, deadline.Options{}), limit.Options{})
	return by.observed(r, retry.New(bounded, retry.Policy{Budget: retryFor(r), Log: again}), nil)
}

// retryFor returns how long one operation is tried again, 0 for the default.
func retryFor(r *config.Repository) time.Duration {
	if r.Kind == config.KindSwift {
		return r.Swift.RetryFor
	}
	return r.S3.RetryFor
}

func (o Opener) s3(r *config.Repository) s3.Options {
	opt := s3Options(r)
	opt.Retry.Log = o.again(r)
	return opt
}

func (o Opener) swift(r *config.Repository) swift.Options {
	opt := swiftOptions(r)
	opt.Retry.Log = o.again(r)
	return opt
}

// again returns what tells the log of tries that failed.
func (o Opener) again(r *config.Repository) func(retry.Attempt) {
	if o.Log == nil && o.Retried == nil {
		return nil
	}
	log, name, retried := slog.New(slog.DiscardHandler), r.Name, o.Retried
	if o.Log != nil {
		log = o.Log.With("repository", name)
	}
	return func(a retry.Attempt) {
		if retried != nil {
			retried(name)
		}
		log.Warn("store is asked again", "op", a.Op, "object", a.Name, "attempt", a.Number, "wait", a.Wait, "error", a.Err)
	}
}

func s3Options(r *config.Repository) s3.Options {
	c := r.S3
	return s3.Options{
		Endpoint: c.Endpoint, Region: c.Region, Bucket: c.Bucket, Prefix: strings.Trim(c.Prefix, "/"), Addressing: c.Addressing,
		Credentials: c.Credentials, AccessKey: c.AccessKey, SecretKey: c.SecretKey.Reveal(), SessionToken: c.SessionToken.Reveal(),
		Profile: c.Profile, ProfileFile: c.ProfileFile, CAFile: c.CAFile,
		StorageClass: c.StorageClass, Encryption: c.Encryption, KMSKey: c.KMSKey, CustomerKey: c.CustomerKey.Reveal(),
		Tags: c.Tags, RequesterPays: c.RequesterPays, RetainMode: c.RetainMode, RetainFor: c.RetainFor,
		Checksum: c.Checksum, ConditionalWrites: c.ConditionalWrites, PartSize: c.PartSize, Parallel: c.Parallel,
		DeleteVersions: c.DeleteVersions, UploadRate: c.UploadRate, DownloadRate: c.DownloadRate,
		Retry: retry.Policy{Budget: c.RetryFor},
	}
}

func swiftOptions(r *config.Repository) swift.Options {
	c := r.Swift
	return swift.Options{
		AuthURL: c.AuthURL, AuthVersion: c.AuthVersion, User: c.User, UserID: c.UserID, Key: c.Key.Reveal(),
		Domain: c.Domain, DomainID: c.DomainID, Project: c.Project, ProjectID: c.ProjectID, ProjectDomain: c.ProjectDomain,
		ApplicationCredentialID: c.ApplicationCredentialID, ApplicationCredentialName: c.ApplicationCredentialName,
		ApplicationCredentialSecret: c.ApplicationCredentialSecret.Reveal(), Token: c.Token.Reveal(), StorageURL: c.StorageURL,
		Region: c.Region, Interface: c.Interface, Container: c.Container, Prefix: strings.Trim(c.Prefix, "/"),
		SegmentContainer: c.SegmentContainer, SegmentSize: c.SegmentSize, Parallel: c.Parallel, CAFile: c.CAFile,
		UploadRate: c.UploadRate, DownloadRate: c.DownloadRate,
		Retry: retry.Policy{Budget: c.RetryFor},
	}
}
