package jsapi

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"jetkeep/store/record"
)

// Message reads one message by its sequence. It fails with ErrNoMessage if the
// stream holds none of that sequence.
func (c *Client) Message(ctx context.Context, stream string, seq uint64) (*record.Record, error) {
	if err := CheckName(stream); err != nil {
		return nil, fmt.Errorf("stream name: %w", err)
	}
	reply, err := c.call(ctx, "STREAM.MSG.GET."+stream, getRequest{Seq: seq}, c.timeout)
	if err != nil {
		return nil, err
	}
	var d decoder
	r, err := d.message(reply, seq)
	if err != nil {
		return nil, fmt.Errorf("read message %d of stream %s: %w", seq, stream, err)
	}
	return r, nil
}

// LastMessage reads the last message of a subject, from the stream's leader. It
// fails with ErrNoMessage if the stream holds none.
func (c *Client) LastMessage(ctx context.Context, stream, subject string) (*record.Record, error) {
	if err := CheckName(stream); err != nil {
		return nil, fmt.Errorf("stream name: %w", err)
	}
	reply, err := c.call(ctx, "STREAM.MSG.GET."+stream, getRequest{Last: subject}, c.timeout)
	if err != nil {
		return nil, err
	}
	var d decoder
	r, err := d.decode(reply)
	if err == nil && (r.Sequence == 0 || string(r.Subject) != subject) {
		err = fmt.Errorf("%w: message %d with subject %q", ErrInvalidReply, r.Sequence, r.Subject)
	}
	if err != nil {
		return nil, fmt.Errorf("read last message of subject %s of stream %s: %w", subject, stream, err)
	}
	return r, nil
}

type getRequest struct {
	Seq  uint64 `json:"seq,omitzero"`
	Last string `json:"last_by_subj,omitzero"`
}

// A decoder turns answers of STREAM.MSG.GET into records. The record and its
// slices are valid until the next call.
type decoder struct {
	rec          record.Record
	subject      []byte
	header, data []byte
}

// message decodes the answer for the message with sequence want.
func (d *decoder) message(reply []byte, want uint64) (*record.Record, error) {
	if err := ReplyError(reply); err != nil {
		return nil, err
	}
	r, err := d.decode(reply)
	if err == nil && (r.Sequence != want || len(r.Subject) == 0) {
		err = fmt.Errorf("%w: message %d with subject %q instead of message %d", ErrInvalidReply, r.Sequence, r.Subject, want)
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// decode decodes an answer that is no error.
func (d *decoder) decode(reply []byte) (*record.Record, error) {
	msg, found, err := member(reply, "message")
	if err != nil || !found {
		return nil, fmt.Errorf("%w: no message in it", ErrInvalidReply)
	}
	if err := d.fields(msg); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrInvalidReply, err)
	}
	return &d.rec, nil
}

func (d *decoder) fields(msg []byte) error {
	d.rec = record.Record{}
	return members(msg, func(name string, value []byte) error {
		var err error
		switch name {
		case "subject":
			d.subject, err = text(d.subject[:0], value)
			d.rec.Subject = d.subject
		case "seq":
			d.rec.Sequence, _, err = number(value, 0)
		case "hdrs":
			d.header, err = encoded(d.header[:0], value)
			d.rec.Header = d.header
		case "data":
			d.data, err = encoded(d.data[:0], value)
			d.rec.Data = d.data
		case "time":
			var t time.Time
			if err = t.UnmarshalJSON(value); err == nil {
				d.rec.Time = t.UnixNano()
			}
		}
		if err != nil {
			return fmt.Errorf("field %s: %w", name, err)
		}
		return nil
	})
}

// text appends the decoded JSON string to dst.
func text(dst, value []byte) ([]byte, error) {
	if len(value) < 2 || value[0] != '"' {
		return nil, fmt.Errorf("%w: string expected", errJSON)
	}
	for _, b := range value {
		if b == '\\' {
			var s string
			err := json.Unmarshal(value, &s)
			return append(dst, s...), err
		}
	}
	return append(dst, value[1:len(value)-1]...), nil
}

// encoded appends the bytes of a base64 JSON string to dst; null is none.
func encoded(dst, value []byte) ([]byte, error) {
	if string(value) == "null" {
		return dst, nil
	}
	if len(value) < 2 || value[0] != '"' {
		return nil, fmt.Errorf("%w: string expected", errJSON)
	}
	return base64.StdEncoding.AppendDecode(dst, value[1:len(value)-1])
}

// absent says whether err means that the message is not there.
func absent(err error) bool { return errors.Is(err, ErrNoMessage) }
