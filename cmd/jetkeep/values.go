package main

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/choria-io/fisk"
)

// wholeNumber is the value of a flag. fisk's own takes 2.5 for 2.
type wholeNumber struct {
	flag string
	to   *int
}

// whole gives a flag a whole number.
func whole(clause *fisk.FlagClause, to *int) {
	clause.SetValue(&wholeNumber{clause.Model().Name, to})
}

// Set implements fisk.Value.
func (w *wholeNumber) Set(text string) error {
	n, err := strconv.Atoi(text)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return fmt.Errorf("--%s: %s is too large", w.flag, text)
	case err != nil:
		return fmt.Errorf("--%s: %q is no whole number", w.flag, text)
	}
	*w.to = n
	return nil
}

// String implements fisk.Value.
func (w *wholeNumber) String() string { return strconv.Itoa(*w.to) }

// momentLayout is how times are printed for people, in UTC as ids are.
const momentLayout = "2006-01-02 15:04:05Z"

// moment is a time for people.
func moment(t time.Time) string { return t.UTC().Format(momentLayout) }

// timeOf reads the time of a flag, nil if it was not given: one of RFC 3339, or as the
// command prints times.
func timeOf(flag, text string) (*time.Time, error) {
	t, _, err := parseTime(flag, text)
	return t, err
}

// atOf is timeOf for "at or before". What was printed without fractions of its second
// means all of the second, so that it includes what it was printed for.
func atOf(flag, text string) (*time.Time, error) {
	t, cut, err := parseTime(flag, text)
	if cut {
		end := t.Add(time.Second - 1)
		t = &end
	}
	return t, err
}

// parseTime reads a time, and tells whether its fractions of a second may have been cut
// off.
func parseTime(flag, text string) (at *time.Time, cut bool, err error) {
	if text == "" {
		return nil, false, nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return &t, false, nil
	}
	if t, err := time.Parse(momentLayout, text); err == nil {
		return &t, true, nil
	}
	return nil, false, usagef("%s: %q is no time: give one of RFC 3339, such as 2026-11-22T12:00:00Z, or one in UTC as jetkeep prints it, such as \"2026-11-22 12:00:00Z\"", flag, text)
}
