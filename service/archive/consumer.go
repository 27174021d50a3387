package archive

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// A Consumer is one consumer of a stream. Config is the configuration as the
// server gave it, fields that are not known here included. V2 archives hold no
// creation time.
type Consumer struct {
	Name    string          `json:"name"`
	Created time.Time       `json:"created"`
	Config  json.RawMessage `json:"config"`
	State   ConsumerState   `json:"state"`
}

// A SequencePair is a position in a consumer's own count and in the stream.
type SequencePair struct {
	Consumer uint64 `json:"consumer_seq"`
	Stream   uint64 `json:"stream_seq"`
}

// A Pending is a message that was delivered and not acknowledged.
type Pending struct {
	Stream   uint64 `json:"stream_seq"`
	Consumer uint64 `json:"consumer_seq"`
	Time     int64  `json:"time"` // of the delivery, nanoseconds since the Unix epoch
}

// A Redelivered is a message that was delivered more than once.
type Redelivered struct {
	Stream uint64 `json:"stream_seq"`
	Count  uint64 `json:"count"`
}

// A ConsumerState is how far a consumer came. Both lists are sorted by their
// sequence in the stream.
type ConsumerState struct {
	Delivered   SequencePair  `json:"delivered"`
	AckFloor    SequencePair  `json:"ack_floor"`
	Pending     []Pending     `json:"pending,omitempty"`
	Redelivered []Redelivered `json:"redelivered,omitempty"`
}

func (s *ConsumerState) sort() {
	slices.SortFunc(s.Pending, func(a, b Pending) int { return compare(a.Stream, b.Stream) })
	slices.SortFunc(s.Redelivered, func(a, b Redelivered) int { return compare(a.Stream, b.Stream) })
}

