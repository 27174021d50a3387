package session

import (
	"crypto/rand"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// idForm is a time to the second in UTC, then 40 random bits.
var idForm = regexp.MustCompile(`^\d{8}T\d{6}Z-[a-z2-7]{8}$`)

// NewID makes the id of a session that begins now. Ids sort by time.
func NewID(now time.Time) string {
	return now.UTC().Format("20060102T150405Z") + "-" + strings.ToLower(rand.Text()[:8])
}

// ValidID tells whether id has the form of a session's id.
func ValidID(id string) bool { return idForm.MatchString(id) }

// TaskID makes the id of a session's task; numbers start with 1.
func TaskID(session string, number int) string { return fmt.Sprintf("%s.%04d", session, number) }

// SessionOf returns the session that a task's id belongs to.
func SessionOf(task string) (string, bool) {
	s, n, ok := strings.Cut(task, ".")
	return s, ok && n != "" && ValidID(s)
}
