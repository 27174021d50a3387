package session

import (
	"crypto/rand"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// idForm is a time in UTC, then what NewID adds.
var idForm = regexp.MustCompile(`^\d{8}T\d{6}Z-[0-9a-z]{8}$`)

// idAlphabet is that of Crockford's base 32: in the order of ASCII, and without
// letters that are taken for digits.
const idAlphabet = "0123456789abcdefghjkmnpqrstvwxyz"

// NewID makes the id of a session that begins now: the time to the second, two
// letters for the millisecond, and 30 random bits. Ids sort by time.
func NewID(now time.Time) string {
	var random [6]byte
	_, _ = rand.Read(random[:]) // never fails, by its contract
	ms := now.Nanosecond() / int(time.Millisecond)
	id := append(now.UTC().AppendFormat(nil, "20060102T150405Z-"), idAlphabet[ms>>5], idAlphabet[ms&31])
	for _, b := range random {
		id = append(id, idAlphabet[b&31])
	}
	return string(id)
}

// ValidID tells whether id has the form of a session's id.
func ValidID(id string) bool { return idForm.MatchString(id) }

// TaskID makes the id of a session's task; numbers start with 1.
func TaskID(session string, number int) string { return fmt.Sprintf("%s.%04d", session, number) }

// HookID makes the id of the task that runs a session's hooks.
func HookID(session, hook string) string { return session + "." + hook }

// SessionOf returns the session that a task's id belongs to.
func SessionOf(task string) (string, bool) {
	s, n, ok := strings.Cut(task, ".")
	return s, ok && n != "" && ValidID(s)
}
