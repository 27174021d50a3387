// Package archive decodes and encodes the two formats of JetStream stream
// snapshots and translates both from and to canonical records and consumer
// states.
//
// V1 is what servers up to 2.14 send and what all servers restore: an S2
// stream of a tar that holds the stream's blocks as they lie on its disk. V2,
// NATSARC1, is what servers from 2.15 on send and restore: an S2 stream of one
// entry for each message.
//
// # What is guaranteed
//
// Read returns nil only if the archive is whole: it began with a known format,
// every frame, record and metadata checksum was right, it ended with its
// format's end mark and nothing followed it. A cut or changed byte is therefore
// an error, and so is an archive in which the server noted that it failed,
// although servers give such archives out as good ones. Memory is bounded by
// the largest record, not by the archive, its members, or any length that it
// claims.
//
// That an archive is whole does not make it a full copy of the stream. Servers
// leave out blocks of a stream that rolls, and messages that were deleted ahead
// of their cursor. What is known of that is in Summary; whether it is enough is
// for the caller to prove.
//
// # When it fails
//
// With ErrFormat if the input is no snapshot, ErrTruncated if it ends early,
// ErrCorrupt if it contradicts itself, ErrTooLarge if a part exceeds what a
// server accepts, and *ServerFault if the server reports its own failure inside
// the archive. Errors of the reader, the writer and the Visitor are passed on.
package archive

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"jetkeep/store/record"
	"jetkeep/store/seqset"
)

var (
	// ErrFormat means that the input is no snapshot of a known format.
	ErrFormat = errors.New("not a known snapshot format")
	// ErrTruncated means that the input ends before the archive does.
	ErrTruncated = errors.New("archive is truncated")
	// ErrCorrupt means that the archive contradicts itself.
	ErrCorrupt = errors.New("archive is corrupt")
	// ErrTooLarge means that a part of an archive is larger than a server accepts,
	// or than may be kept in memory. Nothing is damaged.
	ErrTooLarge = errors.New("too large for an archive")
	// ErrOrder means that a writer was given parts in the wrong order.
	ErrOrder = errors.New("parts of an archive out of order")
)

// A ServerFault is a failure that the server noted inside its archive, which it
// may nevertheless have handed out as complete.
type ServerFault struct{ Text string }

func (e *ServerFault) Error() string {
	return fmt.Sprintf("server failed while it made the snapshot: %s", e.Text)
}

// A Format is one of the formats of a snapshot.
type Format int

const (
	FormatV1 Format = 1 // servers up to 2.14
	FormatV2 Format = 2 // servers from 2.15
)

func (f Format) String() string {
	switch f {
	case FormatV1:
		return "v1"
	case FormatV2:
		return "v2"
	}
	return fmt.Sprintf("format %d", int(f))
}

// A Visitor receives what an archive holds, in the archive's order. An error
// ends the reading and is returned by Read.
type Visitor interface {
	// Record is given the live records with strictly rising sequences. The
	// record and its slices are valid until it returns.
	Record(*record.Record) error
	// Tombstone is given sequences that were deleted after their record was
	// written, which may come before it, after it or without it. Only V1 has them.
	Tombstone(seq uint64) error
	Consumer(Consumer) error
}

// A Summary describes an archive that was read to its end.
type Summary struct {
	Format Format

	// Config and Created come from the meta.inf of V1, the configuration as
	// the server wrote it, without the creation time that it adds to it.
	Config  json.RawMessage
	Created time.Time
	// State is the state.json of V2: the stream when the snapshot began.
	State json.RawMessage

	Records   uint64 // given to the Visitor
	Bytes     uint64 // length of their encodings
	Consumers int
	// LastSequence is the highest sequence that the archive names: in a
	// record, tombstone or skip record of V1, as the stream's last in V2.
	// Servers up to 2.9 name none that has no record any more.
	LastSequence uint64

	// Duplicates are the V1 members that came more than once. Records that
	// had been given already were not given again.
	Duplicates []string
	// MissingBlocks are blocks below the last one in the archive which V1's
	// index.db names and the archive lacks.
	MissingBlocks []uint32
	// LaterBlocks are blocks that index.db names above the archive's last one;
	// the server began them while it made the snapshot.
	LaterBlocks []uint32
	HasIndex    bool
	// Index is what V1's index.db says of the stream, if there is one.
	Index IndexState
}

// An IndexState is the stream as index.db has it. A message below First, or one
// of Deleted, was deleted although its record may still be in a block.
type IndexState struct {
	Messages uint64
	First    uint64
	Last     uint64
	Deleted  *seqset.Set
}

// Read decodes the S2-compressed snapshot of the named stream and gives its
// content to v. It reads r up to its end, so that an error of r that follows
// the archive is not missed.
//
// What v was given is meaningful only if the error is nil.
func Read(r io.Reader, stream string, v Visitor) (Summary, error) {
	w := newWindow(r)
	head, err := w.need(len(record.Magic))
	if err != nil {
		return Summary{}, fmt.Errorf("read archive of stream %s: %w", stream, err)
	}
	var sum Summary
	if string(head[:len(record.Magic)]) == record.Magic {
		sum, err = readV2(w, v)
	} else {
		sum, err = readV1(w, stream, v)
	}
	if err == nil {
		err = w.finish()
	}
	if err != nil {
		return Summary{}, fmt.Errorf("read archive of stream %s: %w", stream, err)
	}
	return sum, nil
}

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrCorrupt}, args...)...)
}
