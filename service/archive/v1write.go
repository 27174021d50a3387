package archive

import (
	"archive/tar"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/klauspost/compress/s2"

	"jetkeep/store/record"
)

const (
	// writtenBlock is the size of the blocks that are written, as servers make
	// them. One block is held in memory, for a tar names sizes in advance.
	writtenBlock = 8 << 20
	// firstBlock is what a small stream takes.
	firstBlock = 64 << 10
)

// Meta describes the stream of a V1 archive.
type Meta struct {
	Stream string // the name to restore it under
	// Config must be the configuration that the restore request has, as the
	// server completes it with defaults (max_msgs_per_subject -1, not 0). If
	// they differ, servers of 2.10 to 2.14 update the stream, and after
	// their next start it is created at the time of the restore. Its name is
	// replaced by Stream.
	Config  json.RawMessage
	Created time.Time
	// LastTime is the time of the last sequence if that has no message any
	// more. Zero means the time of the last message.
	LastTime time.Time
	// Server is the version of the server that is to restore the archive, as
	// it says itself. Those before 2.10 need more than later ones, which
	// makes an archive of a stream with many gaps larger. Empty means 2.10
	// or later.
	Server      string
	Compression Compression
}

// Compression is how an archive is compressed. Servers read either.
type Compression int

const (
	// Compressed is for any network.
	Compressed Compression = iota
	// Stored only frames the content. It is for a server on the same machine,
	// where compressing takes most of the writer's time.
	Stored
)

// newS2 makes a compressor without goroutines of its own, which needs no
// cleaning up.
func newS2(w io.Writer, c Compression) *s2.Writer {
	o := []s2.WriterOption{s2.WriterConcurrency(1)}
	if c == Stored {
		o = append(o, s2.WriterUncompressed())
	}
	return s2.NewWriter(w, o...)
}

// needs is what servers cannot do without.
type needs struct {
	// gapless: up to 2.8 a server finds a message by its position in the
	// block, so that each sequence within one needs a record, if an empty one.
	gapless bool
	// index: up to 2.9 a server takes the last sequence of an empty block
	// from the index beside it, not from a skip record.
	index bool
}

func needsOf(server string) needs {
	var major, minor int
	if n, _ := fmt.Sscanf(server, "%d.%d", &major, &minor); n < 2 || major != 2 {
		return needs{}
	}
	return needs{gapless: minor < 9, index: minor < 10}
}

// maxFill is the longest gap that is filled with empty records where there must
// be none; a longer one begins a new block.
const maxFill = 1 << 10

// A V1Writer writes a V1 archive. Its methods must be called in the order
// Record, Consumer, Close; the first error is kept and returned by all later
// calls. A writer that is not to be finished needs no closing.
type V1Writer struct {
	s2     *s2.Writer
	tar    *tar.Writer
	stream string
	needs  needs
	now    time.Time
	err    error

	index    uint32 // of the block that is being filled
	key      hashKey
	block    []byte
	last     uint64
	lastTime int64
	endTime  time.Time

	consumers []member
}

type member struct {
	name string
	data []byte
}

// NewV1Writer begins an archive. Errors show at the next call.
func NewV1Writer(w io.Writer, m Meta) *V1Writer {
	enc := newS2(w, m.Compression)
	v := &V1Writer{
		s2: enc, tar: tar.NewWriter(enc), stream: m.Stream, needs: needsOf(m.Server), now: time.Now().UTC(),
		index: 1, key: blockKey(m.Stream, 1), endTime: m.LastTime, lastTime: m.Created.UnixNano(),
	}
	if m.Created.IsZero() {
		v.lastTime = 0
	}
	v.err = v.begin(m)
	return v
}

// writable says whether a name comes back from an archive as it went in: it is a
// file's name there, and a string of JSON, which is UTF-8 or gets changed. No
// server gives another one.
func writable(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.ContainsAny(name, "/\\\x00") && utf8.ValidString(name)
}

func (v *V1Writer) begin(m Meta) error {
	if !writable(m.Stream) {
		return fmt.Errorf("write archive: invalid stream name %q", m.Stream)
	}
	o, err := parseObject(m.Config)
	if err != nil {
		return fmt.Errorf("configuration of stream %s: %w", m.Stream, err)
	}
	if o, err = o.with("name", m.Stream); err != nil {
		return err
	}
	meta, err := metaOf(o, m.Created)
	if err != nil {
		return err
	}
	if err := v.member(metaFile, meta); err != nil {
		return err
	}
	return v.member(sumFile, []byte(metaSum(meta, streamKey(m.Stream))))
}

// metaOf puts the creation time in front of a configuration.
func metaOf(o object, created time.Time) ([]byte, error) {
	o, err := o.without("Created").with("Created", created.UTC())
	if err != nil {
		return nil, err
	}
	return o.encode()
}

// Record adds a message, whose sequence must be higher than the last.
func (v *V1Writer) Record(r *record.Record) error {
	if v.err != nil {
		return v.err
	}
	switch {
	case r.Sequence <= v.last || r.Sequence >= tombstoneBit:
		v.err = fmt.Errorf("%w: message %d after message %d", ErrOrder, r.Sequence, v.last)
	case len(v.consumers) > 0:
		v.err = fmt.Errorf("%w: message %d after a consumer", ErrOrder, r.Sequence)
	case len(r.Subject) == 0:
		v.err = fmt.Errorf("message %d: %w", r.Sequence, record.ErrInvalid)
	default:
		if v.err = v.gap(r.Sequence); v.err == nil {
			v.err = v.append(r, 0)
		}
	}
	return v.err
}

