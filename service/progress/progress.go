// Package progress counts what a task has done and tells, at most every so
// often, how far it is, how fast it goes and how long it will take.
//
// The counters are atomic and cheap enough to be called for every message. The
// rate is that of the last Window, so that it follows a change within seconds
// and does not jump with every burst; the remaining time is left out until
// there is a rate and a total, and is an estimate always. Reports come from
// Run only: never two at once, never closer than Interval except for the last
// one, which Run gives when it ends, so that a report of the end is never lost.
package progress

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"jetkeep/service/api"
)

const (
	// Interval is the time between two reports: at most two a second.
	Interval = 500 * time.Millisecond
	// Window is the time that rates are smoothed over.
	Window = 8 * time.Second
)

// A Tracker counts for one task.
type Tracker struct {
	messages, bytes           atomic.Uint64
	totalMessages, totalBytes atomic.Uint64
	totalKnown                atomic.Bool
	stored, uploaded          atomic.Uint64

	now   func() time.Time
	start time.Time

	mu      sync.Mutex
	samples []sample
}

type sample struct {
	at              time.Time
	messages, bytes uint64
}

// New starts a tracker; now is the clock, time.Now if nil.
func New(now func() time.Time) *Tracker {
	if now == nil {
		now = time.Now
	}
	t := &Tracker{now: now, start: now()}
	t.samples = []sample{{at: t.start}}
	return t
}

// SetTotal tells how much there is to do.
func (t *Tracker) SetTotal(messages, bytes uint64) {
	t.totalMessages.Store(messages)
	t.totalBytes.Store(bytes)
	t.totalKnown.Store(true)
}

// Add tells that so many more messages and bytes are done.
func (t *Tracker) Add(messages, bytes uint64) {
	t.messages.Add(messages)
	t.bytes.Add(bytes)
}

// Set tells how many messages and bytes are done altogether.
func (t *Tracker) Set(messages, bytes uint64) {
	t.messages.Store(messages)
	t.bytes.Store(bytes)
}

// SetStored tells how many compressed bytes there are, and how many of them
// have reached the repository.
func (t *Tracker) SetStored(stored, uploaded uint64) {
	t.stored.Store(stored)
	t.uploaded.Store(uploaded)
}

// Snapshot returns the present state.
func (t *Tracker) Snapshot() api.Progress {
	now := t.now()
	p := api.Progress{
		Messages:      t.messages.Load(),
		Bytes:         t.bytes.Load(),
		TotalMessages: t.totalMessages.Load(),
		TotalBytes:    t.totalBytes.Load(),
		TotalKnown:    t.totalKnown.Load(),
		StoredBytes:   t.stored.Load(),
		UploadedBytes: t.uploaded.Load(),
		Seconds:       now.Sub(t.start).Seconds(),
	}
	p.MessagesPerSec, p.BytesPerSecond = t.rates(now, p.Messages, p.Bytes)
	p.Remaining = remaining(p)
	return p
}

// rates takes a sample and returns the rates since the oldest one that is
// within the window.
func (t *Tracker) rates(now time.Time, messages, bytes uint64) (perMessage, perByte float64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if last := t.samples[len(t.samples)-1]; now.Sub(last.at) >= Interval/2 {
		t.samples = append(t.samples, sample{now, messages, bytes})
	}
	// Keep one sample at or before the window's start.
	for len(t.samples) > 2 && now.Sub(t.samples[1].at) >= Window {
		t.samples = t.samples[1:]
	}
	oldest := t.samples[0]
	seconds := now.Sub(oldest.at).Seconds()
	// Set may go back when a capture starts anew; that is no negative rate.
	if seconds <= 0 || messages < oldest.messages || bytes < oldest.bytes {
		return 0, 0
	}
	return float64(messages-oldest.messages) / seconds, float64(bytes-oldest.bytes) / seconds
}

func remaining(p api.Progress) float64 {
	if p.TotalBytes > p.Bytes && p.BytesPerSecond > 0 {
		return float64(p.TotalBytes-p.Bytes) / p.BytesPerSecond
	}
	if p.TotalBytes == 0 && p.TotalMessages > p.Messages && p.MessagesPerSec > 0 {
		return float64(p.TotalMessages-p.Messages) / p.MessagesPerSec
	}
	return 0
}

// Run reports every Interval in which something changed until ctx is done, and
// once more then.
func (t *Tracker) Run(ctx context.Context, report func(api.Progress)) {
	tick := time.NewTicker(Interval)
	defer tick.Stop()
	var before api.Progress
	for {
		select {
		case <-ctx.Done():
			report(t.Snapshot())
			return
		case <-tick.C:
		}
		p := t.Snapshot()
		if same(p, before) {
			continue
		}
		before = p
		report(p)
	}
}

// same tells whether nothing was counted between two snapshots.
func same(a, b api.Progress) bool {
	return a.Messages == b.Messages && a.Bytes == b.Bytes &&
		a.TotalMessages == b.TotalMessages && a.TotalBytes == b.TotalBytes && a.TotalKnown == b.TotalKnown &&
		a.StoredBytes == b.StoredBytes && a.UploadedBytes == b.UploadedBytes
}
