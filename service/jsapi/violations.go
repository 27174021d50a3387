package jsapi

import (
	"errors"
	"regexp"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
)

// Operations a server can refuse.
const (
	OpPublish   = "publish"
	OpSubscribe = "subscribe"
)

// Violations collects the permissions that a server refused on one connection.
// A server answers a refused publish with an error that has no relation to the
// request, and then nothing: without this a caller would wait for its deadline
// and learn nothing. Give Record to the connection as its error handler.
type Violations struct {
	mu      sync.Mutex
	refused map[PermissionError]struct{}
	waiters map[*waiter]struct{}
}

type waiter struct {
	match func(*PermissionError) bool
	tell  func(*PermissionError)
}

// maxRefused bounds what is remembered of a connection; a client that is
// refused more different subjects has all it needs to know.
const maxRefused = 256

// The name in the message is cut off by a quote; a subject holds none.
var violation = regexp.MustCompile(`(?i)permissions violation for (publish|subscription) to "([^"]+)"`)

// ParseViolation returns the refused operation if err is a permission error of
// the connection.
func ParseViolation(err error) (*PermissionError, bool) {
	if err == nil || !errors.Is(err, nats.ErrPermissionViolation) {
		return nil, false
	}
	m := violation.FindStringSubmatch(err.Error())
	if m == nil {
		return nil, false
	}
	op := OpPublish
	if strings.EqualFold(m[1], "subscription") {
		op = OpSubscribe
	}
	return &PermissionError{Op: op, Subject: m[2]}, true
}

// Record takes an asynchronous error of the connection; errors that are no
// permission violations are ignored.
func (v *Violations) Record(err error) {
	p, ok := ParseViolation(err)
	if !ok {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.refused == nil {
		v.refused = map[PermissionError]struct{}{}
	}
	if len(v.refused) < maxRefused {
		v.refused[*p] = struct{}{}
	}
	for w := range v.waiters {
		if w.match(p) {
			w.tell(p)
		}
	}
}

// Refused returns a refused operation that match accepts, of those recorded
// since the connection began.
func (v *Violations) Refused(match func(*PermissionError) bool) *PermissionError {
	v.mu.Lock()
	defer v.mu.Unlock()
	for p := range v.refused {
		if match(&p) {
			return &p
		}
	}
	return nil
}

// Watch calls tell for each refusal from now on that match accepts, until stop
// is called. Both functions run under a lock and must not block.
func (v *Violations) Watch(match func(*PermissionError) bool, tell func(*PermissionError)) (stop func()) {
	w := &waiter{match: match, tell: tell}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.waiters == nil {
		v.waiters = map[*waiter]struct{}{}
	}
	v.waiters[w] = struct{}{}
	return func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.waiters, w)
	}
}
