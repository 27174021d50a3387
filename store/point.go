package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"jetkeep/store/record"
	"jetkeep/store/seqset"
)

// A Point is a restore point: one stream as it was at one moment. The caller
// fills it; Content comes from Writer.Finish, Consumers from PutConsumers.
type Point struct {
	ID      string `json:"id"`     // the same as Task
	Backup  string `json:"backup"` // the session that made it
	Task    string `json:"task"`   // names the commit record
	Target  string `json:"target"`
	Stream  string `json:"stream"`
	Lineage string `json:"lineage"`
	// Created is when the stream was made, Time the moment that the point shows.
	Created time.Time       `json:"created"`
	Time    time.Time       `json:"time"`
	Config  json.RawMessage `json:"config"` // as the server gave it
	State   State           `json:"state"`
	// Sources is how far the stream had come with each of those it takes its
	// messages from, as the server gave it.
	Sources json.RawMessage `json:"sources,omitempty"`
	Server  string          `json:"server"` // its version
	// Engine is how it was captured: snapshot_v1, snapshot_v2 or messages.
	Engine    string            `json:"engine"`
	Tags      map[string]string `json:"tags,omitempty"`
	Notes     []string          `json:"notes,omitempty"`
	Content   Content           `json:"content"`
	Consumers Consumers         `json:"consumers"`

	// Chain is where its objects lie and Number its place in the chain's log,
	// of a restore point that was read. Format 1 has neither.
	Chain  string `json:"-"`
	Number uint64 `json:"-"`
	// Retained is until when the store promised, at the commit, to keep all that
	// it needs; zero if it promised nothing. Who commits need not set it.
	Retained time.Time `json:"-"`
}

// where returns the chain that the objects lie in, also of a restore point that
// is not committed yet.
func (p *Point) where() string {
	if p.Chain != "" {
		return p.Chain
	}
	return p.Content.chain
}

// State is the stream's state at the moment, as the server reported it.
type State struct {
	Messages   uint64    `json:"messages"`
	Bytes      uint64    `json:"bytes"`
	FirstSeq   uint64    `json:"first_seq"`
	LastSeq    uint64    `json:"last_seq"`
	FirstTime  time.Time `json:"first_time"`
	LastTime   time.Time `json:"last_time"`
	NumDeleted uint64    `json:"num_deleted"`
	Consumers  int       `json:"consumers"`
}

// Content is what a restore point holds and where. Messages, FirstSeq and
// LastSeq are those of the live records, stored and not deleted; Bytes and
// Digest are over those and Extra.
type Content struct {
	Messages uint64 `json:"messages"`
	Bytes    uint64 `json:"bytes"` // of the records' encodings
	FirstSeq uint64 `json:"first_seq"`
	LastSeq  uint64 `json:"last_seq"`
	Digest   string `json:"digest"` // record.Sum
	Segments int    `json:"segments"`
	Packs    int    `json:"packs"`
	// RawBytes and StoredBytes are the size of everything referred to, before
	// and after compression; NewBytes is what had to be uploaded for it.
	RawBytes    uint64 `json:"raw_bytes"`
	StoredBytes uint64 `json:"stored_bytes"`
	NewBytes    uint64 `json:"new_bytes"`
	Tables      Tables `json:"tables"`
	// Deleted are the sequences stored and not live. Extra are those of them
	// that Bytes and Digest count all the same: the capture read them, and they
	// were deleted before the moment.
	Deleted Deleted `json:"deleted"`
	Extra   Deleted `json:"extra,omitzero"`

	// Uses names every object that is needed, but consumers. Since is the number
	// of the chain's last entry before anything that is used was looked up, and
	// Epoch what new objects are named with. Commit needs them.
	Uses  Uses   `json:"-"`
	Since uint64 `json:"-"`
	Epoch uint64 `json:"-"`
	chain string
}

// place returns where the content's own metadata lies.
func (c *Content) place() place { return place{chain: c.chain, since: c.Since, epoch: c.Epoch} }

