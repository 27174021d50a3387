package restore

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"jetkeep/service/archive"
	"jetkeep/store"
)

var now = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// point makes a restore point of 100 messages, one an hour, the last one an
// hour ago.
func point(stream, config string) Input {
	var p store.Point
	p.ID, p.Stream, p.Server, p.Time = "b."+stream, stream, "2.15.2", now.Add(-time.Minute)
	p.Config = json.RawMessage(fmt.Sprintf(`{"name":%q,"storage":"file","num_replicas":1,%s}`, stream, config))
	p.State = store.State{Messages: 100, Bytes: 1000, FirstSeq: 1, LastSeq: 100, FirstTime: now.Add(-100 * time.Hour), LastTime: now.Add(-time.Hour)}
	p.Content.Messages, p.Content.FirstSeq, p.Content.LastSeq = 100, 1, 100
	return Input{Point: p}
}

func memory(in Input) Input {
	in.Point.Config = json.RawMessage(strings.Replace(string(in.Point.Config), `"storage":"file"`, `"storage":"memory"`, 1))
	return in
}

func with(in Input, change func(*store.Point)) Input {
	change(&in.Point)
	return in
}

func codes(list []Finding) []string {
	var out []string
	for _, f := range list {
		out = append(out, f.Code)
	}
	return out
}

