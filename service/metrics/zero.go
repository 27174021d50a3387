package metrics

import (
	"jetkeep/service/api"
	"jetkeep/store/object/observe"
)

// beginAtZero makes the series of every counter whose labels are known. Prometheus
// takes the first value that it sees of a series for its beginning: one that came
// with its first failure would show no increase, and no alert would be raised by it.
func (m *Metrics) beginAtZero(o Options) {
	for _, kind := range api.Kinds() {
		k := string(kind)
		for _, state := range api.States() {
			if !state.Final() {
				continue
			}
			m.sessions.WithLabelValues(k, string(state))
			if state != api.StatePartial && state != api.StateSkipped { // which are of sessions only
				m.tasks.WithLabelValues(k, string(state))
			}
		}
		m.again.WithLabelValues(k)
		m.read.WithLabelValues(k)
		m.stored.WithLabelValues(k)
		m.uploaded.WithLabelValues(k)
	}
	for _, result := range []string{resultOK, resultFailed} {
		m.pushes.WithLabelValues(result)
		for _, name := range o.Notifications {
			m.notifications.WithLabelValues(name, result)
		}
		for _, h := range o.Hooks {
			m.hooks.WithLabelValues(h.Name, h.When, result)
		}
	}
	for _, h := range o.Hooks {
		if h.When == api.HookBefore {
			m.hooks.WithLabelValues(h.Name, h.When, resultAborted)
		}
	}
	for _, name := range o.Repositories {
		for _, op := range observe.Operations() {
			for _, result := range observe.Results() {
				m.operations.WithLabelValues(name, op, result)
			}
			m.storeBytes.WithLabelValues(name, op)
		}
		m.storeRetries.WithLabelValues(name)
	}
	m.dropped.WithLabelValues(labelStream)
	m.dropped.WithLabelValues(labelSchedule)
}
