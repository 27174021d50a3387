// Package retry tries again what may pass: what package object calls
// ErrUnavailable or ErrThrottled. All else is final at once.
//
// Waits grow from try to try and are random, so that many who failed together
// do not come back together; a store that says how long to wait is obeyed. One
// operation ends after so many tries or when its budget of time is used up,
// with the last error, and never later than its context.
//
// What a try may have done is not repeated. A Put whose answer was lost may
// have stored the object; if it is found there afterwards and reads as what was
// to be stored, the Put succeeded. A reader that breaks off goes on where it
// was: objects do not change.
package retry

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"jetkeep/store/object"
)

// Defaults of a Policy.
const (
	// DefaultAttempts is more than the budget allows with waits as long as they
	// are: what bounds an operation is time, or a store that is away for a minute
	// would fail all that answers quickly.
	DefaultAttempts = 60
	DefaultBase     = 200 * time.Millisecond
	DefaultMax      = 15 * time.Second
	DefaultBudget   = 3 * time.Minute
)

// A Policy says how often and for how long something is tried. What is zero is
// its default.
type Policy struct {
	Attempts int           // tries in all
	Base     time.Duration // the first wait is up to that long
	Max      time.Duration // no wait is longer, unless the store asks for it
	Budget   time.Duration // no try begins later than this after the first
	// Log, if set, is told of each try that failed and is repeated.
	Log func(Attempt)
}

// An Attempt is a try that failed.
type Attempt struct {
	Op, Name string
	Number   int // from 1 on
	Wait     time.Duration
	Err      error
}

func (p Policy) withDefaults() Policy {
	if p.Attempts <= 0 {
		p.Attempts = DefaultAttempts
	}
	if p.Base <= 0 {
		p.Base = DefaultBase
	}
	if p.Max <= 0 {
		p.Max = DefaultMax
	}
	if p.Budget <= 0 {
		p.Budget = DefaultBudget
	}
	return p
}

// MayPass says whether the same may succeed later.
func MayPass(err error) bool {
	return errors.Is(err, object.ErrUnavailable) || errors.Is(err, object.ErrThrottled)
}

// Do calls f until it succeeds, fails for good, or tries and time are used up.
func (p Policy) Do(ctx context.Context, op, name string, f func(ctx context.Context) error) error {
	t := p.begin(op, name)
	for {
		err := f(ctx)
		if err == nil {
			return nil
		}
		if err := t.failed(ctx, err); err != nil {
			return err
		}
	}
}

// tries counts the tries of one operation.
type tries struct {
	policy   Policy
	op, name string
	begun    time.Time
	count    int
}

func (p Policy) begin(op, name string) *tries {
	return &tries{policy: p.withDefaults(), op: op, name: name, begun: time.Now()}
}

// failed waits until the next try, or returns why there is none.
func (t *tries) failed(ctx context.Context, err error) error {
	t.count++
	if ctx.Err() != nil {
		return ended(ctx, err)
	}
	if !MayPass(err) {
		return err
	}
	spent := time.Since(t.begun)
	wait := t.wait(err)
	if t.count >= t.policy.Attempts || spent+wait > t.policy.Budget {
		if t.count == 1 && wait <= t.policy.Budget {
			return err
		}
		return fmt.Errorf("tried %d times in %s: %w", t.count, spent.Round(time.Millisecond), err)
	}
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < wait {
		return fmt.Errorf("tried %d times, no time is left: %w", t.count, err)
	}
	if t.policy.Log != nil {
		t.policy.Log(Attempt{Op: t.op, Name: t.name, Number: t.count, Wait: wait, Err: err})
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ended(ctx, err)
	}
}

// ended says that the caller gave up, and what was the matter before.
func ended(ctx context.Context, err error) error {
	if errors.Is(err, ctx.Err()) {
		return err
	}
	return fmt.Errorf("%w; before: %v", ctx.Err(), err) // it did not end for that
}

// wait is random between half of a bound and the bound, which doubles from try
// to try. What the store asks for is the least.
func (t *tries) wait(err error) time.Duration {
	bound := t.policy.Base << min(t.count-1, 30)
	if bound <= 0 || bound > t.policy.Max {
		bound = t.policy.Max
	}
	wait := bound/2 + rand.N(bound/2+1)
	asked := new(object.WaitError)
	if errors.As(err, &asked) && asked.After > wait {
		wait = asked.After + rand.N(bound/2+1)
	}
	return wait
}
