package restore

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"jetkeep/service/archive"
)

// origin is a mirror's or a source's part of a configuration.
type origin struct {
	Name          string          `json:"name"`
	OptStartSeq   uint64          `json:"opt_start_seq"`
	FilterSubject string          `json:"filter_subject"`
	External      json.RawMessage `json:"external"`
	Transforms    []struct {
		Source      string `json:"src"`
		Destination string `json:"dest"`
	} `json:"subject_transforms"`
	Consumer struct {
		Name string `json:"name"`
	} `json:"consumer"`
}

// local tells whether the origin is a stream of the same account.
func (o origin) local() bool { return isZero(o.External) }

// streamConfig is what planning reads of a configuration.
type streamConfig struct {
	Name            string        `json:"name"`
	Subjects        []string      `json:"subjects"`
	Retention       string        `json:"retention"`
	Storage         string        `json:"storage"`
	Replicas        int           `json:"num_replicas"`
	MaxAge          time.Duration `json:"max_age"`
	MaxBytes        int64         `json:"max_bytes"`
	MaxMsgs         int64         `json:"max_msgs"`
	MaxMsgsPer      int64         `json:"max_msgs_per_subject"`
	DuplicateWindow time.Duration `json:"duplicate_window"`
	Sealed          bool          `json:"sealed"`
	AllowMsgTTL     bool          `json:"allow_msg_ttl"`
	Schedules       bool          `json:"allow_msg_schedules"`
	Mirror          *origin       `json:"mirror"`
	Sources         []origin      `json:"sources"`
}

func parseConfig(raw json.RawMessage) (streamConfig, error) {
	var c streamConfig
	if err := json.Unmarshal(raw, &c); err != nil {
		return c, fmt.Errorf("decode stream configuration: %w", err)
	}
	return c, nil
}

// origins returns the names of the streams of the same account that the stream
// takes its messages from.
func (c streamConfig) origins() []string {
	var names []string
	if c.Mirror != nil && c.Mirror.local() {
		names = append(names, c.Mirror.Name)
	}
	for _, s := range c.Sources {
		if s.local() && !slices.Contains(names, s.Name) {
			names = append(names, s.Name)
		}
	}
	return names
}

// adaptConfig returns the stream's configuration as a server of version v
// takes it.
func adaptConfig(raw json.RawMessage, v, from version) (out json.RawMessage, problems, warnings []Finding, err error) {
	object, err := decodeObject(raw)
	if err != nil {
		return nil, nil, nil, err
	}
	if err := adaptMetadata(object, v, from); err != nil {
		return nil, nil, nil, err
	}
	problems, warnings = adapt(object, streamFeatures, "stream", v, from)
	p, w, err := adaptOrigins(object, v, from)
	if err != nil {
		return nil, nil, nil, err
	}
	out, err = json.Marshal(object)
	return out, append(problems, p...), append(warnings, w...), err
}

func adaptOrigins(object map[string]json.RawMessage, v, from version) (problems, warnings []Finding, err error) {
	one := func(raw json.RawMessage, what string) (json.RawMessage, error) {
		o, err := decodeObject(raw)
		if err != nil {
			return nil, err
		}
		p, w := adapt(o, originFeatures, what, v, from)
		problems, warnings = append(problems, p...), append(warnings, w...)
		return json.Marshal(o)
	}
	if m := object["mirror"]; !isZero(m) {
		if object["mirror"], err = one(m, "mirror"); err != nil {
			return nil, nil, err
		}
	}
	if s := object["sources"]; !isZero(s) {
		var list []json.RawMessage
		if err := json.Unmarshal(s, &list); err != nil {
			return nil, nil, fmt.Errorf("decode sources: %w", err)
		}
		for i := range list {
			if list[i], err = one(list[i], fmt.Sprintf("source %d", i+1)); err != nil {
				return nil, nil, err
			}
		}
		object["sources"], err = json.Marshal(list)
	}
	return problems, warnings, err
}

// adaptConsumers returns the consumers as a server of version v takes them,
// without those that servers make for themselves.
func adaptConsumers(list []archive.Consumer, v, from version) (out []archive.Consumer, problems, warnings []Finding, err error) {
	for _, c := range list {
		object, err := decodeObject(c.Config)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("consumer %s: %w", c.Name, err)
		}
		if !isZero(object["direct"]) || !isZero(object["sourcing"]) {
			warnings = append(warnings, Finding{Code: CodeInternalConsumer,
				Text: fmt.Sprintf("consumer %s is one that a server made for a mirror or a source and is left out", c.Name)})
			continue
		}
		if err := adaptMetadata(object, v, from); err != nil {
			return nil, nil, nil, fmt.Errorf("consumer %s: %w", c.Name, err)
		}
		p, w := adapt(object, consumerFeatures, "consumer "+c.Name, v, from)
		problems, warnings = append(problems, p...), append(warnings, w...)
		if c.Config, err = json.Marshal(object); err != nil {
			return nil, nil, nil, fmt.Errorf("encode consumer %s: %w", c.Name, err)
		}
		out = append(out, c)
	}
	return out, problems, warnings, nil
}

func decodeObject(raw json.RawMessage) (map[string]json.RawMessage, error) {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("decode configuration: %w", err)
	}
	if m == nil {
		return nil, fmt.Errorf("decode configuration: it is %s, not an object", raw)
	}
	return m, nil
}

func sortedKeys(m map[string]json.RawMessage) []string {
	return slices.Sorted(maps.Keys(m))
}
