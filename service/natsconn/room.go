package natsconn

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// A room is how many bytes a stream or bucket of ours has where nobody says.
type room struct {
	// usual is the bound where the account has plenty, 0 for none.
	usual int64
	// bounded is the bound where the account wants each stream to have one.
	bounded int64
	// least is what it can do with.
	least int64
	// share is the part of an account with a bound that it takes of what is left,
	// in percent: those that are made later need room, too.
	share int64
	// setting is the field of the configuration that says it.
	setting string
}

const mib = 1 << 20

// rooms are those of jetkeep's own, in the order in which they are made.
func rooms(name string) room {
	return map[string]room{
		"KV_JETKEEP_STATE":     {bounded: 16 * mib, least: mib / 4, share: 10, setting: "storage.state"},
		"KV_JETKEEP_SCHEDULES": {bounded: 16 * mib, least: mib / 4, share: 10, setting: "storage.schedules"},
		"KV_JETKEEP_SESSIONS":  {bounded: 128 * mib, least: mib, share: 40, setting: "storage.sessions"},
		"JETKEEP_TASKS":        {bounded: 16 * mib, least: mib / 4, share: 20, setting: "storage.tasks"},
		"JETKEEP_EVENTS":       {usual: 1 << 30, bounded: 256 * mib, least: mib, share: 50, setting: "storage.events"},
		"KV_JETKEEP_UPLOADS":   {bounded: 16 * mib, least: mib / 4, share: 50, setting: "storage.uploads"},
	}[name]
}

// Error codes of the server about room.
const (
	noResources     = 10023 // of the servers
	noStorage       = 10047 // left in the account or on the server, which count each replica
	bytesRequired   = 10113 // the account wants max_bytes of each stream
	bytesAboveLimit = 10122 // of a stream in this account
)

func serverCode(err error) jetstream.ErrorCode {
	var e *jetstream.APIError
	if errors.As(err, &e) {
		return e.ErrorCode
	}
	return 0
}

// fit calls create with a bound that the account has room for: the given one and
// no other if there is one, else the usual one, or one that an account demands,
// made smaller as far as it can be.
func fit(ctx context.Context, js jetstream.JetStream, name string, given int64, create func(bytes int64) error) error {
	r := rooms(name)
	if given > 0 || r.least == 0 {
		return explainRoom(create(given), r, given)
	}
	bytes := r.within(ctx, js, r.usual)
	err := create(bytes)
	if serverCode(err) == bytesRequired {
		bytes = r.within(ctx, js, r.bounded)
		err = create(bytes)
	}
	for bytes > r.least && refusesBytes(err) {
		bytes = max(bytes/2, r.least)
		err = create(bytes)
	}
	return explainRoom(err, r, bytes)
}

// within bounds a number of bytes by the share of what an account has left.
func (r room) within(ctx context.Context, js jetstream.JetStream, bytes int64) int64 {
	info, err := js.AccountInfo(ctx)
	if err != nil || bytes == 0 || info.Limits.MaxStore <= 0 {
		return bytes // no bound, or one that the server tells when it refuses
	}
	left := info.Limits.MaxStore - int64(max(info.Store, info.ReservedStore))
	return max(min(bytes, left*r.share/100), r.least)
}

// refusesBytes says whether fewer bytes may be granted.
func refusesBytes(err error) bool {
	switch serverCode(err) {
	case noResources, noStorage, bytesAboveLimit:
		return true
	}
	return false
}

// explainRoom says of a refusal what is missing, and what may be asked for instead.
func explainRoom(err error, r room, bytes int64) error {
	if r.setting == "" || !refusesBytes(err) && serverCode(err) != bytesRequired {
		return err
	}
	return fmt.Errorf("the account or its servers have no room for %d bytes, of which %s may ask for fewer or more: %w", bytes, r.setting, err)
}
