package jsapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand"
	"strconv"
	"strings"
	"testing"

	"jetkeep/store/seqset"
)

func TestMember(t *testing.T) {
	const doc = ` { "a" : "x\\\"}" , "b":{"deleted":[1,2],"c":"]"}, "n" : -1.5e3,"t":true ,"z":null,"deleted":[ 7 , 9 ]}`
	for name, want := range map[string]string{
		"a": `"x\\\"}"`, "b": `{"deleted":[1,2],"c":"]"}`, "n": `-1.5e3`, "t": `true`, "z": `null`, "deleted": `[ 7 , 9 ]`,
	} {
		got, ok, err := member([]byte(doc), name)
		if err != nil || !ok || string(got) != want {
			t.Errorf("%s: %q, %v, %v", name, got, ok, err)
		}
	}
	if _, ok, err := member([]byte(doc), "c"); ok || err != nil {
		t.Errorf("a member of a member was found: %v", err)
	}
	for _, bad := range []string{``, `[]`, `{`, `{"a"`, `{"a":`, `{"a":}`, `{"a":"`, `{"a":[1`, `{a:1}`, `{"a" 1}`, `{"b":1`} {
		if _, ok, err := member([]byte(bad), "a"); ok && err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestNumbers(t *testing.T) {
	collect := func(s string) (*seqset.Set, error) {
		set := new(seqset.Set)
		err := numbers([]byte(s), func(first, last uint64) error { set.AddRange(first, last); return nil })
		return set, err
	}
	for in, want := range map[string]string{
		`[]`: "", `[ ]`: "", `[1]`: "1", `[1,2,3,7]`: "1-3, 7", "[ 5 ,\n9,8]": "5, 8-9", `[18446744073709551615]`: "18446744073709551615",
	} {
		if got, err := collect(in); err != nil || got.String() != want {
			t.Errorf("%s: %s, %v", in, got, err)
		}
	}
	for _, bad := range []string{``, `{}`, `[1`, `[1,`, `[-1]`, `["1"]`, `[1.5]`, `[18446744073709551616]`, `[x]`} {
		if got, err := collect(bad); err == nil {
			t.Errorf("%q gave %s", bad, got)
		}
	}
}

// A stream's description is the same with the list of deleted sequences as
// without, and the list is in it as a set.
func TestExciseDeleted(t *testing.T) {
	const reply = `{"type":"x","config":{"name":"S","metadata":{"deleted":"[3]"}},"state":{"messages":2,"first_seq":1,"last_seq":9,"num_deleted":5,"deleted":[2,3,4,6,8],"consumer_count":1},"created":"2026-01-02T03:04:05.000000006Z"}`
	info, err := ParseStreamInfo([]byte(reply))
	if err != nil {
		t.Fatal(err)
	}
	if d := info.State.Deleted.String(); d != "2-4, 6, 8" {
		t.Errorf("deleted %s", d)
	}
	if info.State.Consumers != 1 || info.State.LastSeq != 9 || info.Created.Nanosecond() != 6 || info.Name() != "S" {
		t.Errorf("%+v", info)
	}
	if string(info.Config) != `{"name":"S","metadata":{"deleted":"[3]"}}` {
		t.Errorf("configuration %s", info.Config)
	}
	if !json.Valid(info.Raw) || bytes.Contains(info.Raw, []byte("2,3,4")) {
		t.Errorf("raw %s", info.Raw)
	}
	for _, bad := range []string{
		`{}`, `{"config":{"name":"S"},"state":{"deleted":[1,x]}}`, `{"config":{"name":"S"},"state":{"deleted":[1}`, `no`, `{"state":{}}`,
	} {
		if _, err := ParseStreamInfo([]byte(bad)); !errors.Is(err, ErrInvalidReply) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	var api *APIError
	if _, err := ParseStreamInfo([]byte(`{"error":{"code":404,"err_code":10059,"description":"stream not found"}}`)); !errors.As(err, &api) || !errors.Is(err, ErrStreamNotFound) {
		t.Error(err)
	}
}

// Millions of deleted sequences cost memory by the range, and more ranges
// than the bound are refused.
func TestDeletedBound(t *testing.T) {
	t.Parallel()
	head, tail := []byte(`{"config":{"name":"S"},"state":{"messages":1,"deleted":[`), []byte(`1]}}`)
	build := func(n int, step uint64) []byte {
		b := bytes.Clone(head)
		for i := range uint64(n) {
			b = append(strconv.AppendUint(b, 10+i*step, 10), ',')
		}
		return append(b, tail...)
	}
	const many = 2_000_000
	dense := build(many, 1)
	info, err := ParseStreamInfo(dense)
	if err != nil {
		t.Fatal(err)
	}
	if info.State.Deleted.Len() != many+1 || info.State.Deleted.NumRanges() != 2 {
		t.Errorf("%d sequences in %d ranges", info.State.Deleted.Len(), info.State.Deleted.NumRanges())
	}
	if _, err := ParseStreamInfo(build(MaxDeletedRanges+1, 2)); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
}

// Whatever encoding/json takes for an object, the scanner takes apart alike.
func FuzzMember(f *testing.F) {
	f.Add([]byte(`{"a":1,"b":[{"c":"\\\""}],"d":null}`))
	f.Add([]byte(`{"error":{"code":1},"x":"\u0022"}`))
	f.Add([]byte(` {} `))
	f.Fuzz(func(t *testing.T, data []byte) {
		seen := map[string][]byte{}
		err := members(data, func(name string, value []byte) error {
			if _, ok := seen[name]; !ok {
				seen[name] = value
			}
			return nil
		})
		if !json.Valid(data) || !bytes.HasPrefix(bytes.TrimLeft(data, " \t\r\n"), []byte("{")) {
			return // it need not be refused, but must not panic
		}
		if err != nil {
			t.Fatalf("valid JSON: %v", err)
		}
		var want map[string]json.RawMessage
		if json.Unmarshal(data, &want) != nil || strings.Contains(string(data), `\`) {
			return
		}
		if len(want) != len(seen) {
			t.Fatalf("members %d, scanner %d", len(want), len(seen))
		}
	})
}

func FuzzNumbers(f *testing.F) {
	f.Add([]byte(`[1,2,3,5]`))
	f.Add([]byte(`[ 18446744073709551615 ]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got := new(seqset.Set)
		err := numbers(data, func(first, last uint64) error {
			if first > last {
				t.Fatalf("run %d-%d", first, last)
			}
			if last-first > 1<<20 {
				return nil
			}
			got.AddRange(first, last)
			return nil
		})
		var want []uint64
		if json.Unmarshal(data, &want) != nil || want == nil {
			return
		}
		if err != nil {
			t.Fatalf("valid list: %v", err)
		}
		if !got.Equal(seqset.Of(want...)) {
			t.Fatalf("%v became %s", want, got)
		}
	})
}

func BenchmarkDeleted(b *testing.B) {
	r := rand.New(rand.NewSource(1))
	doc := []byte(`{"config":{"name":"S"},"state":{"deleted":[`)
	seq := uint64(1 << 30)
	for range 1_000_000 {
		seq += 1 + uint64(r.Intn(3))
		doc = append(strconv.AppendUint(doc, seq, 10), ',')
	}
	doc = append(doc, `9000000000]}}`...)
	b.SetBytes(int64(len(doc)))
	for b.Loop() {
		if _, err := ParseStreamInfo(doc); err != nil {
			b.Fatal(err)
		}
	}
}
