package hooks

import (
	"encoding/json"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"jetkeep/service/api"
	"jetkeep/service/config"
)

// event is a message that notes what becomes of it.
type event struct {
	jetstream.Msg
	data   []byte
	became string
}

func (e *event) Data() []byte    { return e.data }
func (e *event) Subject() string { return "events" }
func (e *event) Metadata() (*jetstream.MsgMetadata, error) {
	return &jetstream.MsgMetadata{NumDelivered: 1}, nil
}
func (e *event) Term() error                      { e.became = "terminated"; return nil }
func (e *event) NakWithDelay(time.Duration) error { e.became = "tried again"; return nil }

// What a tag makes of a subject may be nothing that can be published to. It is
// not sent to where nobody hears it, and not tried again.
func TestUnsendable(t *testing.T) {
	for _, tag := range []string{"a b", "*", ".", ""} {
		data, err := json.Marshal(api.Event{Tags: map[string]string{"team": tag}})
		if err != nil {
			t.Fatal(err)
		}
		failed := 0
		n := &Notifier{Caller: &Caller{}, Log: slog.New(slog.DiscardHandler), Count: func(_ string, err error) {
			if err != nil {
				failed++
			}
		}}
		e := &event{data: data}
		n.handle(t.Context(), &config.Notification{Call: config.Call{Subject: "ops.{{.Tags.team}}", Timeout: time.Second}}, e, n.Log)
		if e.became != "terminated" || failed != 1 {
			t.Errorf("%q: %q, %d failures", tag, e.became, failed)
		}
	}
}
