package service

import (
	"fmt"
	"sync/atomic"
	"time"
)

// How long a loop may not have come around, before it is taken for stuck: what
// it waits for within has deadlines, also while NATS is away.
const (
	vitalsAge    = 30 * time.Second
	schedulerAge = 5 * time.Minute
	sweepAge     = 3 * time.Minute // and the time between two sweeps
	beatAge      = time.Minute
	slotAge      = 3 * time.Minute // each question to KV is asked again for 15 s
)

// A loop is one of those that the service consists of.
type loop struct {
	name string
	most time.Duration
	// ticked is when it last came around, in nanoseconds since the beginning on
	// the monotonic clock.
	ticked atomic.Int64
}

// vitals is what was seen last.
type vitals struct {
	begun     time.Time
	reachable atomic.Int64 // when KV and queue answered, as ticked; 0 for never

	look, scheduler, pruner, sweep, beat loop
	slots                                time.Duration // how long one may look for a task
}

func (v *vitals) begin(sweep time.Duration) {
	v.begun = time.Now()
	v.look.name, v.look.most = "look at the state in NATS", vitalsAge
	v.scheduler.name, v.scheduler.most = "scheduler", schedulerAge
	v.pruner.name, v.pruner.most = "prunes of repositories", schedulerAge
	v.sweep.name, v.sweep.most = "sweep of sessions", sweepAge+sweep
	v.slots = slotAge
	v.beat.name, v.beat.most = "heartbeat", beatAge
}

func (v *vitals) loops() []*loop { return []*loop{&v.look, &v.scheduler, &v.pruner, &v.sweep, &v.beat} }

// tick says that a loop comes around.
func (v *vitals) tick(l *loop) { l.ticked.Store(int64(time.Since(v.begun))) }

func (v *vitals) since(at *atomic.Int64) time.Duration {
	return time.Since(v.begun) - time.Duration(at.Load())
}

// stuck names a loop that did not come around for too long.
func (v *vitals) stuck() error {
	for _, l := range v.loops() {
		if d := v.since(&l.ticked); d > l.most {
			return fmt.Errorf("the service stands still: the loop \"%s\" did not come around for %s", l.name, d.Round(time.Second))
		}
	}
	return nil
}
