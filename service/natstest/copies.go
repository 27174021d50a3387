package natstest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"jetkeep/store/testenv"
)

// AwaitCopies waits until every running node of the cluster says of itself that it
// has so many messages of the stream. That a replica is current, by the leader's
// word, does not tell: a new one is so before it has anything.
func (c *Cluster) AwaitCopies(stream string, messages uint64) {
	c.t.Helper()
	testenv.Until(c.t, "copies of stream "+stream, func() error {
		for _, s := range c.Nodes {
			if !s.running() {
				continue
			}
			n, err := s.holds(stream)
			if err != nil {
				return err
			}
			if n != messages {
				return fmt.Errorf("node %s has %d messages of %d", s.options.name, n, messages)
			}
		}
		return nil
	})
}

// holds asks the monitoring port how many messages of a stream this node has.
func (s *Server) holds(stream string) (uint64, error) {
	client := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/jsz?accounts=true&streams=true", s.http))
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var jsz struct {
		Accounts []struct {
			Streams []struct {
				Name  string `json:"name"`
				State struct {
					Messages uint64 `json:"messages"`
				} `json:"state"`
			} `json:"stream_detail"`
		} `json:"account_details"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&jsz); err != nil {
		return 0, fmt.Errorf("decode state of %s: %w", s.options.name, err)
	}
	for _, a := range jsz.Accounts {
		for _, st := range a.Streams {
			if st.Name == stream {
				return st.State.Messages, nil
			}
		}
	}
	return 0, fmt.Errorf("node %s does not know stream %s", s.options.name, stream)
}
