package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/internal/buildinfo"
	"github.com/pyvorin/pyvorin-edge/internal/cli"
	"github.com/pyvorin/pyvorin-edge/internal/clock"
	"github.com/pyvorin/pyvorin-edge/privacy"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/syncqueue"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// queueVerb runs `pyvorin-edge queue args...` in dir.
func queueVerb(dir string, args ...string) (string, error) {
	cmd := newQueue(&app{baseDir: dir})
	var out bytes.Buffer
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cli.Prepare(cmd)
	err := cmd.ExecuteContext(context.Background())
	return out.String(), err
}

// queueIn opens the queue of dir and puts n readings and a dead letter into it.
func queueIn(t *testing.T, dir string, n int) *syncqueue.Queue {
	t.Helper()
	ctx := context.Background()
	if err := os.WriteFile(filepath.Join(dir, "device_id"), []byte("FLEET-0123456789ab\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	q, err := syncqueue.Open(ctx, syncqueue.Options{
		Path: filepath.Join(dir, "sync_queue.db"), DeviceID: "FLEET-0123456789ab", Encoding: syncqueue.Zstd,
		Clock: clock.System(buildinfo.Time()), Log: zerolog.Nop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	f, err := privacy.New(config.Privacy{Enabled: true}, privacy.Options{Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	add := func(n int) {
		var readings []privacy.Cleared
		for range n {
			readings = f.Clear(readings, sensors.Reading{
				Sensor: "temp-01", Type: "temperature", Unit: "C", Value: wire.NumberValue(21.5),
				Time: time.Now().Round(0), Quality: wire.Good, Priority: config.PriorityNormal,
			})
		}
		if err := q.Enqueue(ctx, readings); err != nil {
			t.Fatal(err)
		}
	}
	add(1)
	b, _, err := q.Lease(ctx, syncqueue.Want{})
	if err != nil {
		t.Fatal(err)
	}
	if err := q.DeadLetter(ctx, b, 1, 422, `{"error":"unit not known"}`); err != nil {
		t.Fatal(err)
	}
	if err := q.Ack(ctx, b); err != nil {
		t.Fatal(err)
	}
	add(n)
	return q
}

func TestQueueVerbs(t *testing.T) {
	for _, running := range []bool{true, false} {
		t.Run(map[bool]string{true: "agent running", false: "no agent"}[running], func(t *testing.T) {
			dir, err := os.MkdirTemp("", "queue") // short enough for a socket
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			q := queueIn(t, dir, 30)
			var flushErr error
			if running {
				serveAPI(t, dir, syncqueue.API(q, func(context.Context) error { return flushErr }))
				defer q.Close(context.Background())
			} else if err := q.Close(context.Background()); err != nil {
				t.Fatal(err)
			}
			lines := func(n int) func(string) bool {
				return func(out string) bool { return strings.Count(out, "\n") == n && strings.Contains(out, `"seq":2,`) }
			}
			has := func(part string) func(string) bool {
				return func(out string) bool { return strings.Contains(out, part) }
			}
			exported := filepath.Join(dir, "out.ndjson")
			for _, c := range []struct {
				args string
				ok   func(string) bool
			}{
				{"stats", has("30 readings")},
				{"stats --json", has(`"depth":30,`)},
				{"peek", lines(10)},
				{"peek -n 3", lines(3)},
				{"export", lines(30)},
				{"export --out " + exported, has("")},
				{"dead list", has(`{"error":"unit not known"}`)},
				{"dead list", has("temp-01  21.5 C")},
				{"dead list --json", has(`"status":422`)},
				{"dead retry 1", has("1 queued again")},
				{"dead retry", has("0 queued again")},
				{"dead list", has("no dead letters")},
				{"stats --json", has(`"depth":31,`)},
			} {
				out, err := queueVerb(dir, strings.Fields(c.args)...)
				if err != nil || !c.ok(out) {
					t.Errorf("queue %s: %v\n%s", c.args, err, out)
				}
			}
			if data, err := os.ReadFile(exported); err != nil || !lines(30)(string(data)) {
				t.Errorf("exported %v\n%s", err, data)
			}
			if _, err := queueVerb(dir, "flush"); (err == nil) != running {
				t.Errorf("flush: %v", err)
			}
			flushErr = errors.New("the link is down")
			if _, err := queueVerb(dir, "flush"); err == nil || running && err.Error() != "the link is down" {
				t.Errorf("flush without a link: %v", err)
			}
			for _, args := range []string{"peek -n 0", "dead retry x", "nonsense", "dead", "stats extra"} {
				var usage cli.UsageError
				if _, err := queueVerb(dir, strings.Fields(args)...); !errors.As(err, &usage) {
					t.Errorf("queue %s: %v is no usage error", args, err)
				}
			}
		})
	}
}

// What root wrote into the folder of the agent's queue, the agent could not use.
func TestDeadRetryIsForTheOwnerOfTheQueue(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can open the queue of another user")
	}
	dir := t.TempDir()
	q := queueIn(t, dir, 1)
	if err := q.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(dir, "sync_queue.db"), 12345, -1); err != nil {
		t.Fatal(err)
	}
	if out, err := queueVerb(dir, "dead", "retry"); err == nil || !strings.Contains(err.Error(), "belongs to user 12345") {
		t.Errorf("%v\n%s", err, out)
	}
}

// serveAPI listens where the agent of dir would.
func serveAPI(t *testing.T, dir string, api http.Handler) {
	t.Helper()
	if err := os.Mkdir(filepath.Join(dir, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "run", "health.sock"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: api}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
}

func TestQueueVerbsWithoutAQueue(t *testing.T) {
	for _, args := range []string{"stats", "peek", "export", "dead list", "dead retry"} {
		if _, err := queueVerb(t.TempDir(), strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), "there is no queue") {
			t.Errorf("queue %s: %v", args, err)
		}
	}
}
