package jsapi

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// maxListed bounds how many entries a paged list may have.
const maxListed = 1 << 20

// SequencePair is a place in a consumer's and in a stream's sequence.
type SequencePair struct {
	Consumer uint64 `json:"consumer_seq"`
	Stream   uint64 `json:"stream_seq"`
}

// ConsumerInfo describes one consumer as the server answered.
type ConsumerInfo struct {
	Stream         string          `json:"stream_name"`
	Name           string          `json:"name"`
	Created        time.Time       `json:"created"`
	Config         json.RawMessage `json:"config"` // verbatim
	Delivered      SequencePair    `json:"delivered"`
	AckFloor       SequencePair    `json:"ack_floor"`
	NumAckPending  uint64          `json:"num_ack_pending"`
	NumRedelivered uint64          `json:"num_redelivered"`
	NumWaiting     uint64          `json:"num_waiting"`
	NumPending     uint64          `json:"num_pending"`
	Cluster        *Cluster        `json:"cluster"`
	Raw            json.RawMessage `json:"-"`
}

// StreamNames lists the names of all streams of the account.
func (c *Client) StreamNames(ctx context.Context) ([]string, error) {
	var names []string
	err := c.pages(ctx, "STREAM.NAMES", "streams", func(raw json.RawMessage) error {
		var name string
		if err := json.Unmarshal(raw, &name); err != nil {
			return err
		}
		names = append(names, name)
		return nil
	})
	return names, err
}

// Streams lists all streams of the account with configuration and state,
// without their deleted sequences. A stream whose leader does not answer makes
// the call fail with a MissingError, for it would be missing from the list.
func (c *Client) Streams(ctx context.Context) ([]*StreamInfo, error) {
	var out []*StreamInfo
	err := c.pages(ctx, "STREAM.LIST", "streams", func(raw json.RawMessage) error {
		info, err := parseStreamInfo(raw)
		if err != nil {
			return err
		}
		out = append(out, info)
		return nil
	})
	return out, err
}

// Consumers lists all consumers of a stream. A consumer whose leader does not
// answer makes the call fail with a MissingError.
func (c *Client) Consumers(ctx context.Context, stream string) ([]*ConsumerInfo, error) {
	if err := CheckName(stream); err != nil {
		return nil, fmt.Errorf("stream name: %w", err)
	}
	var out []*ConsumerInfo
	err := c.pages(ctx, "CONSUMER.LIST."+stream, "consumers", func(raw json.RawMessage) error {
		info := new(ConsumerInfo)
		if err := json.Unmarshal(raw, info); err != nil {
			return err
		}
		info.Raw = append(json.RawMessage(nil), raw...)
		out = append(out, info)
		return nil
	})
	return out, err
}

// A MissingError names what a cluster knows of and could not describe now. It
// may pass when a leader is elected.
type MissingError struct{ Names []string }

func (e *MissingError) Error() string {
	return fmt.Sprintf("the cluster could not describe %d entries, first %q", len(e.Names), e.Names[0])
}

type page struct {
	Total   int      `json:"total"`
	Offset  int      `json:"offset"`
	Limit   int      `json:"limit"`
	Missing []string `json:"missing"`
}

// pages reads a paged list to its end. The list may change between pages; an
// entry may then be seen twice or not at all, as with any such paging.
func (c *Client) pages(ctx context.Context, call, field string, each func(json.RawMessage) error) error {
	for offset := 0; ; {
		reply, err := c.call(ctx, call, map[string]int{"offset": offset}, c.timeout)
		if err != nil {
			return err
		}
		var p page
		if err := json.Unmarshal(reply, &p); err != nil {
			return fmt.Errorf("call %s: %w: %v", call, ErrInvalidReply, err)
		}
		if len(p.Missing) > 0 {
			return fmt.Errorf("call %s: %w", call, &MissingError{Names: p.Missing})
		}
		var entries []json.RawMessage
		raw, found, err := member(reply, field)
		if err == nil && found {
			err = json.Unmarshal(raw, &entries)
		}
		if err != nil {
			return fmt.Errorf("call %s: %w: %v", call, ErrInvalidReply, err)
		}
		for _, e := range entries {
			if err := each(e); err != nil {
				return fmt.Errorf("call %s: %w: %v", call, ErrInvalidReply, err)
			}
		}
		offset += len(entries)
		if offset >= p.Total || len(entries) == 0 {
			return nil
		}
		if offset > maxListed {
			return fmt.Errorf("call %s: %w", call, &TooLargeError{What: "number of entries", Size: uint64(p.Total), Limit: maxListed})
		}
	}
}
