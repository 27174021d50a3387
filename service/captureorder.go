package service

import (
	"context"
	"encoding/json"
	"time"

	"jetkeep/service/api"
	"jetkeep/service/jsapi"
	"jetkeep/service/session"
)

// orderTimeout bounds asking for the streams' configurations. A cluster asks
// every stream's leader for it; without the answer the streams are captured in
// any order.
const orderTimeout = 2 * time.Second

// backupTasks makes a task for each stream, with what there is to do if that is
// known, so that a stream which takes from another of them is captured before that one. A mirror that is restored ahead
// of its origin never gets the messages in between; one that is behind catches
// up.
func (s *Service) backupTasks(ctx context.Context, c *jsapi.Client, streams []string) []*session.Task {
	ctx, cancel := context.WithTimeout(ctx, orderTimeout)
	defer cancel()
	infos, err := c.Streams(ctx)
	if err != nil {
		s.log.Warn("configurations of the streams are not known, mirrors may be captured after their origins", "error", err)
	}
	origins := map[string][]string{}
	todo := map[string]api.Progress{}
	for _, info := range infos {
		origins[info.Name()] = localOrigins(info.Config)
		todo[info.Name()] = toDo(info.State.Messages, info.State.Bytes)
	}
	tasks := captureOrder(streams, origins)
	for _, t := range tasks {
		t.Progress = todo[t.Stream]
	}
	return tasks
}

// toDo is the progress of a task that has not begun.
func toDo(messages, bytes uint64) api.Progress {
	return api.Progress{TotalMessages: messages, TotalBytes: bytes, TotalKnown: true}
}

// captureOrder puts every stream before its origins. In a circle one comes
// first; startSession lets a task wait only for those before it.
func captureOrder(streams []string, origins map[string][]string) []*session.Task {
	takers := map[string][]string{}
	for _, name := range streams {
		for _, origin := range origins[name] {
			if origin != name {
				takers[origin] = append(takers[origin], name)
			}
		}
	}
	tasks := make([]*session.Task, 0, len(streams))
	seen := map[string]bool{}
	var add func(name string)
	add = func(name string) {
		if seen[name] {
			return
		}
		seen[name] = true
		for _, taker := range takers[name] {
			add(taker)
		}
		tasks = append(tasks, &session.Task{Stream: name, After: takers[name]})
	}
	for _, name := range streams {
		add(name)
	}
	return tasks
}

// localOrigins returns the streams of the same account that a stream mirrors or
// sources.
func localOrigins(config json.RawMessage) []string {
	type origin struct {
		Name     string          `json:"name"`
		External json.RawMessage `json:"external"`
	}
	var c struct {
		Mirror  *origin  `json:"mirror"`
		Sources []origin `json:"sources"`
	}
	if json.Unmarshal(config, &c) != nil {
		return nil
	}
	if c.Mirror != nil {
		c.Sources = append(c.Sources, *c.Mirror)
	}
	var names []string
	for _, o := range c.Sources {
		if len(o.External) == 0 || string(o.External) == "null" {
			names = append(names, o.Name)
		}
	}
	return names
}
