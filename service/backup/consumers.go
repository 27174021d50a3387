package backup

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"jetkeep/service/archive"
	"jetkeep/service/jsapi"
)

// completeConsumers returns every consumer that the server lists, with its
// configuration as listed and its state from the snapshot. Servers before 2.15
// leave some consumers out of the snapshot of a replicated stream, and a stream
// read by messages has none; those are made from the list.
func (c *capture) completeConsumers(ctx context.Context, last uint64) ([]archive.Consumer, error) {
	listed, err := c.listConsumers(ctx)
	if err != nil {
		return nil, fmt.Errorf("list consumers of stream %s: %w", c.stream, err)
	}
	out := make([]archive.Consumer, 0, len(listed))
	var made []string
	for _, info := range listed {
		con := archive.Consumer{Name: info.Name, Created: info.Created, Config: info.Config}
		if snap, ok := c.consumers[info.Name]; ok && !c.recreated(info, &snap.State) {
			con.State = snap.State
		} else {
			con.State = stateOf(info, last)
			made = append(made, info.Name)
		}
		out = append(out, con)
	}
	slices.Sort(made)
	if len(made) > 0 && c.engine != EngineMessages {
		c.note("%d consumers that the snapshot lacked were taken from the server's list (%s)", len(made), abbreviate(made))
	}
	slices.SortFunc(out, func(a, b archive.Consumer) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// listConsumers lists the consumers by name. The list comes in pages, and one
// that another's end moves from page to page would be missed: so it is read
// again while it lacks a consumer that the snapshot has.
func (c *capture) listConsumers(ctx context.Context) (map[string]*jsapi.ConsumerInfo, error) {
	out := map[string]*jsapi.ConsumerInfo{}
	for range 2 {
		listed, err := c.t.Consumers(ctx, c.stream)
		if err != nil {
			return nil, err
		}
		for _, info := range listed {
			out[info.Name] = info
		}
		if !slices.ContainsFunc(slices.Collect(maps.Keys(c.consumers)), func(name string) bool { return out[name] == nil }) {
			break
		}
	}
	return out, nil
}

// recreated says whether a listed consumer is another one than that of the same
// name in the snapshot: it is younger than the capture, or behind what the other
// had reached. It must not begin where its predecessor ended.
func (c *capture) recreated(info *jsapi.ConsumerInfo, snap *archive.ConsumerState) bool {
	return info.Delivered.Stream < snap.Delivered.Stream || info.AckFloor.Stream < snap.AckFloor.Stream ||
		!c.before.Time.IsZero() && info.Created.After(c.before.Time)
}

// stateOf makes a consumer's state from what the server lists of it. The list
// counts what is pending and does not name it, so delivery starts again behind
// the last message that is known to be acknowledged: once more rather than not.
// The list is newer than the restore point, whose last sequence is given; a
// consumer that is ahead of it would miss what comes after a restore.
func stateOf(info *jsapi.ConsumerInfo, last uint64) archive.ConsumerState {
	st := archive.ConsumerState{Delivered: archive.SequencePair(info.Delivered), AckFloor: archive.SequencePair(info.AckFloor)}
	if info.NumAckPending > 0 {
		st.Delivered = st.AckFloor
	}
	st.Clip(last)
	return st
}

func abbreviate(names []string) string {
	const most = 8
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return strings.Join(names[:most], ", ") + ", …"
}