func compare(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// The file o.dat of V1: two bytes, then varints. Sequences are given as their
// distance from the ack floor, modulo 2^64, and times in whole seconds.
const (
	consumerMagic   = 22
	consumerVersion = 2
	// oldConsumerVersion has no consumer sequences of pending messages, and
	// counts positions and times differently.
	oldConsumerVersion = 1
	// Least lengths of list entries, against lengths that are only claimed.
	minPending, minPendingOld, minRedelivered = 3, 2, 2
	// maxSeconds is the furthest time, in the year 2242, that nanoseconds hold.
	maxSeconds = 1 << 33
)

// DecodeConsumerState decodes an o.dat.
func DecodeConsumerState(b []byte) (ConsumerState, error) {
	if len(b) < 2 || b[0] != consumerMagic || (b[1] != consumerVersion && b[1] != oldConsumerVersion) {
		return ConsumerState{}, corrupt("consumer state is of no known version")
	}
	d := varints{b: b[2:]}
	old := b[1] == oldConsumerVersion
	var s ConsumerState
	s.AckFloor.Consumer, s.AckFloor.Stream = d.uvarint(), d.uvarint()
	s.Delivered.Consumer, s.Delivered.Stream = d.uvarint(), d.uvarint()
	if old {
		s.Delivered.Consumer += max(s.AckFloor.Consumer, 1) - 1
		s.Delivered.Stream += max(s.AckFloor.Stream, 1) - 1
	}
	d.pending(&s, old)
	d.redelivered(&s)
	switch {
	case d.large:
		return ConsumerState{}, fmt.Errorf("%w: consumer state takes more than %d bytes of memory", ErrTooLarge, MaxConsumersMemory)
	case d.failed:
		return ConsumerState{}, corrupt("consumer state is cut or a number in it is wrong")
	case len(d.b) > 0:
		return ConsumerState{}, corrupt("%d bytes after the consumer state", len(d.b))
	case (s.AckFloor.Stream|s.Delivered.Stream)>>63 != 0:
		return ConsumerState{}, corrupt("consumer state at sequence %d", max(s.AckFloor.Stream, s.Delivered.Stream))
	}
	s.sort()
	for i := range s.Pending {
		if s.Pending[i].Stream == 0 || i > 0 && s.Pending[i].Stream == s.Pending[i-1].Stream {
			return ConsumerState{}, corrupt("consumer state has sequence %d pending", s.Pending[i].Stream)
		}
	}
	for i := 1; i < len(s.Redelivered); i++ {
		if s.Redelivered[i].Stream == s.Redelivered[i-1].Stream {
			return ConsumerState{}, corrupt("consumer state has sequence %d redelivered twice", s.Redelivered[i].Stream)
		}
	}
	return s, nil
}

// AppendConsumerState appends the o.dat of the state. Times are cut to seconds.
func AppendConsumerState(dst []byte, s ConsumerState) []byte {
	dst = append(dst, consumerMagic, consumerVersion)
	floor := s.AckFloor
	for _, v := range [...]uint64{floor.Consumer, floor.Stream, s.Delivered.Consumer, s.Delivered.Stream} {
		dst = binary.AppendUvarint(dst, v)
	}
	dst = binary.AppendUvarint(dst, uint64(len(s.Pending)))
	if len(s.Pending) > 0 {
		base := int64(0)
		for _, p := range s.Pending {
			base = max(base, p.Time/int64(time.Second))
		}
		dst = binary.AppendVarint(dst, base)
		for _, p := range s.Pending {
			dst = binary.AppendUvarint(dst, p.Stream-floor.Stream)
			dst = binary.AppendUvarint(dst, p.Consumer-floor.Consumer)
			dst = binary.AppendVarint(dst, base-p.Time/int64(time.Second))
		}
	}
	dst = binary.AppendUvarint(dst, uint64(len(s.Redelivered)))
	for _, r := range s.Redelivered {
		dst = binary.AppendUvarint(dst, r.Stream-floor.Stream)
		dst = binary.AppendUvarint(dst, r.Count)
	}
	return dst
}

// varints reads numbers off a slice; after the first failure it reads zeros.
type varints struct {
	b      []byte
	failed bool
	large  bool // it failed for what it would take, and not for what it is
}

func (d *varints) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.failed, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *varints) varint() int64 {
	u := d.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

// count reads the length of a list, each entry of which takes at least size bytes.
func (d *varints) count(size int) int {
	n := d.uvarint()
	if n > uint64(len(d.b)/size) {
		d.failed, d.b = true, nil
		return 0
	}
	return int(n)
}

// fits says whether a list that takes so many bytes of memory may be read.
func (d *varints) fits(memory int) bool {
	if memory > MaxConsumersMemory {
		d.failed, d.large, d.b = true, true, nil
		return false
	}
	return true
}

func (d *varints) pending(s *ConsumerState, old bool) {
	size := minPending
	if old {
		size = minPendingOld
	}
	n := d.count(size)
	if n == 0 {
		return
	}
	base := d.varint()
	if !d.fits(n * pendingMemory) {
		return
	}
	s.Pending = make([]Pending, n)
	for i := range s.Pending {
		p := Pending{Stream: d.uvarint() + s.AckFloor.Stream}
		var seconds int64
		if old {
			seconds = base + d.varint()
		} else {
			p.Consumer = d.uvarint() + s.AckFloor.Consumer
			seconds = base - d.varint()
		}
		if seconds < -maxSeconds || seconds > maxSeconds {
			d.failed = true
			return
		}
		p.Time = seconds * int64(time.Second)
		s.Pending[i] = p
	}
}

func (d *varints) redelivered(s *ConsumerState) {
	n := d.count(minRedelivered)
	if n == 0 {
		return
	}
	if !d.fits(n * redeliveredMemory) {
		return
	}
	s.Redelivered = make([]Redelivered, 0, n)
	for range n {
		delta, count := d.uvarint(), d.uvarint()
		// Servers ignore such entries, and so may have written them.
		if delta != 0 && count != 0 {
			s.Redelivered = append(s.Redelivered, Redelivered{delta + s.AckFloor.Stream, count})
		}
	}
}

// consumerJSON is a consumer as V2 has it.
type consumerJSON struct {
	Config json.RawMessage `json:"config"`
	State  *stateJSON      `json:"state"`
}

type stateJSON struct {
	Delivered   SequencePair            `json:"delivered"`
	AckFloor    SequencePair            `json:"ack_floor"`
	Pending     map[uint64]*pendingJSON `json:"pending,omitempty"`
	Redelivered map[uint64]uint64       `json:"redelivered,omitempty"`
}

type pendingJSON struct {
	Sequence  uint64
	Timestamp int64
}

// decodeV2Consumer decodes a consumer that takes no more than so many bytes of
// memory.
func decodeV2Consumer(b []byte, most int) (Consumer, error) {
	d := newListDecoder(bytes.NewReader(b), most)
	var c Consumer
	state := false
	err := d.object(func(key string) error {
		switch key {
		case "config":
			return d.value(&c.Config)
		case "state":
			there, err := d.open('{')
			if state, c.State = there, (ConsumerState{}); err == nil && there {
				err = d.v2State(&c.State)
			}
			return err
		}
		return d.value(new(ignored))
	})
	if err == nil {
		err = d.end()
	}
	if err == nil {
		err = d.charge(consumerMemory + len(c.Config))
	}
	if err == nil && (len(c.Config) == 0 || c.Config[0] != '{' || !state) {
		err = corrupt("it lacks its configuration or state")
	}
	c.State.order()
	return c, err
}

// v2State reads a state whose object is open.
func (d *listDecoder) v2State(s *ConsumerState) error {
	return d.members(func(key string) error {
		switch key {
		case "delivered":
			return d.value(&s.Delivered)
		case "ack_floor":
			return d.value(&s.AckFloor)
		case "pending":
			return d.numbered(func(seq uint64) error {
				var p *pendingJSON
				if err := d.value(&p); err != nil {
					return err
				}
				if p == nil || seq == 0 {
					return corrupt("consumer state has sequence %d pending", seq)
				}
				s.Pending = append(s.Pending, Pending{Stream: seq, Consumer: p.Sequence, Time: p.Timestamp})
				return d.charge(pendingMemory)
			})
		case "redelivered":
			return d.numbered(func(seq uint64) error {
				r := Redelivered{Stream: seq}
				if err := d.value(&r.Count); err != nil {
					return err
				}
				s.Redelivered = append(s.Redelivered, r)
				return d.charge(redeliveredMemory)
			})
		}
		return d.value(new(ignored))
	})
}

// numbered hands on the members of an object whose names are numbers.
func (d *listDecoder) numbered(each func(seq uint64) error) error {
	return d.object(func(key string) error {
		seq, err := strconv.ParseUint(key, 10, 64)
		if err != nil {
			return malformed("%q is no sequence", key)
		}
		return each(seq)
	})
}

// order sorts the lists of a state that was decoded; of what is there twice the
// last counts.
func (s *ConsumerState) order() {
	slices.SortStableFunc(s.Pending, func(a, b Pending) int { return compare(a.Stream, b.Stream) })
	slices.SortStableFunc(s.Redelivered, func(a, b Redelivered) int { return compare(a.Stream, b.Stream) })
	s.Pending = lastOf(s.Pending, func(a, b Pending) bool { return a.Stream == b.Stream })
	s.Redelivered = lastOf(s.Redelivered, func(a, b Redelivered) bool { return a.Stream == b.Stream })
}

// lastOf keeps the last of those that are the same.
func lastOf[T any](list []T, same func(a, b T) bool) []T {
	out := list[:0]
	for i := range list {
		if i+1 == len(list) || !same(list[i], list[i+1]) {
			out = append(out, list[i])
		}
	}
	return out
}

func newStateJSON(s ConsumerState) *stateJSON {
	j := &stateJSON{Delivered: s.Delivered, AckFloor: s.AckFloor}
	if len(s.Pending) > 0 {
		j.Pending = make(map[uint64]*pendingJSON, len(s.Pending))
	}
	for _, p := range s.Pending {
		j.Pending[p.Stream] = &pendingJSON{Sequence: p.Consumer, Timestamp: p.Time}
	}
	if len(s.Redelivered) > 0 {
		j.Redelivered = make(map[uint64]uint64, len(s.Redelivered))
	}
	for _, r := range s.Redelivered {
		j.Redelivered[r.Stream] = r.Count
	}
	return j
}

// Clip takes back what the consumer did beyond the stream's last sequence. A
// consumer that is ahead of its stream is not given what comes next.
func (s *ConsumerState) Clip(last uint64) {
	for _, p := range []*SequencePair{&s.Delivered, &s.AckFloor} {
		if p.Stream > last {
			p.Consumer -= min(p.Consumer, p.Stream-last)
			p.Stream = last
		}
	}
	s.Pending = slices.DeleteFunc(s.Pending, func(p Pending) bool { return p.Stream > last })
	s.Redelivered = slices.DeleteFunc(s.Redelivered, func(r Redelivered) bool { return r.Stream > last })
}
