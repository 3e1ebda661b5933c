package uplink

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/pyvorin/pyvorin-edge/syncqueue"
)

// endless leases the same batch until enough readings were acknowledged.
type endless struct {
	batch syncqueue.Batch
	left  int // readings
	empty func()
}

func (e *endless) Lease(context.Context, syncqueue.Want) (syncqueue.Batch, bool, error) {
	if e.left <= 0 {
		e.empty()
		return syncqueue.Batch{}, false, nil
	}
	return e.batch, true, nil
}

func (e *endless) Ack(_ context.Context, b syncqueue.Batch) error { e.left -= b.Count; return nil }
func (e *endless) Nack(syncqueue.Batch)                           {}
func (e *endless) MarkBacklog()                                   {}
func (e *endless) Pending() <-chan struct{}                       { return nil }
func (e *endless) DeadLetter(context.Context, syncqueue.Batch, uint64, int, string) error {
	return nil
}

// BenchmarkDeliver measures batches of stored frames POSTed to a TLS server on
// loopback, until acknowledged: "readings drained a second" without the queue's
// own part. One operation is one reading.
func BenchmarkDeliver(b *testing.B) {
	for _, size := range []int{100, 1000} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			cert, ca := certificate(b, "127.0.0.1", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
			url := serveTLS(b, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
			}), cert)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			q := &endless{batch: makeBatch(syncqueue.Zstd, 1, size), left: b.N, empty: cancel}
			o := options(q, url)
			o.CAFile, o.BatchSize = ca, size
			u, err := New(o)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.ResetTimer()
			if err := u.Run(ctx); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			s := u.Stats()
			if s.LastError != "" || s.Accepted < int64(b.N) {
				b.Fatalf("stats %+v", s)
			}
			b.ReportMetric(float64(s.Accepted)/b.Elapsed().Seconds(), "readings/s")
			b.ReportMetric(float64(s.BytesSent)/float64(s.Accepted), "wireB/reading")
		})
	}
}
