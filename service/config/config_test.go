package config

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"jetkeep/service/api"
	"jetkeep/service/natsconn"
)

func valid() Config {
	c := Config{
		Repositories: []Repository{{Name: "local", Path: "/r"}},
		Staging:      Staging{Dir: "/s"},
	}
	c.SetDefaults()
	return c
}

func TestDefaultsAreValid(t *testing.T) {
	c := valid()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	if c.Targets[0].Name != DefaultName || c.Lease != DefaultLease || c.Repositories[0].Kind != KindLocal || c.Instance == "" {
		t.Errorf("defaults: %+v", c)
	}
}

func TestValidateNamesTheField(t *testing.T) {
	for field, spoil := range map[string]func(*Config){
		"instance":             func(c *Config) { c.Instance = "a b" },
		"prefix":               func(c *Config) { c.Prefix = "a.*" },
		"control":              func(c *Config) { c.Control.Password = "x" },
		"targets":              func(c *Config) { c.Targets = nil },
		"targets[1].name":      func(c *Config) { c.Targets = append(c.Targets, c.Targets[0]) },
		"targets[0]":           func(c *Config) { c.Targets[0].Options = natsconn.Options{Creds: "a", Token: "b"} },
		"repositories":         func(c *Config) { c.Repositories = nil },
		"repositories[0].name": func(c *Config) { c.Repositories[0].Name = "a.b" },
		"repositories[0].kind": func(c *Config) { c.Repositories[0].Kind = "tape" },
		"repositories[0].path": func(c *Config) { c.Repositories[0].Path = "" },
		"repositories[1].path": func(c *Config) {
			c.Repositories = append(c.Repositories, Repository{Name: "b", Kind: KindLocal, Path: "/r/"})
		},
		"repositories[0].recipient": func(c *Config) { c.Repositories[0].Recipient = "age1nonsense" },
		"repositories[0].operator_recipients[0]": func(c *Config) {
			c.Repositories[0].OperatorRecipients = []string{"AGE-SECRET-KEY-1NOTHING"}
		},
		"repositories[0].identity": func(c *Config) { c.Repositories[0].Identity = "not a secret key" },
		"repositories[0].identity_file": func(c *Config) {
			c.Repositories[0].Identity, c.Repositories[0].IdentityFile = "AGE-SECRET-KEY-1", "/k"
		},
		"repositories[0].trusted_keys": func(c *Config) { c.Repositories[0].TrustedKeys = []string{"UA"} },
		"repositories[0].keep":         func(c *Config) { c.Repositories[0].Keep = &api.Keep{Within: "soon"} },
		"staging.dir":                  func(c *Config) { c.Staging.Dir = "" },
		"drill.dir":                    func(c *Config) { c.Drill.Dir = "/r" },
		"staging.limit":                func(c *Config) { c.Staging.Limit = 1 },
		"concurrency":                  func(c *Config) { c.Concurrency = -1 },
		"replicas":                     func(c *Config) { c.Replicas = 9 },
		"lease":                        func(c *Config) { c.Lease = time.Millisecond },
		"max_attempts":                 func(c *Config) { c.MaxAttempts = -1 },
		"metrics.listen":               func(c *Config) { c.Metrics.Listen = "host" },
		"metrics.push_url":             func(c *Config) { c.Metrics.PushURL = "http://user:hidden@gateway:9091" },
		"metrics.streams":              func(c *Config) { c.Metrics.Streams = -1 },
		"session_age":                  func(c *Config) { c.SessionAge = time.Minute },
		"sweep":                        func(c *Config) { c.Sweep = time.Hour },
	} {
		c := valid()
		spoil(&c)
		if err := c.Validate(); err == nil || !strings.HasPrefix(err.Error(), field+":") {
			t.Errorf("%s: %v", field, err)
		} else if strings.Contains(err.Error(), "secret key") && strings.Contains(err.Error(), "NOTHING") {
			t.Errorf("%s shows a secret: %v", field, err)
		}
	}
}

// TestPlaces: what is ours is in no repository, but may be beside one, or around it.
func TestPlaces(t *testing.T) {
	for dir, ok := range map[string]bool{"/r": false, "/r/staging": false, "/r/../r/x": false, "/": true, "/rs": true, "/q/r": true, "/r/../s": true} {
		c := valid()
		c.Staging.Dir = dir
		if err := c.Validate(); (err == nil) != ok {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

// TestPolicyOf: a request's policy has the fields of the policy itself.
func TestPolicyOf(t *testing.T) {
	floor := 2
	full := api.Keep{
		Last: 1, Hourly: 2, Daily: 3, Weekly: 4, Monthly: 5, Yearly: -1, Within: "1d", WithinHourly: "1d", WithinDaily: "2d",
		WithinWeekly: "15d", WithinMonthly: "60d", WithinYearly: "1000d", Tags: []string{"a", "b=c"}, Zone: "Europe/Berlin", Floor: &floor,
	}
	v := reflect.ValueOf(full)
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			t.Errorf("field %s is not tested", v.Type().Field(i).Name)
		}
	}
	p, err := PolicyOf(full)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var back api.Keep
	if err := json.Unmarshal(b, &back); err != nil || !reflect.DeepEqual(back, full) {
		t.Errorf("%+v, of %+v: %v", back, full, err)
	}
	if p, err := PolicyOf(api.Keep{Last: 1}); err != nil || p.Floor != 1 {
		t.Errorf("policy without a floor: %+v %v", p, err)
	}
	if _, err := PolicyOf(api.Keep{Zone: "Mars/Base"}); err == nil {
		t.Error("a zone that does not exist")
	}
}
