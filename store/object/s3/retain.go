package s3

import (
	"context"
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
	switch minio.ToErrorResponse(err).Code {
	case "NoSuchObjectLockConfiguration", "ObjectLockConfigurationNotFoundError":
		return time.Time{}, nil
	}
	if err != nil || until == nil {
		return time.Time{}, d.typed(ctx, "s3:GetObjectRetention", err)
	}
	return *until, nil
}
