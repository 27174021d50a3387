package jsapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"jetkeep/store/seqset"
)

// Bounds of the deleted sequences of one stream.
const (
	// MaxDeletedRanges is how many ranges of consecutive ones are accepted, for
	// that is what they cost (16 bytes each).
	MaxDeletedRanges = 8 << 20
	// maxPending is what a server lets wait for a connection before it cuts it,
	// unless it is configured otherwise. It sends the list in one message: 7.3
	// million sequences of 8 digits passed, 20 million did not (2.10 to 2.15).
	maxPending = 64 << 20
)

// StreamState is what the server counts of a stream.
type StreamState struct {
	Messages    uint64    `json:"messages"`
	Bytes       uint64    `json:"bytes"`
	FirstSeq    uint64    `json:"first_seq"`
	FirstTime   time.Time `json:"first_ts"`
	LastSeq     uint64    `json:"last_seq"`
	LastTime    time.Time `json:"last_ts"`
	NumSubjects uint64    `json:"num_subjects"`
	NumDeleted  uint64    `json:"num_deleted"`
	Consumers   int       `json:"consumer_count"`
	// Lost is what the server itself says it lost to damage, verbatim.
	Lost json.RawMessage `json:"lost,omitempty"`
	// Deleted holds the sequences between first and last that are gone. It is
	// nil unless the details were asked for.
	Deleted *seqset.Set `json:"-"`
}

// StreamInfo describes one stream as the server answered.
type StreamInfo struct {
	Config  json.RawMessage `json:"config"` // verbatim
	Created time.Time       `json:"created"`
	State   StreamState     `json:"state"`
	// Time is the server's clock when it answered; zero before 2.10.
	Time    time.Time       `json:"ts"`
	Domain  string          `json:"domain"`
	Cluster *Cluster        `json:"cluster"`
	Mirror  *SourceInfo     `json:"mirror"`
	Sources []SourceInfo    `json:"sources"`
	Raw     json.RawMessage `json:"-"` // the whole answer without the list of deleted sequences
}

// Cluster is where a replicated asset lives.
type Cluster struct {
	Name     string    `json:"name"`
	Leader   string    `json:"leader"`
	Replicas []Replica `json:"replicas"`
}

// Replica is one follower of a replicated asset.
type Replica struct {
	Name    string `json:"name"`
	Current bool   `json:"current"`
	Offline bool   `json:"offline"`
	Lag     uint64 `json:"lag"`
}

// SourceInfo is how far a mirror or a source has come.
type SourceInfo struct {
	Name     string          `json:"name"`
	External json.RawMessage `json:"external"`
	Lag      uint64          `json:"lag"`
	Active   time.Duration   `json:"active"`
	Error    *APIError       `json:"error"`
}

// Name returns the stream's name as its configuration has it.
func (s *StreamInfo) Name() string { return configName(s.Config) }

func configName(config json.RawMessage) string {
	var c struct {
		Name string `json:"name"`
	}
	if json.Unmarshal(config, &c) != nil {
		return ""
	}
	return c.Name
}

// InfoOptions of StreamInfo.
type InfoOptions struct {
	DeletedDetails bool // ask for State.Deleted
}

// StreamInfo asks for a stream's configuration and state. With the deleted
// sequences asked for it fails with ErrTooLarge, and the connection is lost, if
// the server cannot send that many.
func (c *Client) StreamInfo(ctx context.Context, stream string, o InfoOptions) (*StreamInfo, error) {
	if err := CheckName(stream); err != nil {
		return nil, fmt.Errorf("stream name: %w", err)
	}
	var req any
	timeout := c.timeout
	var listSize uint64
	if o.DeletedDetails {
		plain, err := c.StreamInfo(ctx, stream, InfoOptions{})
		if err != nil {
			return nil, err
		}
		listSize = plain.State.NumDeleted * uint64(len(strconv.FormatUint(plain.State.LastSeq, 10))+1)
		req = map[string]bool{"deleted_details": true}
		timeout = max(timeout, DetailTimeout)
	}
	reply, err := c.call(ctx, "STREAM.INFO."+stream, req, timeout)
	if err != nil && o.DeletedDetails && errors.Is(err, ErrConnectionLost) && listSize > maxPending/2 {
		return nil, fmt.Errorf("%w: %w", &TooLargeError{What: "list of deleted sequences in bytes", Size: listSize, Limit: maxPending}, err)
	}
	if err != nil {
		return nil, err
	}
	info, err := parseStreamInfo(reply)
	if err != nil {
		return nil, fmt.Errorf("read info of stream %s: %w", stream, err)
	}
	if o.DeletedDetails {
		info.completeDeleted()
	}
	return info, nil
}

// completeDeleted makes up for two faults of servers: an empty stream has
// sequence 0 as deleted (seen on 2.15.2); and the memory storage of 2.7 to 2.9
// looks for deleted messages between the first sequence and the last, and so
// leaves out the last one if that is deleted itself.
func (s *StreamInfo) completeDeleted() {
	st := &s.State
	if st.Deleted == nil {
		st.Deleted = new(seqset.Set)
	}
	if st.Messages == 0 {
		st.Deleted, st.NumDeleted = new(seqset.Set), 0
	}
	var cfg struct{ Storage string }
	if json.Unmarshal(s.Config, &cfg) != nil || cfg.Storage != "memory" || st.Messages == 0 {
		return
	}
	if st.LastSeq-st.FirstSeq+1-st.Messages == st.Deleted.Len()+1 && !st.Deleted.Contains(st.LastSeq) {
		st.Deleted.Add(st.LastSeq)
		st.NumDeleted = st.Deleted.Len()
	}
}

