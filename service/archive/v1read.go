package archive

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"jetkeep/store/record"
)

// Members of a V1 tar.
const (
	metaFile   = "meta.inf"
	sumFile    = "meta.sum"
	stateFile  = "o.dat"
	indexFile  = "index.db"
	errorFile  = "errors.txt"
	messageDir = "msgs/"
	obsDir     = "obs/"
	blockExt   = ".blk"
	// What servers up to 2.9 remember of a block. They say nothing that the
	// block and STREAM.INFO do not.
	indexExt    = ".idx"
	subjectsExt = ".fss"
)

// Bounds of members that are held in memory.
const (
	maxMeta  = 32 << 20
	maxState = 96 << 20
	maxFault = 64 << 10
	// usualMeta and usualState are what they may have in any archive.
	usualMeta  = 4 << 20
	usualState = 16 << 20
	// maxBlocks bounds the lists of blocks; 4 Mi blocks of the servers' usual
	// 8 MiB are 32 TiB.
	maxBlocks = 4 << 20
)

type v1Reader struct {
	t      tarReader
	stream string
	v      Visitor
	sum    Summary

	meta   []byte // meta.inf, until meta.sum has confirmed it
	begun  bool   // meta.sum has
	last   uint64 // last record given to the visitor
	rec    blockRecord
	blocks map[uint32]bool // seen
	index  []uint32        // named by index.db

	consumer     string // whose members are being read
	consumerMeta []byte
	confirmed    bool
}

func readV1(w *window, stream string, v Visitor) (Summary, error) {
	r := v1Reader{t: tarReader{w: w}, stream: stream, v: v, blocks: map[uint32]bool{}}
	r.sum.Format = FormatV1
	for {
		err := r.t.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return Summary{}, err
		}
		if err := r.member(); err != nil {
			return Summary{}, fmt.Errorf("member %s: %w", r.t.name, err)
		}
	}
	if !r.begun {
		return Summary{}, corrupt("it has no %s and %s", metaFile, sumFile)
	}
	if r.consumer != "" {
		return Summary{}, corrupt("consumer %s lacks a part", r.consumer)
	}
	r.compareBlocks()
	return r.sum, nil
}

func (r *v1Reader) member() error {
	name := r.t.name
	if name == errorFile {
		b, err := r.t.content(maxFault)
		if err != nil {
			return err
		}
		return &ServerFault{Text: string(b)}
	}
	if rest, ok := strings.CutPrefix(name, obsDir); ok {
		return r.consumerMember(rest)
	}
	if r.consumer != "" {
		return corrupt("consumer %s lacks a part before it", r.consumer)
	}
	switch name {
	case metaFile:
		return r.metadata()
	case sumFile:
		return r.metadataSum()
	}
	base, ok := strings.CutPrefix(name, messageDir)
	if !ok {
		return corrupt("it is not known")
	}
	if !r.begun {
		return corrupt("it comes before %s", sumFile)
	}
	if base == indexFile {
		return r.readIndex()
	}
	number, ext, _ := strings.Cut(base, ".")
	index, err := strconv.ParseUint(number, 10, 32)
	if err != nil || strconv.FormatUint(index, 10) != number {
		return corrupt("it is not known")
	}
	switch "." + ext {
	case blockExt:
		return r.block(uint32(index))
	case indexExt, subjectsExt:
		return r.t.discard()
	}
	return corrupt("it is not known")
}

func (r *v1Reader) metadata() error {
	if r.meta != nil {
		return corrupt("it came before")
	}
	var err error
	r.meta, err = r.t.content(r.t.w.plausible(usualMeta, maxMeta))
	return err
}

func (r *v1Reader) metadataSum() error {
	if r.meta == nil || r.begun {
		return corrupt("it does not follow %s", metaFile)
	}
	if err := r.checkSum(r.meta, streamKey(r.stream)); err != nil {
		return err
	}
	o, err := parseObject(r.meta)
	if err != nil {
		return err
	}
	var name string
	if _, err := o.get("name", &name); err != nil {
		return err
	}
	if name != r.stream {
		return corrupt("it is of stream %q", name)
	}
	if r.sum.Created, r.sum.Config, err = splitCreated(o); err != nil {
		return err
	}
	r.meta, r.begun = []byte{}, true
	return nil
}

// checkSum reads a meta.sum and compares it with what it is the checksum of.
func (r *v1Reader) checkSum(meta []byte, key hashKey) error {
	b, err := r.t.content(64)
	if err != nil {
		return err
	}
	if string(b) != metaSum(meta, key) {
		return corrupt("it does not match %s", metaFile)
	}
	return nil
}

func metaSum(meta []byte, key hashKey) string {
	var b [hashLen]byte
	sum := key.sum(meta)
	for i := range b {
		b[i] = byte(sum >> (8 * i))
	}
	return hex.EncodeToString(b[:])
}

// splitCreated takes what the server adds to a configuration out of it again.
func splitCreated(o object) (created time.Time, config json.RawMessage, err error) {
	if _, err = o.get("Created", &created); err != nil {
		return created, nil, err
	}
	config, err = o.without("Created").encode()
	return created, config, err
}

