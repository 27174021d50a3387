package transfer

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"jetkeep/service/archive"
	"jetkeep/service/session"
	"jetkeep/store"
	"jetkeep/store/record"
	"jetkeep/store/seqset"
	"jetkeep/store/staging"
)

// EngineImport is the engine of restore points that were imported.
const EngineImport = "import"

// maxMeta bounds backup.json.
const maxMeta = 8 << 20

// ImportOptions say how to import.
type ImportOptions struct {
	Target  string // the name of the account that the streams were in
	Staging *staging.Area
	Tags    map[string]string
	Now     func() time.Time
	// Streams are those to take in.
	Streams Selection
	// LeftOut, if not nil, is told of each stream that is meant, or would be
	// if it were not jetkeep's own, and is not taken in.
	LeftOut func(LeftOut)
}

// A LeftOut is a stream that an import passes over. Err is ErrOwn or
// ErrNotBackedUp.
type LeftOut struct {
	Stream string
	Err    error
}

// Import makes restore points of a directory that nats backup stream made, or
// of all the streams in one that nats backup account made; together they are
// one backup. It ends with the first that fails; those before are there.
func Import(ctx context.Context, repo *store.Repository, dir string, o ImportOptions) ([]store.Point, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.LeftOut == nil {
		o.LeftOut = func(LeftOut) {}
	}
	dirs, err := chosenDirs(dir, o)
	if err != nil {
		return nil, err
	}
	backup := session.NewID(o.Now())
	var out []store.Point
	for i, d := range dirs {
		im := &importing{repo: repo, dir: d, opt: o, point: store.Point{
			Backup: backup, Task: session.TaskID(backup, i+1), Target: o.Target, Engine: EngineImport, Tags: o.Tags,
		}}
		p, err := im.run(ctx)
		if err != nil {
			return out, fmt.Errorf("import %s: %w", d, err)
		}
		out = append(out, p)
	}
	return out, nil
}

// chosenDirs finds the directories of the streams that are meant and tells of
// those that are left out. Nothing is taken in if one that is named is not there.
// A directory whose stream cannot be told ends it, unless all that is meant is
// named and found.
func chosenDirs(dir string, o ImportOptions) ([]string, error) {
	dirs, err := streamDirs(dir)
	if err != nil {
		return nil, err
	}
	var chosen, streams []string
	var left []LeftOut
	var unreadable error
	for _, d := range dirs {
		name, absent, err := streamOf(d)
		if err != nil {
			if !o.Streams.Named() {
				return nil, err
			}
			if unreadable == nil {
				unreadable = err
			}
			continue
		}
		if !absent {
			streams = append(streams, name)
		}
		switch {
		case o.Streams.PassesOver(name):
			left = append(left, LeftOut{name, ErrOwn})
		case !o.Streams.Means(name):
		case absent:
			left = append(left, LeftOut{name, ErrNotBackedUp})
		default:
			chosen = append(chosen, d)
		}
	}
	if err := missing(dir, o.Streams.Missing(streams), left, unreadable); err != nil {
		return nil, err
	}
	switch {
	case len(chosen) > 0:
		for _, l := range left {
			o.LeftOut(l)
		}
		return chosen, nil
	case len(left) > 0:
		return nil, fmt.Errorf("import %s: stream %s %w", dir, left[0].Stream, left[0].Err)
	}
	return nil, fmt.Errorf("import %s: %w %s", dir, ErrNoStream, strings.Join(o.Streams, ", "))
}

// missing is the error of streams that are named and were not found: a directory
// that could not be read may be of one.
func missing(dir string, names []string, left []LeftOut, unreadable error) error {
	for _, l := range left {
		if slices.Contains(names, l.Stream) {
			return fmt.Errorf("import %s: stream %s %w", dir, l.Stream, l.Err)
		}
	}
	if len(names) == 0 {
		return nil
	}
	err := fmt.Errorf("import %s: %w %s", dir, ErrNoStream, strings.Join(names, ", "))
	if unreadable != nil {
		err = fmt.Errorf("%w among those that can be read: %w", err, unreadable)
	}
	return err
}

// streamOf tells which stream a directory is of, and whether it is empty.
func streamOf(dir string) (name string, absent bool, err error) {
	if emptyDir(dir) {
		return filepath.Base(dir), true, nil
	}
	im := importing{dir: dir}
	err = im.readMeta()
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: it has no %s", ErrNotABackup, metaFile)
	}
	if err != nil {
		return "", false, fmt.Errorf("import %s: %w", dir, err)
	}
	return im.point.Stream, false, nil
}

func emptyDir(dir string) bool {
	d, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer d.Close()
	_, err = d.Readdirnames(1)
	return errors.Is(err, io.EOF)
}

// streamDirs finds the directories of streams: the one given, or those in it.
func streamDirs(dir string) ([]string, error) {
	if _, err := os.Stat(filepath.Join(dir, metaFile)); err == nil {
		return []string{dir}, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("import %s: %w: it has no %s, nor directories that do", dir, ErrNotABackup, metaFile)
	}
	return out, nil
}

