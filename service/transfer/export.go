package transfer

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"jetkeep/service/archive"
	"jetkeep/store"
	"jetkeep/store/record"
)

// A Format is how an exported archive is encoded and named.
type Format string

const (
	// V1 is what all servers restore, those from 2.9 on as they are.
	V1 Format = "v1"
	// V2 is what servers from 2.15 on restore, and the only one for streams in
	// memory storage. Commands after nats 0.3 take it.
	V2 Format = "v2"
	// V2Tar is V2 under the name that commands up to nats 0.3 look for.
	V2Tar Format = "v2-tar"
)

// Formats are those that Export writes.
func Formats() []string { return []string{string(V1), string(V2), string(V2Tar)} }

func (f Format) file() string {
	if f == V2 {
		return arcFile
	}
	return tarFile
}

// An Exported says what an export wrote.
type Exported struct {
	RestorePoint string `json:"restore_point"`
	Stream       string `json:"stream"`
	Dir          string `json:"dir"`
	Messages     uint64 `json:"messages"`
	Consumers    int    `json:"consumers"`
	Bytes        int64  `json:"bytes"` // of the archive
}

// Export writes restore points, one directory each. A single one goes to dir
// itself as nats backup stream makes it, more of them into directories below it
// that are named as their streams, as nats backup account does.
func Export(ctx context.Context, repo *store.Repository, points []store.Point, dir string, f Format, each bool) ([]Exported, error) {
	if len(points) == 0 {
		return nil, store.ErrNoPoint
	}
	if err := absent(dir); err != nil {
		return nil, err
	}
	part, err := os.MkdirTemp(filepath.Dir(filepath.Clean(dir)), ".jetkeep-export-")
	if err != nil {
		return nil, fmt.Errorf("export: %w", err)
	}
	defer os.RemoveAll(part) // after the rename there is nothing
	var out []Exported
	for _, p := range points {
		to, final := part, dir
		if each {
			if !filepath.IsLocal(p.Stream) || strings.ContainsAny(p.Stream, `/\`) {
				return nil, fmt.Errorf("export stream %q: its name cannot be a directory's", p.Stream)
			}
			to, final = filepath.Join(part, p.Stream), filepath.Join(dir, p.Stream)
			if err := os.Mkdir(to, 0o700); err != nil {
				return nil, fmt.Errorf("export stream %s: %w", p.Stream, err)
			}
		}
		n, err := exportPoint(ctx, repo, p, to, f)
		if err != nil {
			return nil, fmt.Errorf("export stream %s from %s: %w", p.Stream, p.ID, err)
		}
		out = append(out, Exported{p.ID, p.Stream, final, p.Content.Messages, p.Consumers.Count, n})
	}
	if err := syncDir(part); err != nil {
		return nil, err
	}
	if err := absent(dir); err != nil {
		return nil, err
	}
	if err := os.Rename(part, dir); err != nil {
		return nil, fmt.Errorf("export: %w", err)
	}
	return out, syncDir(filepath.Dir(filepath.Clean(dir)))
}

func absent(dir string) error {
	_, err := os.Lstat(dir)
	if err == nil {
		return fmt.Errorf("export to %s: it %w", dir, ErrExists)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("export: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}

// exportPoint writes one restore point into a directory that is there.
func exportPoint(ctx context.Context, repo *store.Repository, p store.Point, dir string, f Format) (int64, error) {
	var c configured
	if err := json.Unmarshal(p.Config, &c); err != nil {
		return 0, fmt.Errorf("configuration: %w", err)
	}
	if f == V1 && c.Storage == "memory" {
		return 0, ErrMemory
	}
	consumers, err := consumersOf(ctx, repo, p)
	if err != nil {
		return 0, err
	}
	n, err := writeFile(filepath.Join(dir, f.file()), func(w io.Writer) error {
		if f == V1 {
			return writeV1(ctx, repo, p, consumers, w)
		}
		return writeV2(ctx, repo, p, consumers, w)
	})
	if err != nil {
		return 0, err
	}
	_, err = writeFile(filepath.Join(dir, metaFile), func(w io.Writer) error {
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		return e.Encode(meta{Config: p.Config, State: stateOf(p)})
	})
	if err == nil {
		err = syncDir(dir)
	}
	return n, err
}

// maxExported bounds what the consumers of a stream may take in memory. It is more
// than others allow, who read those of many streams: what a repository has can be
// had out of it.
const maxExported = 4 * archive.MaxConsumersMemory

func consumersOf(ctx context.Context, repo *store.Repository, p store.Point) ([]archive.Consumer, error) {
	var out []archive.Consumer
	err := repo.Consumers(ctx, p, func(r io.Reader) (n int, err error) {
		out, err = archive.ReadConsumers(r, maxExported)
		if errors.Is(err, archive.ErrTooLarge) {
			err = fmt.Errorf("%w: %w", store.ErrBounds, err) // nothing is damaged
		}
		return len(out), err
	})
	return out, err
}

func writeV1(ctx context.Context, repo *store.Repository, p store.Point, consumers []archive.Consumer, w io.Writer) error {
	// Any server may be the one to restore it: it gets what the oldest needs.
	a := archive.NewV1Writer(w, archive.Meta{
		Stream: p.Stream, Config: p.Config, Created: p.Created, LastTime: p.State.LastTime, Server: "2.9.0",
	})
	if err := each(ctx, repo, p, a.Record); err != nil {
		return err
	}
	for _, c := range consumers {
		if err := a.Consumer(c); err != nil {
			return err
		}
	}
	return a.Close(p.State.LastSeq)
}

func writeV2(ctx context.Context, repo *store.Repository, p store.Point, consumers []archive.Consumer, w io.Writer) error {
	s := p.State
	a := archive.NewV2Writer(w, archive.State{
		Messages: p.Content.Messages, Bytes: s.Bytes, FirstSeq: s.FirstSeq, LastSeq: s.LastSeq, FirstTime: s.FirstTime, LastTime: s.LastTime,
	}, consumers)
	if err := each(ctx, repo, p, a.Record); err != nil {
		return err
	}
	return a.Close()
}

// each reads a restore point to its proven end.
func each(ctx context.Context, repo *store.Repository, p store.Point, fn func(*record.Record) error) error {
	r, err := repo.NewReader(ctx, p)
	if err != nil {
		return err
	}
	defer r.Close()
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = fn(rec)
		}
		if err != nil {
			return err
		}
	}
}

// writeFile creates a file and syncs it. It returns its length.
func writeFile(name string, write func(io.Writer) error) (int64, error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, fmt.Errorf("export: %w", err)
	}
	b := bufio.NewWriterSize(f, 256<<10)
	if err = write(b); err == nil {
		err = b.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	info, serr := f.Stat()
	if err = errors.Join(err, serr, f.Close()); err != nil {
		return 0, err
	}
	return info.Size(), nil
}
