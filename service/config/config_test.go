package config

import (
	"strings"
	"testing"
	"time"

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
		"staging.dir":   func(c *Config) { c.Staging.Dir = "" },
		"staging.limit": func(c *Config) { c.Staging.Limit = 1 },
		"concurrency":   func(c *Config) { c.Concurrency = -1 },
		"replicas":      func(c *Config) { c.Replicas = 9 },
		"lease":         func(c *Config) { c.Lease = time.Millisecond },
		"max_attempts":  func(c *Config) { c.MaxAttempts = -1 },
		"sweep":         func(c *Config) { c.Sweep = time.Hour },
	} {
		c := valid()
		spoil(&c)
		if err := c.Validate(); err == nil || !strings.HasPrefix(err.Error(), field+":") {
			t.Errorf("%s: %v", field, err)
		}
	}
}
