package metrics

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// points remembers the newest restore point that this instance made of each
// stream. It collects by itself, so that ages are those of the moment.
type points struct {
	max       int
	now       func() time.Time
	succeeded *prometheus.Desc
	age       *prometheus.Desc

	mu  sync.Mutex
	all map[stream]point
}

type stream struct{ target, stream, repository string }

type point struct{ begun, ended time.Time }

func newPoints(limit int, now func() time.Time) *points {
	labels := []string{"target", "stream", "repository"}
	return &points{
		max: limit, now: now, all: map[stream]point{},
		succeeded: prometheus.NewDesc("jetkeep_last_success_timestamp_seconds",
			"When the last backup of a stream that this instance did succeeded.", labels, nil),
		age: prometheus.NewDesc("jetkeep_restore_point_age_seconds",
			"Time since the newest restore point that this instance made of a stream was begun.", labels, nil),
	}
}

// note remembers a task, and returns false if it got no labels of its own. What
// is above the bound shares one series, of the newest.
func (p *points) note(t Task) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := stream{t.Target, t.Stream, t.Repository}
	_, known := p.all[key]
	own := known || len(p.all) < p.max
	if !own {
		key = stream{Other, Other, Other}
	}
	if t.Ended.After(p.all[key].ended) {
		p.all[key] = point{t.Started, t.Ended}
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
