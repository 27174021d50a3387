package store

import (
	"context"
	"fmt"
	"time"

	"jetkeep/store/object"
)

// takenPauses are waited before each try to make an object whose name is taken
// though it cannot be read. Somebody may delete what had the name meanwhile; and a
// host may see what another made over NFS only when its cache of the directory
// ends, which is after a minute at most.
var takenPauses = [...]time.Duration{0, 0, 0, 100 * time.Millisecond, time.Second, 5 * time.Second, 25 * time.Second, 35 * time.Second}

// waitTaken waits before a try, the first of which is 0, to make an object. It
// fails when there were enough: a name stays so where something else than an object
// has it, a directory among files for one.
func waitTaken(ctx context.Context, name string, try int) error {
	if try == len(takenPauses) {
		return fmt.Errorf("%w: %s exists and cannot be read as an object; remove what has this name and run again", object.ErrUnexpected, name)
	}
	if takenPauses[try] == 0 {
		return nil
	}
	t := time.NewTimer(takenPauses[try])
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