// ParseStreamInfo reads an answer of the API that holds a stream's
// description, and the error it may hold instead.
func ParseStreamInfo(reply []byte) (*StreamInfo, error) {
	if err := ReplyError(reply); err != nil {
		return nil, err
	}
	return parseStreamInfo(reply)
}

func parseStreamInfo(reply []byte) (*StreamInfo, error) {
	rest, deleted, err := exciseDeleted(reply)
	if err != nil {
		return nil, err
	}
	info := new(StreamInfo)
	if err := json.Unmarshal(rest, info); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrInvalidReply, err)
	}
	if len(info.Config) == 0 {
		return nil, fmt.Errorf("%w: no configuration in it", ErrInvalidReply)
	}
	info.Raw, info.State.Deleted = rest, deleted
	return info, nil
}

// exciseDeleted takes the list of deleted sequences out of an answer. What it
// returns does not share memory with reply.
func exciseDeleted(reply []byte) ([]byte, *seqset.Set, error) {
	stateFrom, stateTo, found, err := locate(reply, "state")
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %v", ErrInvalidReply, err)
	}
	if !found || reply[stateFrom] != '{' {
		return append([]byte(nil), reply...), nil, nil
	}
	from, to, found, err := locate(reply[stateFrom:stateTo], "deleted")
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %v", ErrInvalidReply, err)
	}
	if !found || reply[stateFrom+from] != '[' {
		return append([]byte(nil), reply...), nil, nil
	}
	from, to = from+stateFrom, to+stateFrom
	deleted := new(seqset.Set)
	err = numbers(reply[from:to], func(first, last uint64) error {
		deleted.AddRange(first, last)
		if deleted.NumRanges() > MaxDeletedRanges {
			return &TooLargeError{What: "number of ranges of deleted sequences", Size: uint64(deleted.NumRanges()), Limit: MaxDeletedRanges}
		}
		return nil
	})
	if errors.Is(err, ErrTooLarge) {
		return nil, nil, err
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %v", ErrInvalidReply, err)
	}
	rest := make([]byte, 0, len(reply)-(to-from)+4)
	rest = append(append(rest, reply[:from]...), "null"...)
	return append(rest, reply[to:]...), deleted, nil
}

// CreateStream creates a stream from a configuration, sent as it is.
func (c *Client) CreateStream(ctx context.Context, config json.RawMessage) (*StreamInfo, error) {
	return c.configure(ctx, "STREAM.CREATE.", config)
}

// UpdateStream changes a stream to a configuration, sent as it is.
func (c *Client) UpdateStream(ctx context.Context, config json.RawMessage) (*StreamInfo, error) {
	return c.configure(ctx, "STREAM.UPDATE.", config)
}

func (c *Client) configure(ctx context.Context, verb string, config json.RawMessage) (*StreamInfo, error) {
	name := configName(config)
	if err := CheckName(name); err != nil {
		return nil, fmt.Errorf("name in configuration: %w", err)
	}
	reply, err := c.call(ctx, verb+name, config, c.timeout)
	if err != nil {
		return nil, err
	}
	return parseStreamInfo(reply)
}

// DeleteStream deletes a stream and all it holds.
func (c *Client) DeleteStream(ctx context.Context, stream string) error {
	if err := CheckName(stream); err != nil {
		return fmt.Errorf("stream name: %w", err)
	}
	_, err := c.call(ctx, "STREAM.DELETE."+stream, nil, c.timeout)
	return err
}

// AccountInfo is what JetStream says of the account.
type AccountInfo struct {
	Memory    int64           `json:"memory"`
	Store     int64           `json:"storage"`
	Streams   int             `json:"streams"`
	Consumers int             `json:"consumers"`
	Domain    string          `json:"domain"`
	Raw       json.RawMessage `json:"-"`
}

// AccountInfo asks for the account's usage; it is the cheapest way to learn
// whether JetStream answers.
func (c *Client) AccountInfo(ctx context.Context) (*AccountInfo, error) {
	reply, err := c.call(ctx, "INFO", nil, c.timeout)
	if err != nil {
		return nil, err
	}
	info := new(AccountInfo)
	if err := json.Unmarshal(reply, info); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrInvalidReply, err)
	}
	info.Raw = reply
	return info, nil
}

// ErrInvalidName means that a name cannot be one of a stream or consumer.
var ErrInvalidName = errors.New("invalid name")

// CheckName refuses what cannot be the name of a stream or a consumer: names
// are single tokens of subjects, and a wrong one would address another call.
func CheckName(name string) error {
	if name == "" || len(name) > 255 || strings.ContainsAny(name, " \t\r\n\f.*>/\\") {
		return fmt.Errorf("%w: %q", ErrInvalidName, name)
	}
	return nil
}
