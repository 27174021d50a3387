package natstest

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"jetkeep/store/record"
	"jetkeep/store/testenv"
)

// StreamInfo is what STREAM.INFO says.
type StreamInfo struct {
	Config  json.RawMessage `json:"config"`
	Created time.Time       `json:"created"`
	State   struct {
		Messages  uint64    `json:"messages"`
		Bytes     uint64    `json:"bytes"`
		FirstSeq  uint64    `json:"first_seq"`
		FirstTime time.Time `json:"first_ts"`
		LastSeq   uint64    `json:"last_seq"`
		LastTime  time.Time `json:"last_ts"`
		Deleted   []uint64  `json:"deleted"`
		Consumers int       `json:"consumer_count"`
	} `json:"state"`
	Cluster *struct {
		Name     string `json:"name"`
		Leader   string `json:"leader"`
		Replicas []struct {
			Name    string `json:"name"`
			Current bool   `json:"current"`
		} `json:"replicas"`
	} `json:"cluster"`
}

// ConsumerInfo is what CONSUMER.LIST says of one consumer.
type ConsumerInfo struct {
	Name      string          `json:"name"`
	Created   time.Time       `json:"created"`
	Config    json.RawMessage `json:"config"`
	Delivered struct {
		Consumer uint64 `json:"consumer_seq"`
		Stream   uint64 `json:"stream_seq"`
	} `json:"delivered"`
	AckFloor struct {
		Consumer uint64 `json:"consumer_seq"`
		Stream   uint64 `json:"stream_seq"`
	} `json:"ack_floor"`
	NumAckPending  int    `json:"num_ack_pending"`
	NumRedelivered int    `json:"num_redelivered"`
	NumPending     uint64 `json:"num_pending"`
}

// APIError is an error that the JetStream API answered.
type APIError struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

func (e *APIError) Error() string {
	return fmt.Sprintf("%s (%d, %d)", e.Description, e.Code, e.ErrCode)
}

// Request sends a request to $JS.API.<subject> and decodes the answer into
// into, which may be nil. An error in the answer is an *APIError.
func Request(nc *nats.Conn, subject string, body, into any) error {
	raw := []byte{}
	if s, ok := body.(string); ok {
		raw = []byte(s)
	} else if body != nil {
		var err error
		if raw, err = json.Marshal(body); err != nil {
			return fmt.Errorf("encode request %s: %w", subject, err)
		}
	}
	m, err := nc.Request("$JS.API."+subject, raw, 10*time.Second)
	if err != nil {
		return fmt.Errorf("request %s: %w", subject, err)
	}
	return decodeAnswer(subject, m.Data, into)
}

func decodeAnswer(subject string, raw []byte, into any) error {
	var e struct {
		Error *APIError `json:"error"`
	}
	if err := json.Unmarshal(raw, &e); err != nil {
		return fmt.Errorf("decode answer of %s: %w", subject, err)
	}
	if e.Error != nil {
		return fmt.Errorf("request %s: %w", subject, e.Error)
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("decode answer of %s: %w", subject, err)
	}
	return nil
}

// errCodeNoMessage is how a server answers to the deletion of a message that is not
// there.
const errCodeNoMessage = 10057