func TestPlanFindings(t *testing.T) {
	consumers := func(in Input, config string) Input {
		in.Consumers = []archive.Consumer{{Name: "C", Config: json.RawMessage(config)}}
		return in
	}
	for name, test := range map[string]struct {
		in       Input
		target   Target
		problems []string
		warnings []string
	}{
		"plain":            {in: point("S", `"subjects":["s"]`)},
		"exists":           {in: point("S", `"subjects":["s"]`), target: Target{Streams: []Existing{{Name: "S"}}}, problems: []string{CodeExists}},
		"reserved":         {in: point("JETKEEP_X", `"subjects":["s"]`), problems: []string{CodeReserved}},
		"reserved bucket":  {in: point("KV_JETKEEP_SESSIONS", `"subjects":["s"]`), problems: []string{CodeReserved}},
		"reserved objects": {in: point("OBJ_JETKEEP_X", `"subjects":["s"]`), problems: []string{CodeReserved}},
		"overlap": {in: point("S", `"subjects":["a.*.c"]`), target: Target{Streams: []Existing{{Name: "T", Subjects: []string{"x", "a.b.>"}}}},
			problems: []string{CodeSubjects}},
		"beside":              {in: point("S", `"subjects":["a.*"]`), target: Target{Streams: []Existing{{Name: "T", Subjects: []string{"a.b.>", "b.*"}}}}},
		"replicas":            {in: point("S", `"num_replicas":3`), problems: []string{CodeReplicas}},
		"replicas in cluster": {in: point("S", `"num_replicas":3`), target: Target{Clustered: true, Peers: 3}, warnings: []string{CodeCreatedLost}},
		"too many replicas":   {in: point("S", `"num_replicas":5`), target: Target{Clustered: true, Peers: 3}, problems: []string{CodeReplicas}, warnings: []string{CodeCreatedLost}},
		"storage":             {in: point("S", `"max_bytes":5000`), target: Target{Limits: Limits{MaxStorage: 6000, Storage: 1001}}, problems: []string{CodeStorage}},
		"storage fits":        {in: point("S", `"max_bytes":5000`), target: Target{Limits: Limits{MaxStorage: 6001, Storage: 1001}}},
		"tier": {in: point("S", `"max_bytes":5000`), target: Target{Limits: Limits{MaxStorage: 1}, Tiers: map[string]Limits{"R1": {MaxStorage: 4999}}},
			problems: []string{CodeStorage}},
		"streams":            {in: point("S", `"subjects":["s"]`), target: Target{Limits: Limits{MaxStreams: 4, Streams: 4}}, problems: []string{CodeStreams}},
		"old server":         {in: point("S", `"subjects":["s"]`), target: Target{ServerVersion: "2.5.0"}, problems: []string{CodeServer}},
		"no version":         {in: point("S", `"subjects":["s"]`), target: Target{ServerVersion: "latest"}, problems: []string{CodeServer}},
		"bad config":         {in: with(point("S", ``), func(p *store.Point) { p.Config = json.RawMessage(`[]`) }), problems: []string{CodeConfig}},
		"memory":             {in: memory(point("S", `"subjects":["s"]`)), warnings: []string{CodeCreatedLost}},
		"memory dedupe":      {in: memory(point("S", `"duplicate_window":120000000000`)), warnings: []string{CodeCreatedLost, CodeDedupeLost}},
		"memory dedupe over": {in: memory(point("S", `"duplicate_window":30000000000`)), warnings: []string{CodeCreatedLost}},
		"memory on 2.14":     {in: memory(point("S", `"subjects":["s"]`)), target: Target{ServerVersion: "2.14.5"}, warnings: []string{CodePromoted, CodeCreatedLost}},
		"memory on 2.11":     {in: memory(point("S", `"subjects":["s"]`)), target: Target{ServerVersion: "2.11.12"}, problems: []string{CodeMemoryOld}},
		"memory with consumer on 2.14": {in: consumers(memory(point("S", `"subjects":["s"]`)), `{}`), target: Target{ServerVersion: "2.14.5"},
			problems: []string{CodeMemoryOld}},
		"memory with trailing gap on 2.14": {in: with(memory(point("S", `"subjects":["s"]`)), func(p *store.Point) { p.State.LastSeq++ }),
			target: Target{ServerVersion: "2.14.5"}, problems: []string{CodeMemoryOld}},
		"all expired":     {in: point("S", `"max_age":3600000000000`), warnings: []string{CodeExpire}},
		"some expired":    {in: point("S", `"max_age":180000000000000`), warnings: []string{CodeExpire}},
		"none expired":    {in: point("S", `"max_age":1800000000000000`)},
		"ttl":             {in: point("S", `"allow_msg_ttl":true,"allow_msg_schedules":true`), warnings: []string{CodeTTL, CodeSchedules}},
		"workqueue":       {in: point("S", `"retention":"workqueue"`)},
		"memory queue":    {in: memory(point("S", `"retention":"workqueue"`)), warnings: []string{CodeCreatedLost, CodeAcked}},
		"origin missing":  {in: point("S", `"mirror":{"name":"O"}`), warnings: []string{CodeOriginMissing}},
		"origin external": {in: point("S", `"mirror":{"name":"O","external":{"api":"$JS.x.API"}}`)},
		"origin behind":   {in: point("S", `"mirror":{"name":"O"}`), target: Target{Streams: []Existing{{Name: "O", LastSeq: 90}}}, warnings: []string{CodeOriginBehind}},
		"origin ahead":    {in: point("S", `"mirror":{"name":"O"}`), target: Target{Streams: []Existing{{Name: "O", LastSeq: 100}}}},
		"sourced":         {in: point("S", `"subjects":["s"]`), target: Target{Streams: []Existing{{Name: "O", Origins: []string{"S"}}}}, warnings: []string{CodeSourcedFrom}},
		"ttl on 2.10":     {in: point("S", `"allow_msg_ttl":true`), target: Target{ServerVersion: "2.10.29"}, problems: []string{CodeFeature}, warnings: []string{CodeTTL}},
		"unset on 2.10":   {in: point("S", `"allow_msg_ttl":false,"persist_mode":"default"`), target: Target{ServerVersion: "2.10.29"}},
		"counter on 2.11": {in: point("S", `"allow_msg_counter":true`), target: Target{ServerVersion: "2.11.12"}, problems: []string{CodeFeature}},
		"metadata on 2.9": {in: point("S", `"metadata":{"a":"b"}`), target: Target{ServerVersion: "2.9.25"}, warnings: []string{CodeFeatureDropped}},
		"server's metadata": {in: point("S", `"metadata":{"_nats.ver":"2.15.2","_nats.req.level":"0"}`),
			target: Target{ServerVersion: "2.9.25"}},
		"limits on 2.9":      {in: point("S", `"consumer_limits":{"max_ack_pending":0}`), target: Target{ServerVersion: "2.9.25"}},
		"limits set":         {in: point("S", `"consumer_limits":{"max_ack_pending":1}`), target: Target{ServerVersion: "2.9.25"}, warnings: []string{CodeFeatureDropped}},
		"transform on 2.9":   {in: point("S", `"sources":[{"name":"O","external":{"api":"x"},"subject_transforms":[{"src":"a","dest":"b"}]}]`), target: Target{ServerVersion: "2.9.25"}, problems: []string{CodeFeature}},
		"unknown field":      {in: with(point("S", `"teleport":true`), func(p *store.Point) { p.Server = "2.99.0" }), warnings: []string{CodeUnknownField}},
		"unknown field kept": {in: with(point("S", `"teleport":true`), func(p *store.Point) { p.Server = "2.99.0" }), target: Target{ServerVersion: "2.99.1"}},
		"filters on 2.9":     {in: consumers(point("S", `"subjects":["s"]`), `{"filter_subjects":["a","b"]}`), target: Target{ServerVersion: "2.9.25"}, problems: []string{CodeFeature}},
		"no filters on 2.9":  {in: consumers(point("S", `"subjects":["s"]`), `{"filter_subjects":[],"name":"C"}`), target: Target{ServerVersion: "2.9.25"}},
		"paused on 2.10":     {in: consumers(point("S", `"subjects":["s"]`), `{"pause_until":"2030-01-01T00:00:00Z"}`), target: Target{ServerVersion: "2.10.29"}, problems: []string{CodeFeature}},
		"prioritized on 2.11": {in: consumers(point("S", `"subjects":["s"]`), `{"priority_groups":["a"],"priority_policy":"prioritized"}`),
			target: Target{ServerVersion: "2.11.12"}, problems: []string{CodeFeature}},
		"internal consumer": {in: consumers(point("S", `"subjects":["s"]`), `{"direct":true}`), warnings: []string{CodeInternalConsumer}},
	} {
		t.Run(name, func(t *testing.T) {
			target := test.target
			target.Now = now
			if target.ServerVersion == "" {
				target.ServerVersion = "2.15.2"
			}
			s := BuildPlan(Request{}, []Input{test.in}, target).Streams[0]
			if got := codes(s.Problems); !slices.Equal(got, test.problems) {
				t.Errorf("problems %+v, want %v", s.Problems, test.problems)
			}
			if got := codes(s.Warnings); !slices.Equal(got, test.warnings) {
				t.Errorf("warnings %+v, want %v", s.Warnings, test.warnings)
			}
			want := ActionRestore
			if len(test.problems) > 0 {
				want = ActionRefuse
			}
			if s.Action != want {
				t.Errorf("action %s, want %s", s.Action, want)
			}
		})
	}
}

