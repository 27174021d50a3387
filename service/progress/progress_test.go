package progress

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"jetkeep/service/api"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func near(a, b float64) bool { return math.Abs(a-b) <= 0.1*math.Abs(b) }

func TestRatesAndRemainingTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(nil)
		if s := p.Snapshot(); s != (api.Progress{}) {
			t.Errorf("at the start: %+v", s)
		}
		p.SetTotal(10_000, 1_000_000)
		work := func(seconds, perTick int) {
			for range seconds * 4 {
				p.Add(uint64(perTick), uint64(perTick)*100)
				time.Sleep(250 * time.Millisecond)
				p.Snapshot()
			}
		}
		work(10, 25) // 100 messages a second
		s := p.Snapshot()
		if !near(s.MessagesPerSec, 100) || !near(s.BytesPerSecond, 10_000) || !near(s.Remaining, 90) || s.Seconds != 10 {
			t.Errorf("steady: %+v", s)
		}
		work(10, 250) // ten times as fast: the old rate is out of the window
		if s = p.Snapshot(); !near(s.MessagesPerSec, 1000) || s.Messages != 11_000 {
			t.Errorf("faster: %+v", s)
		}
		if s.Remaining != 0 {
			t.Errorf("more than everything was done, and there is time left: %+v", s)
		}
		time.Sleep(time.Minute)
		if s = p.Snapshot(); s.BytesPerSecond > 3000 {
			t.Errorf("standing still: %+v", s)
		}
	})
}

func TestSetBackIsNoNegativeRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(nil)
		for range 40 { // until no sample is left of the time before
			p.Add(1000, 1000)
			time.Sleep(time.Second)
			p.Snapshot()
		}
		p.Set(1, 1)
		time.Sleep(time.Second)
		if s := p.Snapshot(); s.BytesPerSecond != 0 || s.MessagesPerSec != 0 || s.Messages != 1 {
			t.Errorf("after it began anew: %+v", s)
		}
	})
}

func TestReportsAreThrottledAndTheLastIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(nil)
		ctx, cancel := context.WithCancel(t.Context())
		type report struct {
			at time.Time
			p  api.Progress
		}
		var reports []report
		done := make(chan struct{})
		go func() {
			defer close(done)
			p.Run(ctx, func(s api.Progress) { reports = append(reports, report{time.Now(), s}) })
		}()
		for range 10_000 {
			p.Add(1, 10)
			time.Sleep(time.Millisecond)
		}
		synctest.Wait()
		busy := len(reports)
		if busy < 15 || busy > 20 {
			t.Errorf("%d reports in 10 s", busy)
		}
		for i := 1; i < busy; i++ {
			if d := reports[i].at.Sub(reports[i-1].at); d < Interval {
				t.Errorf("reports %s apart", d)
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(reports) - busy; n > 1 {
			t.Errorf("%d reports while nothing happened", n)
		}
		p.Add(5, 50)
		cancel()
		<-done
		if last := reports[len(reports)-1].p; last.Messages != 10_005 {
			t.Errorf("last report: %+v", last)
		}
	})
}

func TestRatesKeepNoHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(nil)
		for range 10_000 {
			p.Add(1, 1)
			time.Sleep(100 * time.Millisecond)
			p.Snapshot()
		}
		if n := len(p.samples); n > 64 {
			t.Errorf("%d samples are kept", n)
		}
	})
}
