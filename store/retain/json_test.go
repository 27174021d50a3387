package retain

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

const example = `{"last":3,"hourly":24,"daily":14,"weekly":8,"monthly":12,"yearly":-1,"within":"30d","within_hourly":"1d","within_daily":"7d","within_weekly":"28d","within_monthly":"1h30m","within_yearly":"1000d","tags":["legal-hold","env=prod"],"zone":"Europe/Berlin","floor":2}`

func TestJSON(t *testing.T) {
	var p Policy
	if err := json.Unmarshal([]byte(example), &p); err != nil {
		t.Fatal(err)
	}
	want := Policy{
		Last: 3, Hourly: 24, Daily: 14, Weekly: 8, Monthly: 12, Yearly: Unlimited,
		Within: 720 * time.Hour, WithinHourly: 24 * time.Hour, WithinDaily: 168 * time.Hour, WithinWeekly: 672 * time.Hour,
		WithinMonthly: 90 * time.Minute, WithinYearly: 24000 * time.Hour,
		Tags: []string{"legal-hold", "env=prod"}, Zone: zoneOf(t, "Europe/Berlin"), Floor: 2,
	}
	if !reflect.DeepEqual(p, want) {
		t.Errorf("got %+v", p)
	}
	if b, err := json.Marshal(p); err != nil || string(b) != example {
		t.Errorf("written again: %s, %v", b, err)
	}
	if err := json.Unmarshal([]byte(`{}`), &p); err != nil || p.Floor != DefaultFloor || !p.Empty() {
		t.Errorf("of {}: %+v, %v", p, err)
	}
	if err := json.Unmarshal([]byte(`{"floor":0,"last":1}`), &p); err != nil || p.Floor != 0 || p.Empty() {
		t.Errorf("floor 0: %+v, %v", p, err)
	}
}

func TestJSONErrorsNameTheField(t *testing.T) {
	for text, want := range map[string]string{
		`[]`:                              "must be a JSON object",
		`{"last":1}x`:                     "", // refused by encoding/json
		`{"dayly":7}`:                     `field "dayly": is not known`,
		`{"Last":7}`:                      `field "Last": is not known`,
		`{"last":7,"last":1}`:             `field "last": is there twice`,
		`{"last":-2}`:                     `field "last": must be 0 for none, -1 for all, or how many, not -2`,
		`{"daily":1.5}`:                   `field "daily": must be a whole number, not 1.5`,
		`{"daily":"7"}`:                   `field "daily": must be a whole number, not "7"`,
		`{"daily":null}`:                  `field "daily": is null`,
		`{"weekly":99999999999999999999}`: `field "weekly": must be a whole number`,
		`{"within":"5 years"}`:            `field "within": must be a duration such as "30d"`,
		`{"within":30}`:                   `field "within": must be a duration`,
		`{"within_daily":"-1h"}`:          `field "within_daily": must be a duration`,
		`{"within":"999999999d"}`:         `field "within": must be a duration`,
		`{"tags":"x"}`:                    `field "tags": must be a list of strings`,
		`{"tags":[""]}`:                   `field "tags": "" must be "key" or "key=value"`,
		`{"tags":["=x"]}`:                 `field "tags": "=x" must be`,
		`{"zone":"Berlin"}`:               `field "zone": must be a time zone such as "Europe/Berlin" or "UTC", not "Berlin"`,
		`{"zone":""}`:                     `field "zone": must be a time zone`,
		`{"zone":"Local"}`:                `field "zone": must be named`,
		`{"zone":"../../etc/passwd"}`:     `field "zone": must be a time zone`,
		`{"floor":-1}`:                    `field "floor": must be 0 or more, not -1`,
	} {
		p := Policy{Last: 77}
		err := json.Unmarshal([]byte(text), &p)
		if err == nil || !strings.Contains(err.Error(), want) || p.Last != 77 {
			t.Errorf("%s: %v", text, err)
		}
		var field *FieldError
		if strings.HasPrefix(want, "field") && !errors.As(err, &field) {
			t.Errorf("%s: %v is no FieldError", text, err)
		}
	}
}

func TestValidate(t *testing.T) {
	for field, p := range map[string]Policy{
		"yearly":        {Yearly: -2},
		"within_hourly": {WithinHourly: -1},
		"zone":          {Zone: time.Local}, // is what must be refused
		"floor":         {Floor: -1},
		"tags":          {Tags: make([]string, maxTags+1)},
	} {
		err := p.Validate()
		var wrong *FieldError
		if !errors.As(err, &wrong) || wrong.Field != field {
			t.Errorf("%s: %v", field, err)
		}
		if _, err := json.Marshal(p); err == nil {
			t.Errorf("%s is written", field)
		}
	}
}

func TestDurations(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"30d": 720 * time.Hour, "2w": 336 * time.Hour, "1w1d1h1m1s1ms": 193*time.Hour + 61*time.Second + time.Millisecond,
		"36h": 36 * time.Hour, "0": 0, "90m": 90 * time.Minute, "0d": 0,
	} {
		d, err := ParseDuration(s)
		if err != nil || d != want {
			t.Errorf("%s: %v, %v", s, d, err)
		}
		if again, err := ParseDuration(FormatDuration(d)); err != nil || again != d {
			t.Errorf("%s is written %s: %v, %v", s, FormatDuration(d), again, err)
		}
	}
	for _, s := range []string{"", "d", "1d2w", "-1d", "1.5d", "1y", "1d-1h", "1 d", "106752d", "106751d24h", "w"} {
		if d, err := ParseDuration(s); err == nil {
			t.Errorf("%q is %v", s, d)
		}
	}
}

// Whatever is accepted says the same when it is written and read again, and
// has one form.
func FuzzPolicy(f *testing.F) {
	for _, s := range []string{example, `{}`, `{"last":-1,"floor":0}`, `{"zone":"UTC","within":"2w3d"}`, `{"last":1,"last":2}`, `{"tags":["a=b=c"]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var p Policy
		if err := p.UnmarshalJSON(data); err != nil {
			return
		}
		b, err := json.Marshal(p)
		if err != nil {
			t.Fatalf("%s cannot be written: %v", data, err)
		}
		var again Policy
		if err := json.Unmarshal(b, &again); err != nil {
			t.Fatalf("%s is written %s: %v", data, b, err)
		}
		if len(p.Tags) == 0 {
			p.Tags = nil
		}
		if !reflect.DeepEqual(p, again) {
			t.Fatalf("%s is written %s: %+v, then %+v", data, b, p, again)
		}
		items := []Item{{ID: "a", Good: true}, {ID: "b", Good: true, Time: time.Unix(1e9, 0)}}
		for _, d := range Apply(p, items, time.Unix(2e9, 0)) {
			if !d.Keep && (p.Empty() || p.Floor > 1) {
				t.Fatalf("%s forgets %s", data, d.ID)
			}
		}
	})
}
