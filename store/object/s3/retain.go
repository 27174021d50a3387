package s3

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"jetkeep/store/object/httpclient"
)

// RetainFor implements object.Retainer.
func (d *Driver) RetainFor() time.Duration { return d.opt.RetainFor }

// Retain implements object.Retainer.
func (d *Driver) Retain(ctx context.Context, name string, until time.Time) error {
	// Times are kept to the second: up, so that the promise holds.
	until = until.Add(time.Second - 1).Truncate(time.Second).UTC()
	there, err := d.retention(ctx, name, "")
	if err != nil || !there.Before(until) {
		return err
	}
	mode := d.mode()
	ctx = httpclient.Hear(ctx)
	err = d.core.PutObjectRetention(ctx, d.opt.Bucket, d.key(name), minio.PutObjectRetentionOptions{Mode: &mode, RetainUntilDate: &until})
	return d.typed(ctx, "s3:PutObjectRetention", err)
}

// Retention implements object.Retainer.
func (d *Driver) Retention(ctx context.Context, name string) (time.Time, error) {
	return d.retention(ctx, name, "")
}

func (d *Driver) retention(ctx context.Context, name, version string) (time.Time, error) {
	ctx = httpclient.Hear(ctx)
	_, until, err := d.core.GetObjectRetention(ctx, d.opt.Bucket, d.key(name), version)
	switch answer := minio.ToErrorResponse(err); {
	case answer.Code == "NoSuchObjectLockConfiguration", answer.Code == "ObjectLockConfigurationNotFoundError",
		noLock(answer.Message):
		return time.Time{}, nil
	case err != nil && answer.StatusCode == 0 && ctx.Err() == nil:
		// Some servers' answers are not what the library reads.
		return d.headRetention(ctx, name, version)
	case err != nil || until == nil:
		return time.Time{}, d.typed(ctx, "s3:GetObjectRetention", err)
	}
	return *until, nil
}

// noLock says whether a store's words are that a bucket has no object lock, for
// which there is no code.
func noLock(message string) bool {
	return strings.Contains(strings.ReplaceAll(message, " ", ""), "missingObjectLockConfiguration")
}

// headRetention reads how long an object is retained from its headers, which
// are there for who may s3:GetObjectRetention.
func (d *Driver) headRetention(ctx context.Context, name, version string) (time.Time, error) {
	o := d.getOptions()
	o.VersionID = version
	info, err := d.core.StatObject(ctx, d.opt.Bucket, d.key(name), o)
	if err != nil {
		return time.Time{}, d.typed(ctx, "s3:GetObjectRetention", err)
	}
	date := info.Metadata.Get("X-Amz-Object-Lock-Retain-Until-Date")
	if date == "" {
		return time.Time{}, nil
	}
	until, err := time.Parse(time.RFC3339, date)
	if err != nil {
		return time.Time{}, fmt.Errorf("retained until: %w", err)
	}
	return until, nil
}
