package archive_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"jetkeep/service/archive"
	"jetkeep/store/record"
)

// The state of an archive that nats' own tools made may count no messages,
// padded as a head that is written again later. What it counts still binds, and
// so do its sequences.
func TestStateWithoutCounts(t *testing.T) {
	for _, c := range []struct {
		count, first, last uint64
		ok                 bool
	}{
		{2, 1, 7, true}, {0, 1, 7, true}, {0, 3, 7, true}, {9, 1, 7, true},
		{1, 1, 7, false}, {0, 1, 6, false}, {0, 4, 7, false}, {0, 8, 7, false},
	} {
		state := fmt.Sprintf(`{"messages":%d,"bytes":0,"first_seq":%d,"last_seq":%d,"consumer_count":0}          `, c.count, c.first, c.last)
		plain := record.AppendHead(nil)
		plain = record.Append(plain, &record.Record{Subject: []byte("state.json"), Time: 1, Data: []byte(state)})
		for _, seq := range []uint64{3, 7} {
			plain = record.Append(plain, &record.Record{Subject: []byte("a"), Time: 1, Sequence: seq})
		}
		sum, err := archive.Read(bytes.NewReader(compress(t, record.AppendEnd(plain))), "S", nothing{})
		if c.ok && (err != nil || sum.Records != 2) || !c.ok && !errors.Is(err, archive.ErrCorrupt) {
			t.Errorf("%+v: %d records, %v", c, sum.Records, err)
		}
	}
}