// Tables refers to the tables of a restore point, in order: in a list, or if
// there are many in a Blob that holds the list as JSON.
type Tables struct {
	Count int        `json:"count"`
	List  []TableRef `json:"list,omitempty"`
	Blob
}

// A TableRef is a table and what it reaches over.
type TableRef struct {
	Blob
	Segments int    `json:"segments"`
	First    uint64 `json:"first"`
	Last     uint64 `json:"last"`
	Count    uint64 `json:"count"` // of records stored, deleted ones included
}

// Deleted refers to the set of sequences that are stored but not live, in its
// binary encoding.
type Deleted struct {
	Count uint64 `json:"count"`
	Blob
}

// Consumers refers to the stream's consumers, a JSON array.
type Consumers struct {
	Count int `json:"count"`
	Blob
}

// Bounds of what a commit record holds itself.
const (
	maxInlineTable     = 4 << 10
	maxInlineProof     = 2 << 10
	maxInlineTables    = 64
	maxInlineDeleted   = 4 << 10
	maxInlineConsumers = 16 << 10
)

// PutConsumers stores the consumers of the stream whose content a Writer has
// stored, each a JSON document that only the caller understands.
func (r *Repository) PutConsumers(ctx context.Context, of Content, consumers []json.RawMessage) (Consumers, error) {
	c := Consumers{Count: len(consumers)}
	if c.Count == 0 {
		return c, nil
	}
	payload, err := marshal(consumers)
	if err == nil {
		c.Blob, _, err = r.putBlob(ctx, of.place(), kindConsumers, payload, maxInlineConsumers)
	}
	if err != nil {
		return Consumers{}, fmt.Errorf("store consumers: %w", err)
	}
	return c, nil
}

// Consumers has the consumers of a restore point decoded, a JSON array that is
// unpacked while decode reads it. decode returns how many there were. It is not
// called if there are none. What it fails with is damage, unless it is ErrBounds:
// then they are only more than the caller takes.
func (r *Repository) Consumers(ctx context.Context, p Point, decode func(io.Reader) (int, error)) error {
	c := p.Consumers
	if c.Count == 0 {
		return nil
	}
	payload, err := r.openBlob(ctx, p.where(), kindConsumers, c.Blob)
	if err != nil {
		return fmt.Errorf("read consumers of %s: %w", p.ID, err)
	}
	defer payload.Close()
	n, err := decode(payload)
	if errors.Is(err, ErrBounds) {
		return fmt.Errorf("read consumers of %s: %w", p.ID, err)
	}
	if err == nil && n != c.Count {
		err = fmt.Errorf("%d consumers, not %d", n, c.Count)
	}
	if err != nil {
		return damagedBy(commitName(p.Task), err, "consumers")
	}
	return nil
}

// maxConsumerToken bounds one name, string or number in a consumer, where nobody
// needs it but to count it. The whole of a consumer can have any size.
const maxConsumerToken = 32 << 20

// countConsumers reads the consumers and keeps none.
func countConsumers(r io.Reader) (n int, err error) {
	err = readList(r, maxConsumerToken, func(d *json.Decoder, m *metered) error {
		n++
		return skipValue(d, m)
	})
	return n, err
}

// DeletedSet reads the sequences that a restore point stores but that are not
// live.
func (r *Repository) DeletedSet(ctx context.Context, p Point) (*seqset.Packed, error) {
	return r.deletedSet(ctx, p, kindDeleted, p.Content.Deleted)
}

// ExtraSet reads the sequences that are not live and count in the digest.
func (r *Repository) ExtraSet(ctx context.Context, p Point) (*seqset.Packed, error) {
	return r.deletedSet(ctx, p, kindExtra, p.Content.Extra)
}