// MustRequest is Request that ends the test on an error. A request that is not
// answered is sent again: a cluster that just chose a leader may have dropped
// it. What it asks for may have been done then, which for a deletion shows as
// that there is nothing to delete.
func MustRequest(t testing.TB, nc *nats.Conn, subject string, body, into any) {
	t.Helper()
	again := false
	err := Eventually(testenv.Hang, func() error {
		err := Request(nc, subject, body, into)
		if errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders) {
			t.Logf("request %s is sent again: %v", subject, err)
			again = true
			return err
		}
		answer := new(APIError)
		if again && strings.Contains(subject, ".DELETE.") && errors.As(err, &answer) && (answer.Code == http.StatusNotFound || answer.ErrCode == errCodeNoMessage) {
			return nil
		}
		if err != nil {
			return permanentError{err}
		}
		return nil
	})
	if errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders) {
		t.Fatalf("%v\n%s", err, testenv.Report())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Info returns what the server says of a stream, deleted sequences included.
func Info(t testing.TB, nc *nats.Conn, stream string) StreamInfo {
	t.Helper()
	var info StreamInfo
	MustRequest(t, nc, "STREAM.INFO."+stream, `{"deleted_details":true}`, &info)
	return info
}

// Streams returns the names of all streams, sorted.
func Streams(t testing.TB, nc *nats.Conn) []string {
	t.Helper()
	var all []string
	for {
		var page struct {
			Streams []string `json:"streams"`
			Total   int      `json:"total"`
		}
		MustRequest(t, nc, "STREAM.NAMES", map[string]int{"offset": len(all)}, &page)
		all = append(all, page.Streams...)
		if len(all) >= page.Total || len(page.Streams) == 0 {
			slices.Sort(all)
			return all
		}
	}
}

// Consumers returns every consumer of a stream, sorted by name.
func Consumers(t testing.TB, nc *nats.Conn, stream string) []ConsumerInfo {
	t.Helper()
	var all []ConsumerInfo
	for {
		var page struct {
			Consumers []ConsumerInfo `json:"consumers"`
			Total     int            `json:"total"`
		}
		MustRequest(t, nc, "CONSUMER.LIST."+stream, map[string]int{"offset": len(all)}, &page)
		all = append(all, page.Consumers...)
		if len(all) >= page.Total || len(page.Consumers) == 0 {
			break
		}
	}
	slices.SortFunc(all, func(a, b ConsumerInfo) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// noMessage is the error code of a sequence that holds no message. Servers
// before 2.4 have no such codes; these here all do.
const noMessage = 10037

// readWindow is how many messages Records asks for at a time.
const readWindow = 256

// Records returns every message of a stream, oldest first. It asks for each
// sequence from the first to the last, so it depends neither on consumers nor
// on what the server believes to be deleted. Nobody may write meanwhile.
func Records(t testing.TB, nc *nats.Conn, stream string) []record.Record {
	t.Helper()
	info := Info(t, nc, stream)
	inbox := nats.NewInbox()
	sub, err := nc.SubscribeSync(inbox + ".*")
	if err != nil {
		t.Fatalf("subscribe for messages of %s: %v", stream, err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	records := make([]record.Record, 0, info.State.Messages)
	for seq := info.State.FirstSeq; seq <= info.State.LastSeq && seq > 0; seq += readWindow {
		n := min(readWindow, info.State.LastSeq-seq+1)
		for i := range n {
			body := fmt.Appendf(nil, `{"seq":%d}`, seq+i)
			if err := nc.PublishRequest("$JS.API.STREAM.MSG.GET."+stream, fmt.Sprintf("%s.%d", inbox, seq+i), body); err != nil {
				t.Fatalf("ask for message %d of %s: %v", seq+i, stream, err)
			}
		}
		for range n {
			m, err := sub.NextMsg(testenv.Hang)
			if err != nil {
				t.Fatalf("await messages %d to %d of %s: %v\n%s", seq, seq+n-1, stream, err, testenv.Report())
			}
			r, ok, err := decodeMessage(m)
			if err != nil {
				t.Fatalf("read message of %s: %v", stream, err)
			}
			if ok {
				records = append(records, r)
			}
		}
	}
	slices.SortFunc(records, func(a, b record.Record) int { return cmp.Compare(a.Sequence, b.Sequence) })
	return records
}

// decodeMessage decodes an answer but for the message's body as JSON, and the body,
// which is far longer, by itself: under the race detector JSON costs some 50 times
// what it does else. In JSON what begins the body cannot be a part of a string.
func decodeMessage(m *nats.Msg) (record.Record, bool, error) {
	var answer struct {
		Message struct {
			Subject  string    `json:"subject"`
			Sequence uint64    `json:"seq"`
			Header   []byte    `json:"hdrs"`
			Data     string    `json:"data"`
			Time     time.Time `json:"time"`
		} `json:"message"`
		Error *APIError `json:"error"`
	}
	head, rest, _ := bytes.Cut(m.Data, []byte(`"data":"`))
	body, tail, found := bytes.Cut(rest, []byte{'"'})
	if found {
		head = slices.Concat(head, []byte(`"data":""`), tail)
	}
	if err := json.Unmarshal(head, &answer); err != nil {
		return record.Record{}, false, fmt.Errorf("decode: %w", err)
	}
	if answer.Message.Data != "" {
		return record.Record{}, false, errors.New("decode: the body is not where it was looked for")
	}
	data, err := base64.StdEncoding.AppendDecode(nil, body)
	if err != nil {
		return record.Record{}, false, fmt.Errorf("decode data: %w", err)
	}
	asked := m.Subject[strings.LastIndexByte(m.Subject, '.')+1:]
	if answer.Error != nil {
		if answer.Error.ErrCode == noMessage {
			return record.Record{}, false, nil
		}
		return record.Record{}, false, fmt.Errorf("sequence %s: %w", asked, answer.Error)
	}
	a := answer.Message
	if fmt.Sprint(a.Sequence) != asked {
		return record.Record{}, false, fmt.Errorf("sequence %s: got %d", asked, a.Sequence)
	}
	return record.Record{Sequence: a.Sequence, Time: a.Time.UnixNano(), Subject: []byte(a.Subject), Header: a.Header, Data: data}, true, nil
}

// Sum returns the digest of records.
func Sum(records []record.Record) record.Sum {
	var sum record.Sum
	var buffer []byte
	for i := range records {
		buffer = record.Append(buffer[:0], &records[i])
		sum.Add(buffer)
	}
	return sum
}

// Digest returns the digest of a stream's messages as it is kept with a
// restore point, and their number.
func Digest(t testing.TB, nc *nats.Conn, stream string) (digest string, messages uint64) {
	t.Helper()
	sum := Sum(Records(t, nc, stream))
	return sum.String(), sum.Count()
}

// Diff says in what two sets of records differ, in a few lines; it is empty if
// they are equal in every sequence, time, subject, header and body.
func Diff(want, got []record.Record) string {
	var lines []string
	i, j := 0, 0
	for i < len(want) || j < len(got) {
		switch {
		case j == len(got) || i < len(want) && want[i].Sequence < got[j].Sequence:
			lines = append(lines, fmt.Sprintf("sequence %d is missing", want[i].Sequence))
			i++
		case i == len(want) || got[j].Sequence < want[i].Sequence:
			lines = append(lines, fmt.Sprintf("sequence %d should not be there", got[j].Sequence))
			j++
		default:
			if d := diffRecord(&want[i], &got[j]); d != "" {
				lines = append(lines, fmt.Sprintf("sequence %d: %s", want[i].Sequence, d))
			}
			i, j = i+1, j+1
		}
	}
	const shown = 8
	if n := len(lines); n > shown {
		lines = append(lines[:shown], fmt.Sprintf("and %d more differences", n-shown))
	}
	return strings.Join(lines, "\n")
}

func diffRecord(want, got *record.Record) string {
	switch {
	case want.Time != got.Time:
		return fmt.Sprintf("time %s, want %s", time.Unix(0, got.Time).UTC(), time.Unix(0, want.Time).UTC())
	case !bytes.Equal(want.Subject, got.Subject):
		return fmt.Sprintf("subject %q, want %q", got.Subject, want.Subject)
	case !bytes.Equal(want.Header, got.Header):
		return fmt.Sprintf("header %q, want %q", got.Header, want.Header)
	case !bytes.Equal(want.Data, got.Data):
		return fmt.Sprintf("data of %d bytes differs from the %d wanted", len(got.Data), len(want.Data))
	}
	return ""
}