func TestPlanNumbers(t *testing.T) {
	for name, test := range map[string]struct {
		config string
		want   uint64
	}{
		"all":  {`"max_age":3600000000000`, 100},
		"half": {`"max_age":181800000000000`, 50}, // 50.5 hours
		"few":  {`"max_age":359900000000000`, 1},
	} {
		s := BuildPlan(Request{}, []Input{point("S", test.config)}, Target{ServerVersion: "2.15.2", Now: now}).Streams[0]
		if len(s.Warnings) != 1 || s.Warnings[0].Messages != test.want {
			t.Errorf("%s: warnings %+v, want %d messages", name, s.Warnings, test.want)
		}
	}
	in := point("S", `"mirror":{"name":"O"}`)
	s := BuildPlan(Request{}, []Input{in}, Target{ServerVersion: "2.15.2", Now: now, Streams: []Existing{{Name: "O", LastSeq: 90}}}).Streams[0]
	if s.Warnings[0].Messages != 10 {
		t.Errorf("warnings %+v, want 10 messages", s.Warnings)
	}
}

// Streams come after their origins, whatever the order asked for, and each
// limit is held against all of them together.
func TestPlanOrder(t *testing.T) {
	inputs := []Input{
		point("LAST", `"sources":[{"name":"MID"},{"name":"FIRST"},{"name":"FIRST","filter_subject":"x"}]`),
		point("MID", `"mirror":{"name":"FIRST"}`),
		point("FIRST", `"subjects":["first"]`),
		point("A", `"subjects":["a"],"sources":[{"name":"B"}]`),
		point("B", `"subjects":["b"],"sources":[{"name":"A"}]`),
		point("SELF", `"subjects":["self"],"sources":[{"name":"SELF"}]`),
		point("AGAIN", `"subjects":["a"]`),
		point("AGAIN", `"subjects":["z"]`),
	}
	p := BuildPlan(Request{}, inputs, Target{ServerVersion: "2.15.2", Now: now, Limits: Limits{MaxStorage: 6500}})
	after := map[string][]string{}
	var order []string
	for _, s := range p.Streams {
		order = append(order, s.Stream)
		after[s.Stream] = s.After
	}
	if want := []string{"FIRST", "MID", "LAST", "SELF", "AGAIN", "AGAIN", "A", "B"}; !sameMembers(order, want) || slices.Index(order, "FIRST") > slices.Index(order, "MID") || slices.Index(order, "MID") > slices.Index(order, "LAST") {
		t.Errorf("order %v, want one like %v", order, want)
	}
	if want := map[string][]string{"LAST": {"MID", "FIRST"}, "MID": {"FIRST"}, "B": {"A"}, "A": {}, "FIRST": nil, "SELF": nil, "AGAIN": nil}; !reflect.DeepEqual(after, want) {
		t.Errorf("after %v, want %v", after, want)
	}
	if !p.Refused() {
		t.Error("plan with a stream twice is not refused")
	}
	found := map[string]bool{}
	for _, s := range p.Streams {
		for _, f := range append(s.Problems, s.Warnings...) {
			found[s.Stream+" "+f.Code] = true
		}
	}
	for _, want := range []string{"A " + CodeCycle, "AGAIN " + CodeTwice, "AGAIN " + CodeSubjects} {
		if !found[want] {
			t.Errorf("no finding %s in %v", want, found)
		}
	}
	// Six streams of 1000 bytes are without problems, one too many for the limit.
	p = BuildPlan(Request{}, inputs[:6], Target{ServerVersion: "2.15.2", Now: now, Limits: Limits{MaxStorage: 5500}})
	over := 0
	for _, s := range p.Streams {
		over += len(s.Problems)
	}
	if over != 1 {
		t.Errorf("%d problems, want that of the stream which exceeds the limit", over)
	}
}

