package archive

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// MaxConsumersMemory bounds what the consumers of one stream may take in memory,
// by Memory: 2 million pending messages, or more than 50,000 consumers.
const MaxConsumersMemory = 48 << 20

// maxValue bounds a single value, such as a configuration.
const maxValue = 16 << 20

// What parts of a consumer take in memory, besides what is counted byte by byte.
const (
	consumerMemory    = 160
	pendingMemory     = 24
	redeliveredMemory = 16
)

// Memory returns about how many bytes the consumer takes.
func (c *Consumer) Memory() int {
	return consumerMemory + len(c.Name) + len(c.Config) + c.State.memory()
}

func (s *ConsumerState) memory() int {
	return pendingMemory*len(s.Pending) + redeliveredMemory*len(s.Redelivered)
}

// ErrMalformed means that consumers are not encoded as they must be.
var ErrMalformed = errors.New("consumers cannot be decoded")

// ReadConsumers decodes consumers that were encoded as a JSON array, reading bit
// by bit. It fails with ErrTooLarge if they take more than so many bytes of
// memory: a few bytes can unpack to any number of them.
func ReadConsumers(r io.Reader, most int) ([]Consumer, error) {
	d := newListDecoder(r, most)
	var out []Consumer
	err := d.array(func() error {
		c, err := d.consumer()
		if err == nil {
			out = append(out, c)
		}
		return err
	})
	if err == nil {
		err = d.end()
	}
	if err != nil {
		return nil, fmt.Errorf("consumer %d: %w", len(out)+1, err)
	}
	return out, nil
}

// A listDecoder decodes what can be long without holding it.
type listDecoder struct {
	*json.Decoder
	in   *meter
	left int // bytes of memory
}

func newListDecoder(r io.Reader, most int) *listDecoder {
	in := &meter{r: r, left: maxValue}
	return &listDecoder{Decoder: json.NewDecoder(in), in: in, left: most}
}

// A meter fails where one value takes too much: a decoder keeps all of it.
type meter struct {
	r    io.Reader
	left int
}

func (m *meter) Read(b []byte) (int, error) {
	if m.left <= 0 {
		return 0, fmt.Errorf("%w: a value of more than %d bytes", ErrTooLarge, maxValue)
	}
	n, err := m.r.Read(b[:min(len(b), m.left)])
	m.left -= n
	return n, err //nolint:wrapcheck // the reader's own
}

// charge counts memory.
func (d *listDecoder) charge(n int) error {
	if d.left -= n; d.left < 0 {
		return fmt.Errorf("%w: the consumers of one stream", ErrTooLarge)
	}
	return nil
}

func (d *listDecoder) value(into any) error {
	d.in.left = maxValue
	return fault(d.Decode(into))
}

func (d *listDecoder) token() (json.Token, error) {
	d.in.left = maxValue
	t, err := d.Token()
	return t, fault(err)
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
}

// fault passes on what the reader failed with, and tells what is malformed.
func fault(err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax), errors.As(err, &kind):
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return malformed("JSON ends early")
	}
	return err
}

// end makes sure that nothing follows.
func (d *listDecoder) end() error {
	d.in.left = maxValue
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return malformed("data after the end")
	}
	return nil
}

// open reads the beginning of an array or object. It returns false for null.
func (d *listDecoder) open(want json.Delim) (bool, error) {
	t, err := d.token()
	if err == nil && t != nil && t != want {
		err = malformed("%v where %v belongs", t, want)
	}
	return t != nil, err
}

// array hands on to each the elements of an array, which it must consume.
func (d *listDecoder) array(each func() error) error {
	there, err := d.open('[')
	if err != nil || !there {
		return err
	}
	for d.More() {
		if err := each(); err != nil {
			return err
		}
	}
	_, err = d.token()
	return err
}

// object hands on the members of an object by name; each must consume the value.
func (d *listDecoder) object(each func(key string) error) error {
	there, err := d.open('{')
	if err != nil || !there {
		return err
	}
	return d.members(each)
}

// members is object once the object is open.
func (d *listDecoder) members(each func(key string) error) error {
	for d.More() {
		t, err := d.token()
		if err != nil {
			return err
		}
		key, ok := t.(string)
		if !ok {
			return malformed("%v is no name", t)
		}
		if err := each(key); err != nil {
			return err
		}
	}
	_, err := d.token()
	return err
}

func (d *listDecoder) consumer() (Consumer, error) {
	var c Consumer
	err := d.object(func(key string) error {
		switch key {
		case "name":
			return d.value(&c.Name)
		case "created":
			return d.value(&c.Created)
		case "config":
			return d.value(&c.Config)
		case "state":
			return d.state(&c.State)
		}
		return d.value(new(ignored))
	})
	if err == nil && (c.Name == "" || len(c.Config) == 0) {
		err = malformed("a consumer without a name or configuration")
	}
	if err == nil {
		err = d.charge(consumerMemory + len(c.Name) + len(c.Config))
	}
	return c, err
}

// ignored is a value that is not known.
type ignored struct{}

// UnmarshalJSON implements json.Unmarshaler.
func (*ignored) UnmarshalJSON([]byte) error { return nil }

func (d *listDecoder) state(s *ConsumerState) error {
	return d.object(func(key string) error {
		switch key {
		case "delivered":
			return d.value(&s.Delivered)
		case "ack_floor":
			return d.value(&s.AckFloor)
		case "pending":
			return d.array(func() error {
				var p Pending
				if err := d.value(&p); err != nil {
					return err
				}
				if p.Stream == 0 {
					return malformed("sequence 0 is pending")
				}
				s.Pending = append(s.Pending, p)
				return d.charge(pendingMemory)
			})
		case "redelivered":
			return d.array(func() error {
				var r Redelivered
				if err := d.value(&r); err != nil {
					return err
				}
				s.Redelivered = append(s.Redelivered, r)
				return d.charge(redeliveredMemory)
			})
		}
		return d.value(new(ignored))
	})
}

// CheckMemory fails with ErrTooLarge if consumers take more memory than those who
// read them allow.
func CheckMemory(consumers []Consumer) error {
	left := MaxConsumersMemory
	for i := range consumers {
		if left -= consumers[i].Memory(); left < 0 {
			return fmt.Errorf("%w: %d consumers of one stream", ErrTooLarge, len(consumers))
		}
	}
	return nil
}
