package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"jetkeep/service/archive"
	"jetkeep/service/jsapi"
	"jetkeep/service/natsconn"
	"jetkeep/store"
	"jetkeep/store/record"
)

// A Source is where restore points are read from, a repository.
type Source interface {
	// Open returns a reader of the restore point's messages.
	Open(ctx context.Context, p store.Point) (Records, error)
	// Consumers returns the restore point's consumers. They take no more memory
	// than archive.MaxConsumersMemory; else it is archive.ErrTooLarge.
	Consumers(ctx context.Context, p store.Point) ([]archive.Consumer, error)
	// Readable says whether messages can be read, which takes a key where they
	// are encrypted.
	Readable() bool
}

// Records gives a restore point's messages with rising sequences. Next returns
// io.EOF only if they were all there. A record is valid until the next call.
type Records interface {
	Next() (*record.Record, error)
	// LiveSum returns, after io.EOF, the digest of what Next gave. That of the
	// restore point may be over more: messages that were captured and deleted
	// before its moment.
	LiveSum() record.Sum
	Close()
}

// FromRepository is the Source of a repository.
func FromRepository(r *store.Repository) Source { return repository{r} }

type repository struct{ *store.Repository }

// Open implements Source.
func (r repository) Open(ctx context.Context, p store.Point) (Records, error) {
	return r.NewReader(ctx, p)
}

// Consumers implements Source.
func (r repository) Consumers(ctx context.Context, p store.Point) (out []archive.Consumer, err error) {
	err = r.Repository.Consumers(ctx, p, func(in io.Reader) (int, error) {
		out, err = archive.ReadConsumers(in, archive.MaxConsumersMemory)
		if errors.Is(err, archive.ErrTooLarge) {
			err = fmt.Errorf("%w: %w", store.ErrBounds, err) // nothing is damaged
		}
		return len(out), err
	})
	return out, err
}

// ErrTooMuch means that a plan would take too much memory.
var ErrTooMuch = errors.New("the consumers of the chosen streams take too much memory; restore fewer streams at once")

// Prepare looks at the target, reads the consumers of the restore points and
// plans.
func Prepare(ctx context.Context, conn *natsconn.Conn, repo Source, req Request, points []store.Point) (Plan, error) {
	target, err := Survey(ctx, conn)
	if err != nil {
		return Plan{}, err
	}
	target.Refused = refusals(ctx, conn, target, points)
	inputs := make([]Input, len(points))
	left := archive.MaxConsumersMemory
	for i, p := range points {
		if inputs[i], err = ReadInput(ctx, repo, p); err != nil {
			return Plan{}, err
		}
		for j := range inputs[i].Consumers {
			left -= inputs[i].Consumers[j].Memory()
		}
		if left < 0 {
			return Plan{}, ErrTooMuch
		}
	}
	return BuildPlan(req, inputs, target), nil
}

// ReadInput adds the consumers to a restore point.
func ReadInput(ctx context.Context, repo Source, p store.Point) (Input, error) {
	in := Input{Point: p}
	var err error
	in.Consumers, err = repo.Consumers(ctx, p)
	if errors.Is(err, archive.ErrTooLarge) {
		return in, fmt.Errorf("%w: the consumers of stream %s take more than %d MiB of memory; export the restore point %s and restore that instead: %w",
			ErrRefused, p.Stream, archive.MaxConsumersMemory>>20, p.ID, err)
	}
	if err != nil {
		return in, fmt.Errorf("read consumers of %s: %w", p.ID, err)
	}
	for i := range in.Consumers {
		in.Consumers[i].State.Clip(p.State.LastSeq)
	}
	return in, nil
}

// Survey asks the target for what a plan depends on.
func Survey(ctx context.Context, conn *natsconn.Conn) (Target, error) {
	t := Target{
		ServerVersion: conn.NC.ConnectedServerVersion(),
		Clustered:     conn.NC.ConnectedClusterName() != "",
		Now:           time.Now(),
	}
	account, err := conn.API.AccountInfo(ctx)
	if err != nil {
		return t, fmt.Errorf("ask for account's limits: %w", err)
	}
	if err := t.account(account); err != nil {
		return t, err
	}
	streams, err := describeAll(ctx, conn)
	if err != nil {
		return t, fmt.Errorf("list the target's streams: %w", err)
	}
	for _, info := range streams {
		if err := t.add(info); err != nil {
			return t, err
		}
	}
	return t, nil
}

// describePatience is less than a request may take.
const (
	describePatience = 15 * time.Second
	describePause    = 300 * time.Millisecond
)

// describeAll lists streams. A cluster has a moment in which it cannot describe a
// stream that is made, restored or that elects its leader.
func describeAll(ctx context.Context, conn *natsconn.Conn) ([]*jsapi.StreamInfo, error) {
	for begun := time.Now(); ; {
		streams, err := conn.API.Streams(ctx)
		var missing *jsapi.MissingError
		passes := errors.As(err, &missing) || errors.Is(err, jsapi.ErrNotReady)
		if !passes || time.Since(begun) > describePatience || sleep(ctx, describePause) != nil {
			return streams, err
		}
	}
}

type limitsJSON struct {
	Memory  int64 `json:"memory"`
	Storage int64 `json:"storage"`
	Streams int64 `json:"streams"`
	Limits  struct {
		MaxMemory    int64 `json:"max_memory"`
		MaxStorage   int64 `json:"max_storage"`
		MaxStreams   int64 `json:"max_streams"`
		MaxConsumers int64 `json:"max_consumers"`
	} `json:"limits"`
}

func (l limitsJSON) limits() Limits {
	return Limits{
		MaxMemory: l.Limits.MaxMemory, MaxStorage: l.Limits.MaxStorage, MaxStreams: l.Limits.MaxStreams,
		MaxConsumers: l.Limits.MaxConsumers, Memory: l.Memory, Storage: l.Storage, Streams: l.Streams,
	}
}

func (t *Target) account(info *jsapi.AccountInfo) error {
	var a struct {
		limitsJSON
		Tiers map[string]limitsJSON `json:"tiers"`
	}
	if err := json.Unmarshal(info.Raw, &a); err != nil {
		return fmt.Errorf("decode account's limits: %w", err)
	}
	t.Limits = a.limits()
	for name, tier := range a.Tiers {
		if t.Tiers == nil {
			t.Tiers = map[string]Limits{}
		}
		t.Tiers[name] = tier.limits()
	}
	return nil
}

func (t *Target) add(info *jsapi.StreamInfo) error {
	cfg, err := parseConfig(info.Config)
	if err != nil {
		return fmt.Errorf("stream %s: %w", info.Name(), err)
	}
	t.Streams = append(t.Streams, Existing{
		Name: cfg.Name, Subjects: cfg.Subjects, Created: info.Created, LastSeq: info.State.LastSeq, Origins: cfg.origins(),
	})
	if info.Cluster != nil && info.Cluster.Name != "" {
		t.Clustered = true
	}
	// The server that runs JetStream may be another than the one we are
	// connected to, behind a leaf node; since 2.11 a stream tells.
	if v := serverOf(info.Config); v != "" {
		t.ServerVersion = v
	}
	return nil
}

func serverOf(config json.RawMessage) string {
	var c struct {
		Metadata map[string]string `json:"metadata"`
	}
	if json.Unmarshal(config, &c) != nil {
		return ""
	}
	return c.Metadata["_nats.ver"]
}
