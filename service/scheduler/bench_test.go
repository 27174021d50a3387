package scheduler_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"jetkeep/service/api"
	"jetkeep/service/natstest"
	"jetkeep/service/scheduler"
)

// instant are sessions that succeed at once.
type instant struct{}

func (instant) Start(context.Context, string, *scheduler.Definition, api.ScheduleRun) error {
	return nil
}
func (instant) Fail(context.Context, string, *scheduler.Definition, api.ScheduleRun, error) error {
	return nil
}
func (instant) View(context.Context, string) (*scheduler.View, error) {
	return &scheduler.View{State: api.StateSucceeded}, nil
}
func (instant) Cancel(context.Context, string, string) error { return nil }
func (instant) Forget(context.Context, []string) error       { return nil }
func (instant) Watch(ctx context.Context, _ func(string)) error {
	<-ctx.Done()
	return nil
}

// BenchmarkSchedules runs 2,000 schedules in KV of a real server: once spread
// over a minute, and once all due in the same second.
func BenchmarkSchedules(b *testing.B) {
	const count = 2000
	for name, jitter := range map[string]string{"spread": "55s", "at once": ""} {
		b.Run(name, func(b *testing.B) {
			js, err := jetstream.New(natstest.Start(b).Connect())
			if err != nil {
				b.Fatal(err)
			}
			store, err := scheduler.Open(b.Context(), js, 1, 0)
			if err != nil {
				b.Fatal(err)
			}
			for i := range count {
				if _, err := store.Put(b.Context(), &api.Schedule{Name: fmt.Sprintf("s%04d", i), Cron: "* * * * *", Jitter: jitter}, time.Now()); err != nil {
					b.Fatal(err)
				}
			}
			var mu sync.Mutex
			var late []time.Duration
			s := scheduler.New(store, instant{}, scheduler.Options{Log: slog.New(slog.DiscardHandler), Late: func(_ string, d time.Duration) {
				mu.Lock()
				defer mu.Unlock()
				late = append(late, d)
			}})
			ctx, cancel := context.WithCancel(b.Context())
			var before, after syscall.Rusage
			_ = syscall.Getrusage(syscall.RUSAGE_SELF, &before)
			begun := time.Now()
			done := make(chan struct{})
			go func() {
				defer close(done)
				s.Run(ctx)
			}()
			for enough := false; !enough && time.Since(begun) < 3*time.Minute; time.Sleep(100 * time.Millisecond) {
				mu.Lock()
				enough = len(late) >= count
				mu.Unlock()
			}
			cancel()
			<-done
			_ = syscall.Getrusage(syscall.RUSAGE_SELF, &after)
			if len(late) < count {
				b.Fatalf("only %d were started", len(late))
			}
			slices.Sort(late)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(late[len(late)/2].Seconds()*1000, "p50-ms")
			b.ReportMetric(late[len(late)*99/100].Seconds()*1000, "p99-ms")
			b.ReportMetric((seconds(after.Utime)+seconds(after.Stime)-seconds(before.Utime)-seconds(before.Stime))/time.Since(begun).Seconds()*100, "%CPU")
			b.ReportMetric(float64(after.Maxrss)/1024, "peak-RSS-MiB")
		})
	}
}

func seconds(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