// block gives the records of a block to the visitor.
func (r *v1Reader) block(index uint32) error {
	duplicate := r.blocks[index]
	if duplicate && !slices.Contains(r.sum.Duplicates, r.t.name) {
		r.sum.Duplicates = append(r.sum.Duplicates, r.t.name)
	}
	if len(r.blocks) >= maxBlocks || len(r.sum.Duplicates) > maxBlocks/64 {
		return fmt.Errorf("%w: %d blocks", ErrTooLarge, len(r.blocks))
	}
	r.blocks[index] = true
	key := blockKey(r.stream, index)
	size := r.t.left
	for r.t.left > 0 {
		at := size - r.t.left
		b, err := r.blockRecord()
		if err != nil {
			return fmt.Errorf("record at byte %d: %w", at, err)
		}
		if err := r.rec.decode(b, &key); err != nil {
			return fmt.Errorf("record at byte %d: %w", at, err)
		}
		if err := r.give(duplicate); err != nil {
			return err
		}
		r.t.skip(len(b))
	}
	return nil
}

// blockRecord returns the bytes of the next record, which stay unconsumed.
func (r *v1Reader) blockRecord() ([]byte, error) {
	if r.t.left < minRec {
		return nil, corrupt("%d bytes are left in the block", r.t.left)
	}
	b := r.t.w.have()
	var err error
	if len(b) < minRec {
		if b, err = r.t.w.need(minRec); err != nil {
			return nil, err
		}
	}
	n, err := recordLen(b)
	if err != nil {
		return nil, err
	}
	if int64(n) > r.t.left {
		return nil, corrupt("record of %d bytes where %d are left in the block", n, r.t.left)
	}
	if len(b) < n {
		if b, err = r.t.w.need(n); err != nil {
			return nil, err
		}
	}
	return b[:n], nil
}

func (r *v1Reader) give(duplicate bool) error {
	rec := &r.rec
	seq := rec.Sequence
	if rec.flags&erasedBit == 0 && rec.flags&tombstoneBit == 0 && seq != 0 {
		if seq > r.last {
			return r.giveRecord(&rec.Record)
		}
		if duplicate {
			return nil
		}
		return corrupt("sequence %d follows %d", seq, r.last)
	}
	r.sum.LastSequence = max(r.sum.LastSequence, seq)
	if rec.flags&tombstoneBit == 0 || seq == 0 {
		return nil
	}
	return r.v.Tombstone(seq)
}

func (r *v1Reader) giveRecord(rec *record.Record) error {
	if len(rec.Subject) == 0 {
		return corrupt("message %d has no subject", rec.Sequence)
	}
	r.last = rec.Sequence
	r.sum.LastSequence = max(r.sum.LastSequence, rec.Sequence)
	r.sum.Records++
	r.sum.Bytes += uint64(rec.Size())
	return r.v.Record(rec)
}

// consumerMember reads one of the three parts of a consumer, which follow each
// other.
func (r *v1Reader) consumerMember(path string) error {
	name, part, _ := strings.Cut(path, "/")
	if !r.begun || name == "" {
		return corrupt("it comes before %s", sumFile)
	}
	if (part == metaFile) != (r.consumer == "") || r.consumer != "" && r.consumer != name {
		return corrupt("parts of consumers are mixed")
	}
	var err error
	switch part {
	case metaFile:
		r.consumer, r.confirmed = name, false
		r.consumerMeta, err = r.t.content(r.t.w.plausible(usualMeta, maxMeta))
		return err
	case sumFile:
		r.confirmed = true
		return r.checkSum(r.consumerMeta, consumerKey(r.stream, name))
	case stateFile:
		if !r.confirmed {
			return corrupt("it comes before %s", sumFile)
		}
		b, err := r.t.content(r.t.w.plausible(usualState, maxState))
		if err != nil {
			return err
		}
		r.consumer = ""
		return r.giveConsumer(name, b)
	}
	return corrupt("it is not known")
}

func (r *v1Reader) giveConsumer(name string, state []byte) error {
	c := Consumer{Name: name}
	o, err := parseObject(r.consumerMeta)
	if err != nil {
		return err
	}
	var inner string
	if _, err := o.get("Name", &inner); err != nil {
		return err
	}
	// Servers up to 2.6 leave it empty.
	if inner != name && inner != "" {
		return corrupt("consumer %s says that it is %q", name, inner)
	}
	if c.Created, c.Config, err = splitCreated(o.without("Name")); err != nil {
		return err
	}
	if c.State, err = DecodeConsumerState(state); err != nil {
		return err
	}
	r.sum.Consumers++
	return r.v.Consumer(c)
}

// compareBlocks notes which of the blocks that index.db names the archive lacks.
func (r *v1Reader) compareBlocks() {
	newest := uint32(0)
	for i := range r.blocks {
		newest = max(newest, i)
	}
	for _, i := range r.index {
		switch {
		case r.blocks[i]:
		case i > newest && len(r.blocks) > 0:
			r.sum.LaterBlocks = append(r.sum.LaterBlocks, i)
		default:
			r.sum.MissingBlocks = append(r.sum.MissingBlocks, i)
		}
	}
}
