package archive_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"syscall"
	"testing"

	"jetkeep/service/archive"
	"jetkeep/store/record"
)

const benchBytes = 64 << 20

// benchStream is made of messages of one size, JSON or random.
func benchStream(size int, random bool) stream {
	s := stream{config: json.RawMessage(`{"name":"S"}`)}
	rnd := rand.New(rand.NewPCG(1, 2))
	for n := 0; n < benchBytes; n += size {
		s.last++
		var data []byte
		if random {
			data = make([]byte, size)
			for i := range data {
				data[i] = byte(rnd.Uint32())
			}
		} else {
			for len(data) < size {
				data = fmt.Appendf(data, `{"order":%d,"customer":"c-%d","status":"shipped","total":%d.%d},`, rnd.IntN(1e9), rnd.IntN(1e6), rnd.IntN(1e5), rnd.IntN(100))
			}
			data = data[:size]
		}
		s.records = append(s.records, record.Record{
			Sequence: s.last, Time: 1700000000e9 + int64(s.last)*1e6, Subject: fmt.Appendf(nil, "orders.%d", s.last%100), Data: data,
		})
	}
	return s
}

type benchCase struct {
	size   int
	random bool
}

func (c benchCase) String() string {
	if c.random {
		return fmt.Sprintf("%d-random", c.size)
	}
	return fmt.Sprintf("%d-json", c.size)
}

var benchCases = []benchCase{{256, false}, {256, true}, {1024, false}, {4096, false}, {4096, true}}

// cpu returns the processor time that the process has taken, in seconds. On a
// busy machine it says more than the clock.
func cpu() float64 {
	var r syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return float64(r.Utime.Nano()+r.Stime.Nano()) / 1e9
}

// measure runs f and reports megabytes of message data per second of processor
// time, too.
func measure(b *testing.B, bytes int, f func()) {
	b.SetBytes(int64(bytes))
	b.ReportAllocs()
	start := cpu()
	for b.Loop() {
		f()
	}
	b.ReportMetric(float64(bytes)*float64(b.N)/1e6/(cpu()-start), "MB/cpu-s")
}

func BenchmarkRead(b *testing.B) {
	for _, c := range benchCases {
		s := benchStream(c.size, c.random)
		for name, data := range map[string][]byte{"v1": writeV1(b, "S", s, ""), "v2": writeV2(b, s)} {
			b.Run(name+"/"+c.String(), func(b *testing.B) {
				measure(b, len(s.records)*c.size, func() {
					_, err := archive.Read(bytes.NewReader(data), "S", nothing{})
					check(b, err)
				})
			})
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	for _, c := range benchCases {
		s := benchStream(c.size, c.random)
		b.Run("v1/"+c.String(), func(b *testing.B) {
			measure(b, len(s.records)*c.size, func() {
				w := archive.NewV1Writer(io.Discard, archive.Meta{Stream: "S", Config: s.config})
				for i := range s.records {
					w.Record(&s.records[i])
				}
				check(b, w.Close(s.last))
			})
		})
		b.Run("v2/"+c.String(), func(b *testing.B) {
			measure(b, len(s.records)*c.size, func() {
				w := archive.NewV2Writer(io.Discard, archive.State{Messages: s.last, FirstSeq: 1, LastSeq: s.last}, nil)
				for i := range s.records {
					w.Record(&s.records[i])
				}
				check(b, w.Close())
			})
		})
	}
}
