package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/internal/clock"
	"github.com/pyvorin/pyvorin-edge/privacy"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/syncqueue"
	"github.com/pyvorin/pyvorin-edge/syncqueue/uplink"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// BenchmarkStartToFirstDelivery is the time from exec to the first reading at
// the controller.
func BenchmarkStartToFirstDelivery(b *testing.B) {
	c := newController(b)
	var total time.Duration
	for range b.N {
		e := newEdge(b, fastConfig(c))
		before := c.received()
		begun := time.Now()
		e.start()
		eventually(b, 20*time.Second, func() error {
			if c.received() == before {
				return errors.New("nothing arrived")
			}
			return nil
		})
		total += time.Since(begun)
		e.kill()
	}
	b.ReportMetric(float64(total.Milliseconds())/float64(b.N), "ms/start")
	b.ReportMetric(0, "ns/op")
}

// received counts readings over all devices.
func (c *controller) received() int64 {
	var n int64
	for _, d := range c.devices() {
		n += d.Received
	}
	return n
}

// BenchmarkIdleAgent is what an agent with ten sensors costs that are read every
// five seconds, delivered, and watched.
func BenchmarkIdleAgent(b *testing.B) {
	c := newController(b)
	var devices strings.Builder
	for i := range 10 {
		fmt.Fprintf(&devices, "{ name = \"sensor-%d\", ingest_type = \"simulator\" },\n", i)
	}
	e := newEdge(b, fmt.Sprintf(`
[sensors]
poll_interval_seconds = 5
devices = [ %s ]
[cloud]
enabled = true
endpoint = "%s/v1/ingest"
api_key_file = %q
flush_interval_seconds = 5
[health]
port = @PORT@
`, devices.String(), c.url(), c.keyFile())).start()
	e.waitHealth(10*time.Second, func(d wire.Health) error {
		if d.Cloud.MessagesSentToday == 0 {
			return errors.New("nothing delivered yet")
		}
		return nil
	})
	const span = 20 * time.Second
	cpu := e.cpu()
	time.Sleep(span)
	b.ReportMetric(100*(e.cpu()-cpu).Seconds()/span.Seconds(), "%cpu")
	b.ReportMetric(float64(e.rss())/(1<<20), "MiB-rss")
	b.ReportMetric(0, "ns/op")
}

// rss returns the agent's resident memory in bytes.
func (e *edge) rss() int64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", e.cmd.Process.Pid))
	if err != nil {
		e.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "VmRSS:")
	kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		e.t.Fatal(err)
	}
	return kb << 10
}

// cpu returns the agent's processor time so far.
func (e *edge) cpu() time.Duration {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", e.cmd.Process.Pid))
	if err != nil {
		e.t.Fatal(err)
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+2:]))
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * (time.Second / 100)
}