// importing is the import of one stream. It is the archive's visitor.
type importing struct {
	repo  *store.Repository
	dir   string
	opt   ImportOptions
	point store.Point

	meta      meta
	memory    int // that the consumers take
	w         *store.Writer
	got       seqset.Set
	dead      seqset.Set
	consumers []json.RawMessage
	first     time.Time
	last      time.Time
}

func (im *importing) run(ctx context.Context) (store.Point, error) {
	if err := im.readMeta(); err != nil {
		return store.Point{}, err
	}
	f, err := openArchive(im.dir)
	if err != nil {
		return store.Point{}, err
	}
	defer f.Close() // was only read
	info, err := f.Stat()
	if err != nil {
		return store.Point{}, fmt.Errorf("look at archive: %w", err)
	}
	im.point.Time = info.ModTime().UTC()
	im.w, err = im.repo.NewWriter(ctx, store.WriterOptions{
		Staging: im.opt.Staging, Task: im.point.Task, Target: im.point.Target, Stream: im.point.Stream,
	})
	if err != nil {
		return store.Point{}, err
	}
	defer im.w.Abort()
	sum, err := archive.Read(bufio.NewReaderSize(f, 1<<20), im.point.Stream, im)
	if err != nil {
		return store.Point{}, err
	}
	if err := im.complete(sum); err != nil {
		return store.Point{}, err
	}
	content, err := im.w.Finish(ctx, &im.dead)
	if err != nil {
		return store.Point{}, err
	}
	return im.commit(ctx, sum, content)
}

func (im *importing) readMeta() error {
	f, _, err := openRegular(im.dir, metaFile)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxMeta+1))
	if err == nil && len(data) > maxMeta {
		err = fmt.Errorf("%w: %s has more than %d bytes", ErrNotABackup, metaFile, maxMeta)
	}
	if err != nil {
		return err
	}
	var c configured
	err = json.Unmarshal(data, &im.meta)
	if err == nil {
		err = json.Unmarshal(im.meta.Config, &c)
	}
	switch {
	case len(data) == 0:
		return &IncompleteError{im.dir, "backup.json is empty, as a backup leaves it that did not finish"}
	case err != nil:
		return fmt.Errorf("%w: %s: %w", ErrNotABackup, metaFile, err)
	case c.Name == "":
		return fmt.Errorf("%w: %s names no stream", ErrNotABackup, metaFile)
	}
	im.point.Stream, im.point.Config = c.Name, im.meta.Config
	return nil
}