func sameMembers(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

// A plan does not depend on anything but its arguments and changes none.
func TestPlanIsPure(t *testing.T) {
	in := point("S", `"subjects":["s"],"allow_direct":true,"metadata":{"_nats.ver":"2.15.2"},"sources":[{"name":"O","consumer":null}]`)
	in.Consumers = []archive.Consumer{{Name: "C", Config: json.RawMessage(`{"metadata":{"_nats.level":"5"},"name":"C"}`)}}
	before, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	target := Target{ServerVersion: "2.8.2", Now: now}
	a, b := BuildPlan(Request{}, []Input{in}, target), BuildPlan(Request{}, []Input{in}, target)
	if !reflect.DeepEqual(a, b) {
		t.Errorf("two plans differ: %+v, %+v", a, b)
	}
	after, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	if string(before) != string(after) {
		t.Errorf("input changed to %s from %s", after, before)
	}
	if got := string(a.Streams[0].config); strings.Contains(got, "allow_direct") || strings.Contains(got, "metadata") || strings.Contains(got, "consumer") {
		t.Errorf("configuration for 2.8 is %s", got)
	}
	if got := string(a.Streams[0].consumers[0].Config); got != "{}" {
		t.Errorf("consumer's configuration for 2.8 is %s", got)
	}
}

// The API level that a configuration needs goes only to servers that have it:
// one with a lower level keeps the stream offline.
func TestRequiredLevel(t *testing.T) {
	for _, test := range []struct {
		target, from, level string
		keep                bool
	}{
		{"2.15.2", "2.15.2", "4", true}, {"2.14.5", "2.15.2", "4", true}, {"2.14.5", "2.15.2", "5", false}, {"2.11.12", "2.15.2", "0", true},
		{"2.11.12", "2.12.6", "2", false}, {"2.10.29", "2.15.2", "0", false}, {"2.99.0", "2.98.0", "77", true},
	} {
		v, err := parseVersion(test.target)
		if err != nil {
			t.Fatal(err)
		}
		from, err := parseVersion(test.from)
		if err != nil {
			t.Fatal(err)
		}
		o := map[string]json.RawMessage{"metadata": json.RawMessage(fmt.Sprintf(`{"_nats.req.level":%q,"_nats.ver":"x"}`, test.level))}
		if err := adaptMetadata(o, v, from); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(string(o["metadata"]), levelKey); got != test.keep || strings.Contains(string(o["metadata"]), "_nats.ver") {
			t.Errorf("%s from %s, level %s: metadata %s", test.target, test.from, test.level, o["metadata"])
		}
	}
}

func TestVersions(t *testing.T) {
	for _, s := range []string{"", "2", "2.10", "2.x.1", "2.-1.0", "2.1.1.1"} {
		if v, err := parseVersion(s); err == nil {
			t.Errorf("%q is version %s", s, v)
		}
	}
	a, err := parseVersion("v2.10.0-RC.1")
	if err != nil || a != (version{2, 10, 0}) {
		t.Errorf("version %v, %v", a, err)
	}
	if !(version{2, 9, 9}).before(version{2, 10, 0}) || (version{3, 0, 0}).before(version{2, 10, 0}) || (version{2, 9, 0}).before(version{2, 9, 0}) {
		t.Error("versions are out of order")
	}
}

func TestOverlap(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want bool
	}{
		{"a", "a", true}, {"a", "b", false}, {"a.b", "a", false}, {"a.*", "a.b", true}, {"a.*", "a.b.c", false}, {"a.>", "a", false},
		{"a.>", "a.b.c", true}, {">", "x.y", true}, {"*.b", "a.*", true}, {"*.b", "a.c", false}, {"a.*.c", "a.b.>", true}, {"*", ">", true}, {"a.*.d", "*.b.c", false},
	} {
		if overlap(test.a, test.b) != test.want || overlap(test.b, test.a) != test.want {
			t.Errorf("overlap of %s and %s is not %v", test.a, test.b, test.want)
		}
	}
}

// Only to this machine itself nothing is gained by compressing.
func TestCompression(t *testing.T) {
	for addr, want := range map[string]archive.Compression{
		"127.0.0.1:4222": archive.Stored, "[::1]:4222": archive.Stored,
		"10.0.0.1:4222": archive.Compressed, "": archive.Compressed, "pipe": archive.Compressed,
	} {
		if got := compression(addr); got != want {
			t.Errorf("%s: %v, want %v", addr, got, want)
		}
	}
}
