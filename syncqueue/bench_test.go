package syncqueue_test

import (
	"context"
	"sync"
	"testing"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/syncqueue"
)

// perSecond reports readings a second instead of operations.
func perSecond(b *testing.B, readings int) {
	b.ReportMetric(float64(readings)/b.Elapsed().Seconds(), "readings/s")
}

func benchmarkFrames(b *testing.B, size int) {
	o := options(b.TempDir())
	o.BatchSize, o.MaxBytes = size, 1<<40
	q := open(b, o)
	readings := some(b, size, config.PriorityNormal)
	b.ReportAllocs()
	for b.Loop() {
		if err := q.Enqueue(context.Background(), readings); err != nil {
			b.Fatal(err)
		}
	}
	perSecond(b, b.N*size)
	b.ReportMetric(float64(q.Stats().Bytes)/float64(q.Stats().Depth), "bytes/reading")
}

// One producer, one durable commit for each call.
func BenchmarkEnqueueSingle(b *testing.B)    { benchmarkFrames(b, 1) }
func BenchmarkEnqueueFrame100(b *testing.B)  { benchmarkFrames(b, 100) }
func BenchmarkEnqueueFrame1000(b *testing.B) { benchmarkFrames(b, 1000) }

// 64 callers that each wait for the durability of one reading.
func BenchmarkEnqueueCallers64(b *testing.B) {
	o := options(b.TempDir())
	o.MaxBytes = 1 << 40
	q := open(b, o)
	reading := some(b, 1, config.PriorityNormal)
	b.ReportAllocs()
	b.ResetTimer()
	work := make(chan struct{}, 64)
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for range work {
				if err := q.Enqueue(context.Background(), reading); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for range b.N {
		work <- struct{}{}
	}
	close(work)
	wg.Wait()
	perSecond(b, b.N)
}

// Lease and ack of batches of 100 from a backlog.
func BenchmarkDrain100(b *testing.B) {
	o := options(b.TempDir())
	o.MaxBytes = 1 << 40
	q := open(b, o)
	const chunk = 1000
	readings := some(b, chunk*100, config.PriorityNormal)
	b.ReportAllocs()
	left := 0
	for b.Loop() {
		if left == 0 {
			b.StopTimer()
			if err := q.Enqueue(context.Background(), readings); err != nil {
				b.Fatal(err)
			}
			left = chunk
			b.StartTimer()
		}
		batch, ok := lease(b, q, syncqueue.Want{Readings: 100})
		if !ok || batch.Count != 100 {
			b.Fatalf("leased %d", batch.Count)
		}
		ack(b, q, batch)
		left--
	}
	perSecond(b, b.N*100)
}

// Opening with a million readings queued, quick_check included.
func BenchmarkOpen1M(b *testing.B) {
	o := options(b.TempDir())
	o.MaxBytes = 1 << 40
	q := open(b, o)
	readings := some(b, 100_000, config.PriorityNormal)
	for range 10 {
		if err := q.Enqueue(context.Background(), readings); err != nil {
			b.Fatal(err)
		}
	}
	shut(b, q)
	b.ReportAllocs()
	for b.Loop() {
		q, err := syncqueue.Open(context.Background(), o)
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if depth := q.Stats().Depth; depth != 1_000_000 {
			b.Fatalf("depth %d", depth)
		}
		shut(b, q)
		b.StartTimer()
	}
	b.ReportMetric(b.Elapsed().Seconds()*1000/float64(b.N), "ms/open")
}
