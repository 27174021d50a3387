package retain

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // a policy names its zone, also on a machine that has none
)

// DefaultFloor is the floor of a policy in JSON that gives none.
const DefaultFloor = 1

const (
	maxTags = 64
	maxTag  = 256
)

// A FieldError says which field of a policy is wrong, and how.
type FieldError struct {
	Field   string
	Problem string
}

func (e *FieldError) Error() string { return fmt.Sprintf("field %q: %s", e.Field, e.Problem) }

func wrong(field, format string, args ...any) error {
	return &FieldError{Field: field, Problem: fmt.Sprintf(format, args...)}
}

// A binding ties a field of the JSON form to one of a Policy: exactly one of
// the pointers is set.
type binding struct {
	name   string
	count  *int
	within *time.Duration
	tags   *[]string
	zone   **time.Location
}

func (p *Policy) bindings() []binding {
	return []binding{
		{name: "last", count: &p.Last},
		{name: "hourly", count: &p.Hourly}, {name: "daily", count: &p.Daily}, {name: "weekly", count: &p.Weekly},
		{name: "monthly", count: &p.Monthly}, {name: "yearly", count: &p.Yearly},
		{name: "within", within: &p.Within},
		{name: "within_hourly", within: &p.WithinHourly}, {name: "within_daily", within: &p.WithinDaily},
		{name: "within_weekly", within: &p.WithinWeekly}, {name: "within_monthly", within: &p.WithinMonthly},
		{name: "within_yearly", within: &p.WithinYearly},
		{name: "tags", tags: &p.Tags},
		{name: "zone", zone: &p.Zone},
		{name: "floor", count: &p.Floor},
	}
}

// Validate says what is wrong with a policy, as a *FieldError.
func (p *Policy) Validate() error {
	for _, b := range p.bindings() {
		switch {
		case b.name == "floor" && *b.count < 0:
			return wrong(b.name, "must be 0 or more, not %d", *b.count)
		case b.count != nil && *b.count < Unlimited:
			return wrong(b.name, "must be 0 for none, -1 for all, or how many, not %d", *b.count)
		case b.within != nil && *b.within < 0:
			return wrong(b.name, "must not be negative")
		case b.zone != nil && *b.zone == time.Local:
			return wrong(b.name, "must be named, for another machine has another local time")
		}
	}
	if len(p.Tags) > maxTags {
		return wrong("tags", "%d tags, at most %d", len(p.Tags), maxTags)
	}
	for _, tag := range p.Tags {
		if key, _, _ := strings.Cut(tag, "="); key == "" || len(tag) > maxTag {
			return wrong("tags", "%.40q must be \"key\" or \"key=value\" of at most %d bytes", tag, maxTag)
		}
	}
	return nil
}

// UnmarshalJSON reads a policy such as
//
//	{"last": 3, "daily": 14, "yearly": -1, "within": "36h", "tags": ["legal-hold"], "zone": "Europe/Berlin", "floor": 2}
//
// Fields are named as in Go, in lower case with underscores. Unknown and
// repeated ones are refused. The floor is DefaultFloor if it is not given.
func (p *Policy) UnmarshalJSON(data []byte) error {
	values, err := fieldsOf(data)
	if err != nil {
		return fmt.Errorf("retention policy: %w", err)
	}
	out := Policy{Floor: DefaultFloor}
	for _, b := range out.bindings() {
		if value, ok := values[b.name]; ok {
			if err := b.read(value); err != nil {
				return fmt.Errorf("retention policy: %w", err)
			}
			delete(values, b.name)
		}
	}
	for name := range values {
		return fmt.Errorf("retention policy: %w", wrong(name, "is not known"))
	}
	if err := out.Validate(); err != nil {
		return fmt.Errorf("retention policy: %w", err)
	}
	*p = out
	return nil
}

