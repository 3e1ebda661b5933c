package ingest

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// BenchmarkIngest is what devices can deliver to one controller: durable
// readings a second over HTTP on loopback, zstd bodies, the making of the
// bodies included.
func BenchmarkIngest(b *testing.B) {
	for _, size := range []int{100, 1000} {
		for _, devices := range []int{1, 8} {
			b.Run(fmt.Sprintf("batch=%d/devices=%d", size, devices), func(b *testing.B) {
				benchmarkIngest(b, size, devices)
			})
		}
	}
}

func benchmarkIngest(b *testing.B, size, devices int) {
	s, _ := runStore(b, filepath.Join(b.TempDir(), "fleet.db"))
	url, _ := serve(b, s, Limits{})
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: devices}}
	defer client.CloseIdleConnections()
	batches := make(chan struct{})
	done := make(chan struct{})
	var failed atomic.Int64
	for d := range devices {
		go func() {
			defer func() { done <- struct{}{} }()
			encoder, _ := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
			defer encoder.Close()
			var plain, body []byte
			for seq := uint64(1); ; {
				if _, ok := <-batches; !ok {
					return
				}
				plain = plain[:0]
				for range size {
					r := reading(fmt.Sprintf("FLEET-%012d", d), seq)
					r.Sensor = fmt.Sprintf("temp-%02d", seq%40)
					plain = append(r.AppendJSON(plain), '\n')
					seq++
				}
				body = encoder.EncodeAll(plain, body[:0])
				r, _ := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
				r.Header.Set("Authorization", "Bearer right")
				r.Header.Set("Content-Type", typeNDJSON)
				r.Header.Set("Content-Encoding", "zstd")
				r.Header.Set("Idempotency-Key", fmt.Sprintf("FLEET-%012d:%d-%d", d, seq-uint64(size), seq-1))
				res, err := client.Do(r)
				if err != nil {
					failed.Add(1)
					continue
				}
				if res.StatusCode != http.StatusOK {
					failed.Add(1)
				}
				_, _ = io.Copy(io.Discard, res.Body)
				res.Body.Close()
			}
		}()
	}
	b.ReportAllocs()
	for b.Loop() {
		batches <- struct{}{}
	}
	close(batches)
	for range devices {
		<-done
	}
	b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "readings/s")
	if failed.Load() > 0 {
		b.Fatalf("%d batches were refused", failed.Load())
	}
}
