package store

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"

	"jetkeep/store/object"
	"jetkeep/store/object/local"
	"jetkeep/store/record"
	"jetkeep/store/staging"
)

// jsonRecords makes messages of about 1 KiB as an order service sends them:
// they compress about five times.
func jsonRecords(n int) []*record.Record {
	r := rand.New(rand.NewPCG(1, 2))
	words := []string{"pending", "shipped", "returned", "priority", "standard", "warehouse", "customer", "invoice"}
	out := make([]*record.Record, n)
	for i := range out {
		type item struct {
			SKU   string  `json:"sku"`
			Name  string  `json:"name"`
			Price float64 `json:"price"`
			Count int     `json:"quantity"`
		}
		items := make([]item, 10)
		for k := range items {
			items[k] = item{fmt.Sprintf("SKU-%06d", r.IntN(5000)), words[r.IntN(8)] + " " + words[r.IntN(8)], float64(r.IntN(100_000)) / 100, r.IntN(9)}
		}
		data, err := json.Marshal(map[string]any{
			"order_id": fmt.Sprintf("%08x-%04x", r.Uint32(), r.IntN(65536)), "status": words[r.IntN(8)],
			"customer": map[string]any{"id": r.IntN(1e6), "email": fmt.Sprintf("user%d@example.com", r.IntN(1e6))}, "items": items,
		})
		if err != nil {
			panic(err)
		}
		out[i] = &record.Record{Sequence: uint64(i + 1), Time: 1_700_000_000_000_000_000 + int64(i)*1e6, Subject: []byte("orders.eu.new"), Data: data}
	}
	return out
}

func BenchmarkWrite(b *testing.B) {
	recs := jsonRecords(20_000)
	const rounds = 13
	for b.Loop() {
		dir := b.TempDir()
		d, err := local.Create(dir + "/repo")
		if err != nil {
			b.Fatal(err)
		}
		r, err := Init(b.Context(), object.NewBucket(d), InitOptions{})
		if err != nil {
			b.Fatal(err)
		}
		a, err := staging.Open(dir+"/staging", 128<<20)
		if err != nil {
			b.Fatal(err)
		}
		w, err := r.NewWriter(b.Context(), WriterOptions{Staging: a, Task: "bench", Target: "default", Stream: "ORDERS"})
		if err != nil {
			b.Fatal(err)
		}
		seq := uint64(0)
		for range rounds {
			for _, rec := range recs {
				seq++
				again := *rec
				again.Sequence = seq
				again.Time += int64(seq)
				if err := w.Append(&again); err != nil {
					b.Fatal(err)
				}
			}
		}
		c, err := w.Finish(b.Context(), nil)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(c.RawBytes))
		b.ReportMetric(float64(c.RawBytes)/float64(c.StoredBytes), "ratio")
		_ = a.Close()
		_ = d.Close()
	}
}

func BenchmarkRead(b *testing.B) {
	r, _ := newRepo(b)
	a, err := staging.Open(b.TempDir(), 128<<20)
	if err != nil {
		b.Fatal(err)
	}
	defer a.Close()
	recs := jsonRecords(100_000)
	p, err := save(b, r, a, "bench", steps(recs), nil)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(p.Content.RawBytes))
	for b.Loop() {
		rd, err := r.NewReader(b.Context(), p)
		if err != nil {
			b.Fatal(err)
		}
		n := 0
		for ; ; n++ {
			if _, err = rd.Next(); err != nil {
				break
			}
		}
		rd.Close()
		if n != len(recs) {
			b.Fatalf("%d records: %v", n, err)
		}
	}
}
