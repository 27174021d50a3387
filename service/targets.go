package service

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"jetkeep/service/api"
	"jetkeep/service/jsapi"
)

func (s *Service) targetList(context.Context, *api.TargetListRequest) (*api.TargetListResponse, error) {
	return &api.TargetListResponse{Targets: s.targets.List()}, nil
}

// targetInfo connects, so that its answer proves that the target can be used.
func (s *Service) targetInfo(ctx context.Context, q *api.TargetInfoRequest) (*api.TargetInfoResponse, error) {
	name, err := s.targetName(ctx, q.Target)
	if err != nil {
		return nil, err
	}
	conn, err := s.dial(ctx, name)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	account, err := conn.API.AccountInfo(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask for the account of target %s: %w", name, err)
	}
	streams, err := conn.API.Streams(ctx)
	if err != nil {
		return nil, fmt.Errorf("list streams of target %s: %w", name, err)
	}
	streams = slices.DeleteFunc(streams, func(i *jsapi.StreamInfo) bool { return api.Reserved(i.Name()) })
	slices.SortFunc(streams, func(a, b *jsapi.StreamInfo) int { return cmp.Compare(a.Name(), b.Name()) })
	r := &api.TargetInfoResponse{
		Server: conn.ServerVersion(), ServerName: conn.NC.ConnectedServerName(), Cluster: conn.NC.ConnectedClusterName(),
		TotalStreams: len(streams),
	}
	for _, v := range s.targets.List() {
		if v.Target == name {
			r.TargetView = v
		}
	}
	var usage struct{ Memory, Storage uint64 }
	if err := json.Unmarshal(account.Raw, &usage); err != nil {
		return nil, fmt.Errorf("read account of target %s: %w", name, err)
	}
	r.Memory, r.Storage = usage.Memory, usage.Storage
	if rtt, err := conn.NC.RTT(); err == nil {
		r.RoundTrip = float64(rtt.Microseconds()) / 1000
	}
	part, next := page(streams, (*jsapi.StreamInfo).Name, ascending, q.Cursor, q.Limit)
	r.Next, r.Streams = next, []api.StreamView{}
	for _, i := range part {
		r.Streams = append(r.Streams, streamView(i))
	}
	return r, nil
}

func streamView(i *jsapi.StreamInfo) api.StreamView {
	var cfg struct {
		Storage string `json:"storage"`
	}
	_ = json.Unmarshal(i.Config, &cfg) // the rest of the view does not need it
	return api.StreamView{
		Stream: i.Name(), Messages: i.State.Messages, Bytes: i.State.Bytes,
		FirstSeq: i.State.FirstSeq, LastSeq: i.State.LastSeq, Consumers: i.State.Consumers, Storage: cfg.Storage,
	}
}
