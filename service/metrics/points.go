package metrics

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A Point is a restore point that exists.
type Point struct {
	ID                         string
	Target, Stream, Repository string
	// Begun is the moment that it shows, Ended when it was complete, or as near
	// to it as is known.
	Begun, Ended time.Time
}

// Point remembers a restore point that was made, and that it is the newest one of its
// stream if it is. It may be told of several times.
func (m *Metrics) Point(p Point) {
	if n, known := m.counts.made(p); known {
		m.kept.WithLabelValues(p.Repository).Set(float64(n))
	}
	if !m.points.note(p) {
		m.dropped.WithLabelValues(labelStream).Inc()
	}
}

// Surveyed takes all restore points that a repository had at a moment. Streams
// that have none any more are forgotten.
func (m *Metrics) Surveyed(repository string, at time.Time, all []Point) {
	m.kept.WithLabelValues(repository).Set(float64(m.counts.surveyed(repository, at, all)))
	m.points.forget(repository, at, all)
	for _, p := range all {
		m.points.note(p)
	}
}

// points remembers the newest restore point of each stream. It collects by itself, so that ages are those of the moment.
type points struct {
	max       int
	now       func() time.Time
	succeeded *prometheus.Desc
	age       *prometheus.Desc

	mu  sync.Mutex
	all map[stream]point
}

type stream struct{ target, stream, repository string }

type point struct {
	begun, ended time.Time
	repository   string // which that of the labels is not, for what is above the bound
}

func newPoints(limit int, now func() time.Time) *points {
	labels := []string{"target", "stream", "repository"}
	return &points{
		max: limit, now: now, all: map[stream]point{},
		succeeded: prometheus.NewDesc("jetkeep_last_success_timestamp_seconds",
			"When the newest restore point of a stream was complete.", labels, nil),
		age: prometheus.NewDesc("jetkeep_restore_point_age_seconds",
			"Time since the newest restore point of a stream was begun.", labels, nil),
	}
}

// forget forgets the streams of a repository of which nothing is left that was
// there before a moment. What has no labels of its own is forgotten in any case:
// what is left of it is noted again.
func (p *points) forget(repository string, at time.Time, all []Point) {
	left := map[stream]bool{}
	for _, x := range all {
		left[stream{x.Target, x.Stream, x.Repository}] = true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, v := range p.all {
		if v.repository == repository && !left[k] && v.ended.Before(at) {
			delete(p.all, k)
		}
	}
}

// note remembers a restore point, and returns false if it got no labels of its
// own. What is above the bound shares one series, of the newest.
func (p *points) note(t Point) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := stream{t.Target, t.Stream, t.Repository}
	_, known := p.all[key]
	own := known || len(p.all) < p.max
	if !own {
		key = stream{Other, Other, Other}
	}
	if t.Ended.After(p.all[key].ended) {
		p.all[key] = point{t.Begun, t.Ended, t.Repository}
	}
	return own
}

// Describe implements prometheus.Collector.
func (p *points) Describe(c chan<- *prometheus.Desc) {
	c <- p.succeeded
	c <- p.age
}

// Collect implements prometheus.Collector.
func (p *points) Collect(c chan<- prometheus.Metric) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	for k, v := range p.all {
		c <- prometheus.MustNewConstMetric(p.succeeded, prometheus.GaugeValue, float64(v.ended.UnixMilli())/1000, k.target, k.stream, k.repository)
		c <- prometheus.MustNewConstMetric(p.age, prometheus.GaugeValue, max(now.Sub(v.begun), 0).Seconds(), k.target, k.stream, k.repository)
	}
}
