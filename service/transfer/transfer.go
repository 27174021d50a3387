// Package transfer moves restore points between a repository and the
// directories that the nats command makes: backup.json and an archive for each
// stream, and for an account a directory of such directories. It needs no
// server.
//
// # What is guaranteed
//
// Export leaves a directory only if it is whole: it is written beside its final
// name, synced, and renamed when every record of the restore point has been
// read and proven. What is there already is never touched.
//
// Import makes a restore point only of an archive that is complete as far as
// the archive and backup.json allow to tell: it ends as its format demands,
// every checksum is right, the server noted no failure in it, no block that its
// index names is missing, and it holds all the messages that the server counted
// when it began. The restore point says in its notes what it was made of, also
// if the nats command edited the archive or captured it from a subscription.
// jetkeep's own streams, which the nats command backs up as any other, are left
// out unless they are named.
//
// # When it fails
//
// Export fails with ErrExists, with ErrMemory if the archive's format cannot
// carry the stream, and with the errors of package store. Import fails with
// ErrNotABackup, ErrNoStream, *IncompleteError, ErrOwn or ErrNotBackedUp if
// there is nothing else to take in, and the errors of package archive and of
// package store.
package transfer

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"jetkeep/store"
)

// Names of the files in the directory of a stream.
const (
	metaFile = "backup.json"
	// tarFile holds a V1 archive; commands up to nats 0.3 expect a V2 archive
	// under this name, too, and later ones under either.
	tarFile = "stream.tar.s2"
	arcFile = "stream.arc.s2"
)

var (
	// ErrExists means that there is something where an export should go.
	ErrExists = errors.New("exists already")
	// ErrMemory means that a stream in memory storage cannot be carried by a V1
	// archive: servers restore it without its messages, and report success.
	ErrMemory = errors.New("a stream in memory storage needs format v2")
	// ErrOwn means that a stream belongs to jetkeep itself, and was not asked for
	// by its name.
	ErrOwn = errors.New("is jetkeep's own, holds its secrets and is only taken by its name")
	// ErrNotBackedUp means that the directory of a stream is empty. The nats
	// command leaves it so, and reports success, if the stream is in memory and
	// the server older than 2.15.
	ErrNotBackedUp = errors.New("is not in the backup: the nats command left an empty directory")
	// ErrNoStream means that a backup holds none of the streams asked for.
	ErrNoStream = errors.New("there is no stream")
	// ErrNotABackup means that a directory is none that the nats command makes.
	ErrNotABackup = errors.New("is no backup of the nats command")
)

// An IncompleteError says that an archive lacks messages.
type IncompleteError struct {
	Dir    string
	Reason string
}

func (e *IncompleteError) Error() string {
	return fmt.Sprintf("%s is incomplete: %s", e.Dir, e.Reason)
}

// meta is backup.json: what the server answered when the backup began.
type meta struct {
	Config json.RawMessage `json:"config"`
	State  state           `json:"state"`
	// Edit is there if the nats command edited the backup, Source if it was
	// captured by a subscription.
	Edit *struct {
		Version    string   `json:"version"`
		Options    []string `json:"options"`
		Obfuscated bool     `json:"obfuscated"`
	} `json:"edit,omitempty"`
	Source *struct {
		Subjects []string `json:"subjects"`
		Dropped  uint64   `json:"dropped"`
	} `json:"source,omitempty"`
}

// state is the stream's state in the wire form of the JetStream API.
type state struct {
	Messages   uint64    `json:"messages"`
	Bytes      uint64    `json:"bytes"`
	FirstSeq   uint64    `json:"first_seq"`
	FirstTime  time.Time `json:"first_ts"`
	LastSeq    uint64    `json:"last_seq"`
	LastTime   time.Time `json:"last_ts"`
	NumDeleted uint64    `json:"num_deleted,omitempty"`
	Consumers  int       `json:"consumer_count"`
}

func stateOf(p store.Point) state {
	s := p.State
	return state{
		Messages: s.Messages, Bytes: s.Bytes, FirstSeq: s.FirstSeq, FirstTime: s.FirstTime.UTC(), LastSeq: s.LastSeq,
		LastTime: s.LastTime.UTC(), NumDeleted: s.NumDeleted, Consumers: p.Consumers.Count,
	}
}

// configured is what is looked at of a configuration.
type configured struct {
	Name    string `json:"name"`
	Storage string `json:"storage"`
}
