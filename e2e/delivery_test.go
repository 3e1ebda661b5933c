package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/pyvorin/pyvorin-edge/wire"
)

// fastConfig reads three sensors many times a second and delivers at once.
func fastConfig(c *controller) string {
	return fmt.Sprintf(`
[sensors]
poll_interval_seconds = 0.02
devices = [
  { name = "wave", ingest_type = "simulator", sensor_type = "temperature", unit = "C" },
  { name = "walk", ingest_type = "simulator", sensor_type = "humidity", unit = "%%", waveform = "random_walk", priority = "high" },
  { name = "machine", ingest_type = "system", poll_interval_seconds = 0.2 },
]
[cloud]
enabled = true
endpoint = "%s/v1/ingest"
api_key_file = %q
flush_interval_seconds = 0.1
commit_interval_seconds = 0.05
retry_min_seconds = 0.05
retry_max_seconds = 0.5
[health]
port = @PORT@
`, c.url(), c.keyFile())
}

// settled waits until everything that was queued has arrived, and checks that
// nothing is missing and nothing was given out twice.
func settled(t testing.TB, e *edge, c *controller) device {
	t.Helper()
	e.waitHealth(patience, func(d wire.Health) error {
		if d.Cloud.QueueDepth > 60 { // new readings come all the time
			return fmt.Errorf("%d readings are still queued", d.Cloud.QueueDepth)
		}
		return nil
	})
	if code := e.stop(); code != 0 {
		t.Errorf("the agent ended with %d, want 0", code)
	}
	d := c.device()
	if d.Received == 0 || d.Missing != 0 || d.Conflicts != 0 || d.Received != d.MaxSeq {
		t.Errorf("the controller has %+v, want every seq from 1 to max_seq once", d)
	}
	// The stop delivered the rest: what is still queued would not be missed above.
	var left struct {
		Depth       int64 `json:"depth"`
		DeadLetters int64 `json:"dead_letters"`
	}
	out, err := e.cli("queue", "stats", "--json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &left)
	}
	if err != nil || left.Depth != 0 || left.DeadLetters != 0 {
		t.Errorf("the stopped agent's queue holds %+v, %v; want nothing", left, err)
	}
	return d
}

func TestReadingsArriveAndTheAgentIsHealthy(t *testing.T) {
	c := newController(t)
	e := newEdge(t, fastConfig(c)).start()
	begun := time.Now()
	eventually(t, patience, func() error {
		if c.device().Received == 0 {
			return errors.New("no reading arrived")
		}
		return nil
	})
	t.Logf("first reading at the controller %d ms after the agent's start", time.Since(begun).Milliseconds())
	d := e.waitHealth(patience, func(d wire.Health) error {
		if d.Sensors.OK != 3 || d.Cloud.LastFlushTime == nil {
			return fmt.Errorf("%d sensors ok, warnings %q", d.Sensors.OK, d.Warnings)
		}
		return sound(d)
	})
	if d.Metrics.CPUPercent == nil || d.Metrics.DiskPercent == nil || !d.Agent.Running || d.Agent.ConfigHash == "" {
		t.Errorf("the document lacks figures: %+v", d)
	}
	for _, path := range []string{"/health", "/livez", "/readyz", "/metrics", "/"} {
		if _, err := get(e.url() + path); err != nil {
			t.Errorf("GET %s: %v", path, err)
		}
	}
	settled(t, e, c)
}

// TestACutLinkLosesNothing kills the controller, lets the queue grow, and
// brings the controller back.
func TestACutLinkLosesNothing(t *testing.T) {
	c := newController(t)
	e := newEdge(t, fastConfig(c)).start()
	eventually(t, patience, func() error {
		if c.device().Received < 50 {
			return errors.New("nothing arrives before the cut")
		}
		return nil
	})
	c.kill()
	d := e.waitHealth(patience, func(d wire.Health) error {
		if d.Cloud.QueueDepth < 300 || d.Cloud.LastError == nil || d.Cloud.TotalRetries == 0 {
			return fmt.Errorf("%d queued, last error %v", d.Cloud.QueueDepth, d.Cloud.LastError)
		}
		return nil
	})
	if err := sound(d); err != nil {
		t.Errorf("while only the link is down: %v", err)
	}
	c.start()
	settled(t, e, c)
}

// TestKillNine kills the agent fifty times at random instants.
func TestKillNine(t *testing.T) {
	kills := 50
	if testing.Short() {
		kills = 5
	}
	c := newController(t)
	e := newEdge(t, fastConfig(c))
	for range kills {
		e.start()
		// From before the queue is open to well into delivery.
		time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond)
		e.kill()
	}
	e.start()
	d := settled(t, e, c)
	t.Logf("%d kills: %d readings, each once; %d duplicates removed by the controller", kills, d.Received, d.Duplicates)
	if d.Received < 200 {
		t.Errorf("only %d readings: the kills came too early to prove anything", d.Received)
	}
}

// TestKillNineOfTheController does the same to the receiving end.
func TestKillNineOfTheController(t *testing.T) {
	c := newController(t)
	e := newEdge(t, fastConfig(c)).start()
	for range 10 {
		time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond)
		c.kill()
		c.start()
	}
	settled(t, e, c)
}

// TestDiskFull fills the disk under the queue and frees it again.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		t.Skipf("needs to mount a small file system, which this user may not: %v (syncqueue's tests cover the queue's side)", err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	c := newController(t)
	e := newEdge(t, fastConfig(c))
	e.dir = filepath.Join(dir, "edge")
	if err := os.MkdirAll(e.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	e.writeConfig(fastConfig(c))
	c.kill()
	e.start()
	e.waitHealth(patience, func(d wire.Health) error {
		if d.Cloud.QueueDepth == 0 {
			return errors.New("nothing queued")
		}
		return nil
	})
	filler, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = filler.Write(make([]byte, 4096))
	}
	filler.Close()
	e.waitHealth(patience, func(d wire.Health) error {
		if d.Checks["queue"] != wire.CheckCritical || d.Status != wire.Unhealthy {
			return fmt.Errorf("the queue check is %s, the device %s", d.Checks["queue"], d.Status)
		}
		return nil
	})
	if err := os.Remove(filler.Name()); err != nil {
		t.Fatal(err)
	}
	e.waitHealth(patience, func(d wire.Health) error {
		if d.Checks["queue"] != wire.CheckOK {
			return fmt.Errorf("the queue check is still %s: %q", d.Checks["queue"], d.Warnings)
		}
		return nil
	})
	c.start()
	settled(t, e, c)
}