// gap does what the server needs before a record of that sequence.
func (v *V1Writer) gap(next uint64) error {
	if !v.needs.gapless || len(v.block) == 0 {
		return nil
	}
	if next-v.last > maxFill {
		return v.flush()
	}
	for seq := v.last + 1; seq < next && len(v.block) > 0; seq++ {
		if err := v.append(&record.Record{Sequence: seq, Time: v.lastTime}, erasedBit); err != nil {
			return err
		}
	}
	return nil
}

func (v *V1Writer) append(r *record.Record, flags uint64) error {
	size := minRec + 4 + len(r.Subject) + len(r.Header) + len(r.Data)
	if len(v.block) > 0 && len(v.block)+size > writtenBlock {
		if err := v.flush(); err != nil {
			return err
		}
	}
	if v.block == nil {
		v.block = make([]byte, 0, min(writtenBlock, max(size, firstBlock)))
	}
	var err error
	v.block, err = appendBlockRecord(v.block, r, flags, &v.key)
	v.last, v.lastTime = r.Sequence, r.Time
	return err
}

func (v *V1Writer) flush() error {
	if len(v.block) == 0 {
		return nil
	}
	if err := v.member(messageDir+strconv.FormatUint(uint64(v.index), 10)+blockExt, v.block); err != nil {
		return err
	}
	v.index++
	v.key = blockKey(v.stream, v.index)
	v.block = v.block[:0]
	if cap(v.block) > 2*writtenBlock {
		v.block = nil
	}
	return nil
}

// Consumer adds a consumer. Consumers are held in memory until Close.
func (v *V1Writer) Consumer(c Consumer) error {
	if v.err != nil {
		return v.err
	}
	v.err = v.consumer(c)
	return v.err
}

func (v *V1Writer) consumer(c Consumer) error {
	if !writable(c.Name) {
		return fmt.Errorf("write archive: invalid consumer name %q", c.Name)
	}
	o, err := parseObject(c.Config)
	if err != nil {
		return fmt.Errorf("configuration of consumer %s: %w", c.Name, err)
	}
	if o, err = o.without("Name").with("Name", c.Name); err != nil {
		return err
	}
	meta, err := metaOf(o, c.Created)
	if err != nil {
		return err
	}
	dir := obsDir + c.Name + "/"
	v.consumers = append(v.consumers,
		member{dir + metaFile, meta},
		member{dir + sumFile, []byte(metaSum(meta, consumerKey(v.stream, c.Name)))},
		member{dir + stateFile, AppendConsumerState(nil, c.State)})
	return nil
}

// Close ends the archive of a stream whose last sequence is lastSeq, the next
// one that a restored stream gives being one more.
func (v *V1Writer) Close(lastSeq uint64) error {
	if v.err != nil {
		return v.err
	}
	if v.err = v.close(lastSeq); v.err != nil {
		return v.err
	}
	v.err = fmt.Errorf("%w: archive is closed", ErrOrder)
	return nil
}

func (v *V1Writer) close(lastSeq uint64) error {
	if lastSeq < v.last || lastSeq >= tombstoneBit {
		return fmt.Errorf("%w: last sequence %d after message %d", ErrOrder, lastSeq, v.last)
	}
	if err := v.tail(lastSeq); err != nil {
		return err
	}
	for _, m := range v.consumers {
		if err := v.member(m.name, m.data); err != nil {
			return err
		}
	}
	if err := v.tar.Close(); err != nil {
		return err
	}
	return v.s2.Close()
}

// tail writes the last block, and what says that sequences follow it.
func (v *V1Writer) tail(lastSeq uint64) error {
	at := v.lastTime
	if !v.endTime.IsZero() {
		at = v.endTime.UnixNano()
	}
	if lastSeq > v.last && !v.needs.index {
		if err := v.append(&record.Record{Sequence: lastSeq, Time: at}, erasedBit); err != nil {
			return err
		}
	}
	if err := v.flush(); err != nil || lastSeq == v.last {
		return err
	}
	base := messageDir + strconv.FormatUint(uint64(v.index), 10)
	if err := v.member(base+indexExt, emptyIndex(lastSeq, at)); err != nil {
		return err
	}
	return v.member(base+blockExt, nil)
}

// emptyIndex is the index of an empty block that servers up to 2.9 make when a
// stream is purged.
func emptyIndex(last uint64, at int64) []byte {
	b := []byte{indexFileMagic, indexFileVersion, 0, 0} // no messages, no bytes
	b = binary.AppendUvarint(b, last+1)
	b = binary.AppendVarint(b, 0)
	b = binary.AppendUvarint(b, last)
	b = binary.AppendVarint(b, at)
	return append(b, make([]byte, 1+hashLen)...) // none deleted, no record to check
}

func (v *V1Writer) member(name string, data []byte) error {
	h := &tar.Header{Name: name, Mode: 0o600, ModTime: v.now.Truncate(time.Second), Uname: "nats", Gname: "nats", Size: int64(len(data))}
	if err := v.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("write member %s: %w", name, err)
	}
	if _, err := v.tar.Write(data); err != nil {
		return fmt.Errorf("write member %s: %w", name, err)
	}
	return nil
}
