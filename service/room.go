package service

import (
	"context"
	"fmt"
)

// smallBackups is how many backups of small streams there may be for one of a
// large stream. A small one mostly waits, for the server and for the disk.
const smallBackups = 6

// A room bounds how many large streams are backed up at once, and with them the
// memory that it takes.
type room chan struct{}

// enter waits for a place and returns what gives it back.
func (r room) enter(ctx context.Context) (leave func(), err error) {
	select {
	case r <- struct{}{}:
		return func() { <-r }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for other backups: %w", context.Cause(ctx))
	}
}