func (r *Repository) deletedSet(ctx context.Context, p Point, k kind, d Deleted) (*seqset.Packed, error) {
	if d.Count == 0 {
		return nil, nil //nolint:nilnil // the empty set
	}
	payload, err := r.getBlob(ctx, p.where(), k, d.Blob)
	if err != nil {
		return nil, fmt.Errorf("read deleted set of %s: %w", p.ID, err)
	}
	set, err := seqset.ParsePacked(payload)
	if err == nil && set.Len() != d.Count {
		err = fmt.Errorf("%d sequences, not %d", set.Len(), d.Count)
	}
	if err != nil {
		return nil, damaged(commitName(p.Task), err, "deleted set")
	}
	return set, nil
}

// putTables stores the list of tables.
func (r *Repository) putTables(ctx context.Context, at place, refs []TableRef) (Tables, int64, error) {
	t := Tables{Count: len(refs)}
	if len(refs) <= maxInlineTables {
		t.List = refs
		return t, 0, nil
	}
	payload, err := marshal(refs)
	if err != nil {
		return t, 0, err
	}
	var uploaded int64
	t.Blob, uploaded, err = r.putBlob(ctx, at, kindTables, payload, 0)
	return t, uploaded, err
}

// tables reads the list of tables.
func (r *Repository) tables(ctx context.Context, p Point) ([]TableRef, error) {
	t := p.Content.Tables
	refs := t.List
	if t.Ref != nil {
		payload, err := r.openBlob(ctx, p.where(), kindTables, t.Blob)
		if err != nil {
			return nil, fmt.Errorf("read table list of %s: %w", p.ID, err)
		}
		defer payload.Close()
		refs = nil
		err = decodeList(payload, maxTableRef, func(ref TableRef) error {
			refs = append(refs, ref)
			return ref.check(len(refs), t.Count)
		})
		if err != nil {
			return nil, damagedBy(commitName(p.Task), err, "list of tables")
		}
	}
	if len(refs) != t.Count {
		return nil, damaged(commitName(p.Task), nil, "%d tables, not %d", len(refs), t.Count)
	}
	return refs, nil
}

// maxTableRef bounds the encoding of a reference to a table, which may have the
// table itself in base64.
const maxTableRef = 8 << 10

// check refuses a reference in a list that is none, or one too many: as many as
// fit into the list's bytes would take far more memory. A table that was alone in
// the restore point which is built on may be inline here, too.
func (t *TableRef) check(number, count int) error {
	if number > count || t.Ref == nil && (len(t.Data) == 0 || len(t.Data) > maxInlineTable) {
		return fmt.Errorf("%w: table %d of %d", errMalformed, number, count)
	}
	if t.Ref == nil {
		return nil
	}
	_, err := t.Ref.hash()
	return err
}

// table reads a table and checks it against its reference.
func (r *Repository) table(ctx context.Context, p Point, ref TableRef) ([]located, error) {
	k, decode := kindTable, decodeTable
	if r.marker.Format == 1 {
		k, decode = kindTable1, decodeTable1
	}
	payload, err := r.getBlob(ctx, p.where(), k, ref.Blob)
	if err != nil {
		return nil, fmt.Errorf("read table of %s: %w", p.ID, err)
	}
	segments, err := decode(payload)
	name := commitName(p.Task)
	if ref.Ref != nil {
		if h, err := ref.Ref.hash(); err == nil {
			name = r.metaName(p.where(), h)
		}
	}
	if err != nil {
		return nil, damaged(name, err, "table")
	}
	if got := describeTable(segments); got.Segments != ref.Segments || got.First != ref.First || got.Last != ref.Last || got.Count != ref.Count {
		return nil, damaged(name, nil, "table of %d segments %d-%d is not the one referred to", got.Segments, got.First, got.Last)
	}
	return segments, nil
}

func describeTable(segments []located) TableRef {
	ref := TableRef{Segments: len(segments), First: segments[0].first}
	for i := range segments {
		ref.Last = max(ref.Last, segments[i].last)
		ref.Count += segments[i].count
	}
	return ref
}

// sum returns the digest that live and extra records must have.
func (c *Content) sum() (record.Sum, error) {
	return record.ParseSum(c.Digest, c.Messages+c.Extra.Count)
}