// MarshalJSON writes what UnmarshalJSON reads; what is not set is left out.
func (p Policy) MarshalJSON() ([]byte, error) {
	if err := p.Validate(); err != nil {
		return nil, fmt.Errorf("retention policy: %w", err)
	}
	var b bytes.Buffer
	b.WriteByte('{')
	for _, f := range p.bindings() {
		value := f.value()
		if value == nil {
			continue
		}
		text, err := json.Marshal(value)
		if err != nil {
			return nil, fmt.Errorf("retention policy: field %q: %w", f.name, err)
		}
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%q:%s", f.name, text)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// value returns what to write, nil for nothing.
func (b *binding) value() any {
	switch {
	case b.name == "floor":
		return *b.count
	case b.count != nil && *b.count != 0:
		return *b.count
	case b.within != nil && *b.within != 0:
		return FormatDuration(*b.within)
	case b.tags != nil && len(*b.tags) > 0:
		return *b.tags
	case b.zone != nil && *b.zone != nil:
		return (*b.zone).String()
	}
	return nil
}

func (b *binding) read(value json.RawMessage) error {
	if bytes.Equal(value, []byte("null")) {
		return wrong(b.name, "is null")
	}
	switch {
	case b.count != nil:
		if err := json.Unmarshal(value, b.count); err != nil {
			return wrong(b.name, "must be a whole number, not %.40s", value)
		}
	case b.within != nil:
		var s string
		err := json.Unmarshal(value, &s)
		if err == nil {
			*b.within, err = ParseDuration(s)
		}
		if err != nil {
			return wrong(b.name, "must be a duration such as \"30d\", \"2w\" or \"36h\", not %.40s", value)
		}
	case b.tags != nil:
		if err := json.Unmarshal(value, b.tags); err != nil {
			return wrong(b.name, "must be a list of strings, not %.40s", value)
		}
	default:
		var s string
		if err := json.Unmarshal(value, &s); err != nil {
			return wrong(b.name, "must be a string, not %.40s", value)
		}
		zone, err := time.LoadLocation(s)
		if err != nil || s == "" {
			return wrong(b.name, "must be a time zone such as \"Europe/Berlin\" or \"UTC\", not %.40q", s)
		}
		*b.zone = zone
	}
	return nil
}

// fieldsOf reads an object and refuses a name that comes twice, of which
// encoding/json would silently take the last.
func fieldsOf(data []byte) (map[string]json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("must be a JSON object")
	}
	values := map[string]json.RawMessage{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("read: %w", err)
		}
		name, _ := t.(string)
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, wrong(name, "%s", err.Error())
		}
		if _, twice := values[name]; twice {
			return nil, wrong(name, "is there twice")
		}
		values[name] = value
	}
	if _, err := d.Token(); err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the object")
	}
	return values, nil
}

const (
	hoursOfDay  = 24 * time.Hour
	hoursOfWeek = 7 * hoursOfDay
)

// ParseDuration reads a duration as time.ParseDuration does, with whole weeks
// (w) and days (d, of 24 hours) before it: "2w", "30d", "1d12h".
func ParseDuration(s string) (time.Duration, error) {
	rest, total := s, time.Duration(0)
	for _, unit := range []struct {
		name string
		long time.Duration
	}{{"w", hoursOfWeek}, {"d", hoursOfDay}} {
		number, after, ok := strings.Cut(rest, unit.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(number, 10, 32)
		if err != nil || time.Duration(n) > (math.MaxInt64-total)/unit.long {
			return 0, fmt.Errorf("duration %.40q: %q is no number of %s", s, number, unit.name)
		}
		total, rest = total+time.Duration(n)*unit.long, after
	}
	if rest == "" && rest != s {
		return total, nil
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d < 0 || d > math.MaxInt64-total {
		return 0, fmt.Errorf("duration %.40q is not understood", s)
	}
	return total + d, nil
}

// FormatDuration writes what ParseDuration reads, as briefly as it can.
func FormatDuration(d time.Duration) string {
	switch {
	case d < 0:
		return d.String()
	case d > 0 && d%hoursOfDay == 0:
		return fmt.Sprintf("%dd", d/hoursOfDay)
	}
	s := ""
	if days := d / hoursOfDay; days > 1 {
		s, d = fmt.Sprintf("%dd", days), d%hoursOfDay
	}
	rest := d.String()
	if strings.HasSuffix(rest, "m0s") {
		rest = strings.TrimSuffix(rest, "0s")
	}
	if strings.HasSuffix(rest, "h0m") {
		rest = strings.TrimSuffix(rest, "0m")
	}
	return s + rest
}
