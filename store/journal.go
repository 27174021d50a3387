package store

import (
	"context"
	"crypto/hmac"
	"encoding/hex"
	"encoding/json"
	"errors"
)

// A Journal remembers, for a few days, packs whose upload was begun, by a name
// that only holders of the writer key can make. Sealing the same records twice
// gives different packs, so that an attempt which follows one that failed finds
// in no store what it would upload again. Losing a journal costs those uploads
// and nothing else, so that its methods return no errors. They must end by a
// deadline of their own.
type Journal interface {
	// Uploaded returns what was noted under a key, nil for nothing. Whether it
	// arrived is for the store to say.
	Uploaded(ctx context.Context, key string) []byte
	// NoteUpload notes a value of at most 4 KiB, before the upload.
	NoteUpload(ctx context.Context, key string, value []byte)
}

// minJournalled is the stored size from which a pack is worth a note.
const minJournalled = 1 << 20

// journalled is what is noted about a pack.
type journalled struct {
	Hash  string `json:"hash"`
	Size  uint64 `json:"size"`
	Proof Blob   `json:"proof"`
	// MAC is over the key and the others, under the writer key: who can write
	// to the journal shall not be able to have one pack taken for another.
	MAC []byte `json:"mac,omitempty"`
}

// sum returns the MAC that the note must have.
func (j journalled) sum(r *Repository, key string) ([]byte, error) {
	j.MAC = nil
	b, err := marshal(j)
	if err != nil {
		return nil, err
	}
	return r.sealer.MAC("uploaded pack", r.marker.ID, key, string(b)), nil
}

// journalKey names a pack by what it holds before it is sealed: its index has
// the hashes of its segments, and the epoch. It is empty if there is nothing to
// gain by a note.
func (w *Writer) journalKey(index []byte, stored uint64) string {
	r := w.repo
	if r.journal == nil || r.sealer == nil || stored < minJournalled {
		return ""
	}
	mac := r.sealer.MAC("pack index", r.marker.ID, w.place.chain, string(index))
	return hex.EncodeToString(mac)
}

// noted reads a note. One of another version is none, and so is one that
// somebody without the writer key made.
func (r *Repository) noted(key string, note []byte) (j journalled, ok bool) {
	if json.Unmarshal(note, &j) != nil {
		return j, false
	}
	sum, err := j.sum(r, key)
	return j, err == nil && sum != nil && hmac.Equal(sum, j.MAC)
}

// reuse looks for the same pack of an attempt before and, if it is there whole,
// has the segments refer to that.
func (w *Writer) reuse(pack *packFile) (bool, error) {
	if pack.key == "" {
		return false, nil
	}
	j, ok := w.repo.noted(pack.key, w.repo.journal.Uploaded(w.ctx, pack.key))
	if !ok {
		return false, nil
	}
	h, err := (&Ref{Hash: j.Hash, Size: 1, Raw: 1}).hash()
	if err != nil {
		return false, err
	}
	there, err := w.whole(w.repo.packName(w.place.chain, h), int64(j.Size))
	if !there || err != nil {
		return false, err
	}
	if ref := j.Proof.Ref; ref != nil {
		ph, err := ref.hash()
		if err != nil {
			return false, err
		}
		if there, err = w.whole(w.repo.metaName(w.place.chain, ph), ref.Size); !there || err != nil {
			return false, err
		}
	}
	pack.ref.hash, pack.ref.size, pack.ref.proof = h, j.Size, j.Proof
	return true, nil
}

// whole says whether an object is there and good. Damage is no error here: what
// is sealed anew has another name.
func (w *Writer) whole(name string, size int64) (bool, error) {
	there, err := w.repo.isThere(w.ctx, name, size)
	var damage *DamageError
	if errors.As(err, &damage) {
		return false, nil
	}
	return there, err
}

// note remembers a pack that is about to be uploaded.
func (w *Writer) note(pack *packFile) error {
	if pack.key == "" {
		return nil
	}
	j := journalled{Hash: hex.EncodeToString(pack.ref.hash[:]), Size: pack.ref.size, Proof: pack.ref.proof}
	var err error
	if j.MAC, err = j.sum(w.repo, pack.key); err != nil || j.MAC == nil {
		return err
	}
	b, err := marshal(j)
	if err != nil {
		return err
	}
	w.repo.journal.NoteUpload(w.ctx, pack.key, b)
	return nil
}