// openRegular opens a file of a directory and returns its size. It may be a link;
// what it leads to must be a file, or reading might never end.
func openRegular(dir, name string) (*os.File, int64, error) {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe must not hold us up
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%w: %s is no regular file", ErrNotABackup, name)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

// openArchive opens the archive of a stream's directory, of which there is one.
func openArchive(dir string) (*os.File, error) {
	var found *os.File
	for _, name := range []string{arcFile, tarFile} {
		f, _, err := openRegular(dir, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil && found != nil {
			err = errors.Join(fmt.Errorf("%w: it holds both %s and %s", ErrNotABackup, arcFile, tarFile), f.Close(), found.Close())
		}
		if err != nil {
			return nil, err
		}
		found = f
	}
	if found == nil {
		return nil, &IncompleteError{dir, "it has neither " + arcFile + " nor " + tarFile}
	}
	return found, nil
}

// Record implements archive.Visitor.
func (im *importing) Record(r *record.Record) error {
	// Below the first message there may be records of deleted ones.
	if im.first.IsZero() && r.Sequence >= im.meta.State.FirstSeq {
		im.first = time.Unix(0, r.Time).UTC()
	}
	im.last = time.Unix(0, r.Time).UTC()
	im.got.Add(r.Sequence)
	return im.w.Append(r)
}

// Tombstone implements archive.Visitor.
func (im *importing) Tombstone(seq uint64) error {
	im.dead.Add(seq)
	return nil
}

// Consumer implements archive.Visitor.
func (im *importing) Consumer(c archive.Consumer) error {
	// A few bytes of an archive can hold any number of consumers, and what nobody
	// could restore must not be stored.
	if im.memory += c.Memory(); im.memory > archive.MaxConsumersMemory {
		return fmt.Errorf("%w: the stream's consumers take more than %d bytes of memory", archive.ErrTooLarge, archive.MaxConsumersMemory)
	}
	raw, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode consumer %s: %w", c.Name, err)
	}
	im.consumers = append(im.consumers, raw)
	return nil
}

// complete refuses an archive that lacks what it should hold. What the server
// deleted while it made the archive cannot be told from what it left out, so
// that is refused, too.
func (im *importing) complete(sum archive.Summary) error {
	st := im.meta.State
	lacks := func(format string, args ...any) error {
		return &IncompleteError{im.dir, fmt.Sprintf(format, args...)}
	}
	if len(sum.MissingBlocks) > 0 {
		return lacks("blocks %v that its index names are missing", sum.MissingBlocks)
	}
	// Servers up to 2.9 leave the records of messages that limits removed in
	// their block and have no index to say so: without this they would return.
	if st.FirstSeq > 1 {
		im.dead.AddRange(1, st.FirstSeq-1)
	}
	if sum.HasIndex {
		im.dead.Union(sum.Index.Deleted)
		if sum.Index.First > 1 {
			im.dead.AddRange(1, sum.Index.First-1)
		}
		if n := im.live(sum.Index.First, sum.Index.Last); n < sum.Index.Messages {
			return lacks("its index counts %d messages from %d to %d, it holds %d", sum.Index.Messages, sum.Index.First, sum.Index.Last, n)
		}
	}
	if n := im.live(st.FirstSeq, st.LastSeq); n < st.Messages {
		return lacks("the server counted %d messages from %d to %d when it began, the archive holds %d; "+
			"either it lost some or they were deleted meanwhile, which cannot be told apart", st.Messages, st.FirstSeq, st.LastSeq, n)
	}
	if n := im.live(st.FirstSeq, st.LastSeq); n > st.Messages {
		im.note("the server counted %d messages from %d to %d when it began, the archive holds %d: "+
			"it does not say which of them were deleted", st.Messages, st.FirstSeq, st.LastSeq, n)
	}
	if len(im.consumers) < st.Consumers {
		im.note("%d consumers were counted when the backup began, the archive holds %d", st.Consumers, len(im.consumers))
	}
	for _, d := range sum.Duplicates {
		im.note("archive holds member %s twice; it was read once", d)
	}
	return nil
}

// live counts the messages of a range.
func (im *importing) live(first, last uint64) uint64 {
	set := im.got.Clip(first, last)
	set.Subtract(&im.dead)
	return set.Len()
}

// provenance notes what the nats command did with the archive, if it is not a
// server's own.
func (im *importing) provenance() {
	if e := im.meta.Edit; e != nil {
		how := ""
		if e.Obfuscated {
			how = " and obfuscated"
		}
		im.note("edited%s by %s: %s", how, clip(e.Version), clip(strings.Join(e.Options, ", ")))
	}
	if s := im.meta.Source; s != nil {
		im.note("captured by a subscription to %s, which missed %d messages", clip(strings.Join(s.Subjects, ", ")), s.Dropped)
	}
}

// clip bounds what a note quotes.
func clip(s string) string {
	if r := []rune(s); len(r) > 200 {
		return string(r[:200]) + "…"
	}
	return s
}

// created is when the stream was made, as far as it is known. Edited archives
// do not even have the time of the first message.
func (im *importing) created(sum archive.Summary) time.Time {
	switch {
	case !sum.Created.IsZero():
		return sum.Created.UTC()
	case im.meta.State.FirstTime.Unix() > 0:
		im.note("the archive does not say when the stream was created; the time of its first message stands for it")
		return im.meta.State.FirstTime.UTC()
	case !im.first.IsZero():
		im.note("the archive does not say when the stream was created; the time of its first message stands for it")
		return im.first
	}
	im.note("the archive does not say when the stream was created; the archive's own time stands for it")
	return im.point.Time
}

func (im *importing) note(format string, args ...any) {
	im.point.Notes = append(im.point.Notes, fmt.Sprintf(format, args...))
}

func (im *importing) commit(ctx context.Context, sum archive.Summary, content store.Content) (store.Point, error) {
	p, st := &im.point, im.meta.State
	p.ID = p.Task
	im.note("imported from a %s archive of the nats command", sum.Format)
	im.provenance()
	p.Created = im.created(sum)
	p.Lineage = "import-" + p.Backup
	live := im.got.Clone()
	live.Subtract(&im.dead)
	p.State = store.State{
		Messages: live.Len(), Bytes: st.Bytes, FirstSeq: live.First(), FirstTime: im.first,
		LastSeq: max(st.LastSeq, sum.LastSequence, live.Last()), LastTime: im.last, Consumers: len(im.consumers),
	}
	if live.Last() < p.State.LastSeq && st.LastTime.After(im.last) {
		p.State.LastTime = st.LastTime
	}
	if live.Empty() {
		p.State.FirstSeq, p.State.FirstTime, p.State.LastTime = max(st.FirstSeq, p.State.LastSeq+1), st.FirstTime, st.LastTime
	} else {
		p.State.NumDeleted = live.Last() - live.First() + 1 - live.Len() + p.State.LastSeq - live.Last()
	}
	p.Content = content
	if content.Messages != live.Len() {
		return store.Point{}, &IncompleteError{im.dir, fmt.Sprintf("%d messages were read and %d stored", live.Len(), content.Messages)}
	}
	var err error
	if p.Consumers, err = im.repo.PutConsumers(ctx, content, im.consumers); err != nil {
		return store.Point{}, err
	}
	if err := im.repo.Commit(ctx, *p); err != nil {
		return store.Point{}, err
	}
	return im.repo.Point(ctx, p.ID)
}
