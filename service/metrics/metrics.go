// Package metrics counts and measures what an instance does, for Prometheus.
//
// METRICS.md lists every metric with its labels and unit; a test compares it
// with what is registered. Nothing here is global: each Metrics has a registry
// of its own. The number of series is bounded: labels come from small fixed
// sets or from the configuration, except for streams and schedules, of which
// only so many get labels of their own; see Options.
package metrics

import (
	"math"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"jetkeep/service/api"
	"jetkeep/store/object/observe"
)

// Bounds of labels.
const (
	DefaultStreams = 1000
	maxSchedules   = 100
	// Other is the label of streams and schedules above the bound.
	Other = "_other"
)

// Labels that are bounded.
const (
	labelStream   = "stream"
	labelSchedule = "schedule"
)

// Results of calls.
const (
	resultOK      = "ok"
	resultFailed  = "failed"
	resultAborted = "aborted"
)

// Options of a Metrics.
type Options struct {
	Version string
	// Streams is how many pairs of target and stream get labels; 0 for
	// DefaultStreams.
	Streams int
	Now     func() time.Time
	// Names of what is configured, whose counters are there from the beginning.
	Repositories, Notifications []string
	Hooks                       []Hook
}

// A Hook is one that is configured.
type Hook struct{ Name, When string }

// Gauges are asked when metrics are collected. They must not block.
type Gauges struct {
	Running      func() float64 // tasks
	StagingUsed  func() float64 // bytes
	StagingLimit func() float64 // bytes
	Differ       func() float64 // 1 if another instance is configured otherwise
}

// Metrics is the metrics of one instance. Its methods may be called by many
// goroutines at once.
type Metrics struct {
	reg *prometheus.Registry
	now func() time.Time

	sessions      *prometheus.CounterVec
	durations     *prometheus.HistogramVec
	tasks         *prometheus.CounterVec
	again         *prometheus.CounterVec
	read          *prometheus.CounterVec
	stored        *prometheus.CounterVec
	uploaded      *prometheus.CounterVec
	queued        prometheus.Gauge
	operations    *prometheus.CounterVec
	operationTime *prometheus.HistogramVec
	storeRetries  *prometheus.CounterVec
	storeBytes    *prometheus.CounterVec
	late          *prometheus.HistogramVec
	leftOut       *prometheus.CounterVec
	pushes        *prometheus.CounterVec
	hooks         *prometheus.CounterVec
	notifications *prometheus.CounterVec
	dropped       *prometheus.CounterVec
	kept          *prometheus.GaugeVec
	refused       *prometheus.GaugeVec
	counts        counts
	points        *points

	mu        sync.Mutex
	schedules map[string]bool
}

// New makes metrics and registers them in a registry of their own.
func New(o Options) *Metrics {
	if o.Streams <= 0 {
		o.Streams = DefaultStreams
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	m := &Metrics{reg: prometheus.NewRegistry(), now: o.Now, schedules: map[string]bool{}}
	m.sessions = m.counter("jetkeep_sessions_total", "Sessions whose end this instance announced.", "kind", "result")
	m.durations = m.histogram("jetkeep_session_duration_seconds", "From the start of a session to its end.",
		prometheus.ExponentialBuckets(0.1, 4, 10), "kind", "result")
	m.tasks = m.counter("jetkeep_tasks_total", "Tasks that ended on this instance.", "kind", "result")
	m.again = m.counter("jetkeep_task_retries_total", "Attempts at tasks that ended here, beyond the first.", "kind")
	m.read = m.counter("jetkeep_read_bytes_total", "Bytes of messages that tasks read.", "kind")
	m.stored = m.counter("jetkeep_stored_bytes_total", "Bytes that restore points occupy, shared ones counted for each.", "kind")
	m.uploaded = m.counter("jetkeep_uploaded_bytes_total", "Bytes that were new to repositories.", "kind")
	m.operations = m.counter("jetkeep_store_operations_total", "Operations on stores, by objects, each with all its tries.", "repository", "operation", "result")
	m.operationTime = m.histogram("jetkeep_store_operation_duration_seconds", "Duration of operations on stores, with all tries.",
		prometheus.ExponentialBuckets(0.001, 4, 10), "repository", "operation")
	m.storeBytes = m.counter("jetkeep_store_bytes_total", "Content of objects that was sent to stores or read from them.", "repository", "operation")
	m.storeRetries = m.counter("jetkeep_store_retries_total", "Tries of operations on stores that failed and were made again.", "repository")
	m.late = m.histogram("jetkeep_schedule_lateness_seconds", "From a schedule's slot to its session.",
		[]float64{0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600}, "schedule")
	m.leftOut = m.counter("jetkeep_schedule_left_out_slots_total", "Slots that got no session.", "schedule")
	m.pushes = m.counter("jetkeep_pushes_total", "Pushes to the Pushgateway.", "result")
	m.hooks = m.counter("jetkeep_hooks_total", "Calls of hooks.", "hook", "when", "result")
	m.notifications = m.counter("jetkeep_notifications_total", "Tries to send an event on.", "notification", "result")
	m.dropped = m.counter("jetkeep_labels_dropped_total", "Observations that were counted under _other because there are too many names.", "label")
	m.queued = prometheus.NewGauge(prometheus.GaugeOpts{Name: "jetkeep_queue_tasks", Help: "Tasks in the work queue of all instances, those handed out included."})
	m.kept = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "jetkeep_restore_points", Help: "Restore points in a repository, when it was last looked into."}, []string{"repository"})
	m.refused = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "jetkeep_repository_refused", Help: "1 while this instance refuses a repository because it is not the one that was in use under its name."}, []string{"repository"})
	m.points = newPoints(o.Streams, o.Now)
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "jetkeep_build_info", Help: "Always 1; the version is a label.", ConstLabels: prometheus.Labels{"version": o.Version},
	})
	info.Set(1)
	m.reg.MustRegister(m.queued, m.kept, m.refused, m.points, info)
	m.beginAtZero(o)
	for _, r := range o.Repositories {
		m.RepositoryRefused(r, false)
	}
	return m
}