// BenchmarkBytesWritten is what flash sees for a reading that is queued and
// delivered, journal of the file system included: sectors written on a device of
// its own. It needs root, mkfs.ext4 and a loop device.
func BenchmarkBytesWritten(b *testing.B) {
	for _, group := range []int{10, 100, 1000} {
		b.Run(fmt.Sprintf("frames_of_%d", group), func(b *testing.B) {
			dir, sectors := loopDevice(b)
			ctx := context.Background()
			q, err := syncqueue.Open(ctx, syncqueue.Options{
				Path: filepath.Join(dir, "sync_queue.db"), DeviceID: "BENCH-000000000000", Encoding: syncqueue.Zstd, BatchSize: group,
				MaxBytes: 64 << 20, MaxDeadLetters: 10, Clock: clock.System(time.Time{}), Log: zerolog.Nop(),
			})
			if err != nil {
				b.Fatal(err)
			}
			defer q.Close(ctx)
			const total = 100_000
			batches := clearedReadings(b, total/group, group)
			before := sectors()
			for _, readings := range batches {
				if err := q.Enqueue(ctx, readings); err != nil {
					b.Fatal(err)
				}
				batch, ok, err := q.Lease(ctx, syncqueue.Want{Readings: group, Bytes: 1 << 20})
				if err != nil || !ok {
					b.Fatal(ok, err)
				}
				if err := q.Ack(ctx, batch); err != nil {
					b.Fatal(err)
				}
			}
			if out, err := exec.Command("sync", "-f", dir).CombinedOutput(); err != nil {
				b.Fatalf("sync: %v %s", err, out)
			}
			b.ReportMetric(float64(512*(sectors()-before))/total, "B/reading")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkDrainBacklog is a backlog of 100,000 readings, delivered from the
// queue's file to an HTTPS server on this machine that reads and drops it.
func BenchmarkDrainBacklog(b *testing.B) {
	for _, size := range []int{100, 1000} {
		b.Run(fmt.Sprintf("batches_of_%d", size), func(b *testing.B) {
			const total = 100_000
			batches := clearedReadings(b, total/size, size)
			var sent atomic.Int64
			server := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				n, _ := io.Copy(io.Discard, r.Body)
				sent.Add(n)
			}))
			defer server.Close()
			var took time.Duration
			for range b.N {
				took += drainBacklog(b, server, batches, size)
			}
			b.ReportMetric(float64(b.N)*total/took.Seconds(), "readings/s")
			b.ReportMetric(float64(sent.Load())/float64(b.N)/total, "wireB/reading")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func drainBacklog(b *testing.B, server *httptest.Server, batches [][]privacy.Cleared, size int) time.Duration {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	q, err := syncqueue.Open(ctx, syncqueue.Options{
		Path: filepath.Join(b.TempDir(), "sync_queue.db"), DeviceID: "BENCH-000000000000", Encoding: syncqueue.Zstd, BatchSize: size,
		Clock: clock.System(time.Time{}), Log: zerolog.Nop(),
	})
	if err != nil {
		b.Fatal(err)
	}
	defer q.Close(context.Background())
	for _, readings := range batches {
		if err := q.Enqueue(ctx, readings); err != nil {
			b.Fatal(err)
		}
	}
	up, err := uplink.New(uplink.Options{
		Queue: q, DeviceID: "BENCH-000000000000", Endpoint: server.URL, Transport: server.Client().Transport, BatchSize: size,
		FlushInterval: time.Hour, RequestTimeout: time.Minute, RetryMin: time.Second, RetryMax: time.Second, Log: zerolog.Nop(),
	})
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan error, 1)
	begun := time.Now()
	go func() { done <- up.Run(ctx) }()
	if err := up.Flush(ctx); err != nil {
		b.Fatal(err)
	}
	took := time.Since(begun)
	if depth := q.Stats().Depth; depth != 0 {
		b.Fatalf("%d readings are left", depth)
	}
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	return took
}

// clearedReadings returns batches of readings of 40 sensors, made as the agent
// makes them: random walks with two decimals, so that they compress no better
// than real ones.
func clearedReadings(b *testing.B, batches, size int) [][]privacy.Cleared {
	filter, err := privacy.New(config.Privacy{Enabled: false}, privacy.Options{Log: zerolog.Nop()})
	if err != nil {
		b.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	values := [40]float64{}
	out := make([][]privacy.Cleared, batches)
	for i := range batches * size {
		s := i % len(values)
		values[s] += random.NormFloat64()
		at = at.Add(time.Duration(20+random.IntN(10)) * time.Millisecond)
		out[i/size] = filter.Clear(out[i/size], sensors.Reading{
			Sensor: fmt.Sprintf("sensor-%02d", s), Type: "temperature", Unit: "C", Quality: wire.Good,
			Value: wire.NumberValue(20 + math.Round(100*values[s])/100), Time: at, Priority: config.PriorityNormal,
		})
	}
	return out
}

// loopDevice mounts a new ext4 of its own and returns its folder and a counter
// of sectors written to it.
func loopDevice(b *testing.B) (dir string, sectors func() int64) {
	b.Helper()
	tmp := b.TempDir()
	image, dir := filepath.Join(tmp, "image"), filepath.Join(tmp, "mnt")
	run := func(name string, args ...string) string {
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			b.Skipf("%s: %v %s (this figure needs root, mkfs.ext4 and a loop device)", name, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(image, nil, 0o600), os.Truncate(image, 256<<20)); err != nil {
		b.Fatal(err)
	}
	run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
	loop := run("losetup", "--show", "-f", image)
	b.Cleanup(func() { exec.Command("losetup", "-d", loop).Run() })
	run("mount", loop, dir)
	b.Cleanup(func() { exec.Command("umount", dir).Run() })
	run("sync", "-f", dir)
	return dir, func() int64 {
		data, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(loop), "stat"))
		if err != nil {
			b.Fatal(err)
		}
		n, err := strconv.ParseInt(strings.Fields(string(data))[6], 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		return n
	}
}