func (m *Metrics) counter(name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	m.reg.MustRegister(c)
	return c
}

func (m *Metrics) histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	m.reg.MustRegister(h)
	return h
}

// Watch registers what is asked at each collection. It may be called once.
func (m *Metrics) Watch(g Gauges) {
	for _, v := range []struct {
		name, help string
		fn         func() float64
	}{
		{"jetkeep_running_tasks", "Tasks that this instance does.", g.Running},
		{"jetkeep_instances_differ", "1 while a living instance has other targets or repositories than this one.", g.Differ},
		{"jetkeep_staging_used_bytes", "Bytes reserved in staging.", g.StagingUsed},
		{"jetkeep_staging_limit_bytes", "Bytes that staging may have.", g.StagingLimit},
	} {
		m.reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: v.name, Help: v.help}, v.fn))
	}
}

// Handler answers a scrape.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.reg, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: scrapeTimeout})
}

// A Session is one that ended.
type Session struct {
	Kind           api.Kind
	State          api.State
	Started, Ended time.Time
}

// SessionEnded counts a session. One that never started has no duration.
func (m *Metrics) SessionEnded(s Session) {
	m.sessions.WithLabelValues(string(s.Kind), string(s.State)).Inc()
	if !s.Started.IsZero() && !s.Ended.Before(s.Started) {
		m.durations.WithLabelValues(string(s.Kind), string(s.State)).Observe(s.Ended.Sub(s.Started).Seconds())
	}
}

// A Task is one that ended.
type Task struct {
	Kind                       api.Kind
	State                      api.State
	Target, Stream, Repository string
	Point                      string // id of the restore point that was made
	Attempts                   int
	Started, Ended             time.Time
	Read, Stored, Uploaded     uint64 // bytes
}

// TaskEnded counts a task, and remembers the restore point that it made.
func (m *Metrics) TaskEnded(t Task) {
	kind := string(t.Kind)
	m.tasks.WithLabelValues(kind, string(t.State)).Inc()
	if t.Attempts > 1 {
		m.again.WithLabelValues(kind).Add(float64(t.Attempts - 1))
	}
	m.read.WithLabelValues(kind).Add(float64(t.Read))
	m.stored.WithLabelValues(kind).Add(float64(t.Stored))
	m.uploaded.WithLabelValues(kind).Add(float64(t.Uploaded))
	if t.Kind == api.KindBackup && t.State == api.StateSucceeded {
		m.Point(Point{ID: t.Point, Target: t.Target, Stream: t.Stream, Repository: t.Repository, Begun: t.Started, Ended: t.Ended})
	}
}

// Store counts an operation on a repository's store.
func (m *Metrics) Store(repository string, o observe.Operation) {
	m.operations.WithLabelValues(repository, o.Op, o.Result).Add(float64(max(o.Count, 1)))
	m.operationTime.WithLabelValues(repository, o.Op).Observe(o.Took.Seconds())
	m.storeBytes.WithLabelValues(repository, o.Op).Add(float64(o.Bytes))
}

// StoreRetried counts a try that failed and is made again.
func (m *Metrics) StoreRetried(repository string) { m.storeRetries.WithLabelValues(repository).Inc() }

// HookCalled counts a call of a hook.
func (m *Metrics) HookCalled(hook, when string, err error) {
	result := resultOK
	switch {
	case api.HasCode(err, api.CodeHookAborted):
		result = resultAborted
	case err != nil:
		result = resultFailed
	}
	m.hooks.WithLabelValues(hook, when, result).Inc()
}

// Notified counts a try to send an event on.
func (m *Metrics) Notified(notification string, err error) {
	result := resultOK
	if err != nil {
		result = resultFailed
	}
	m.notifications.WithLabelValues(notification, result).Inc()
}

// RepositoryRefused says whether a repository is refused.
func (m *Metrics) RepositoryRefused(repository string, refused bool) {
	v := 0.0
	if refused {
		v = 1
	}
	m.refused.WithLabelValues(repository).Set(v)
}

// Queued sets how many tasks are in the queue.
func (m *Metrics) Queued(n uint64) { m.queued.Set(float64(n)) }

// QueueUnknown says that nobody knows: what was true long ago is not shown.
func (m *Metrics) QueueUnknown() { m.queued.Set(math.NaN()) }

// ScheduleLate tells how long after its slot a schedule's session was made.
func (m *Metrics) ScheduleLate(schedule string, d time.Duration) {
	m.late.WithLabelValues(m.schedule(schedule)).Observe(max(d, 0).Seconds())
}

// SlotsLeftOut counts slots of a schedule, at least one, that get no session.
func (m *Metrics) SlotsLeftOut(schedule string, slots int) {
	m.leftOut.WithLabelValues(m.schedule(schedule)).Add(float64(slots))
}

// ScheduleKnown lets the counters of a schedule begin.
func (m *Metrics) ScheduleKnown(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.schedules[name] && len(m.schedules) < maxSchedules {
		m.schedules[name] = true
		m.leftOut.WithLabelValues(name)
	}
}

// schedule returns the label of a schedule.
func (m *Metrics) schedule(name string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.schedules[name] {
		return name
	}
	if len(m.schedules) == maxSchedules {
		m.dropped.WithLabelValues(labelSchedule).Inc()
		return Other
	}
	m.schedules[name] = true
	m.leftOut.WithLabelValues(name)
	return name
}
