package serial

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"go.bug.st/serial"
	"go.uber.org/goleak"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// secret is in what devices send, and must be in no error.
const secret = "4711"

// device is what is plugged into a port: the other end of a pty.
type device struct {
	*os.File
	slave  *os.File
	unplug func() // may be called again
}

// plug connects a device to the port that link names.
func plug(t *testing.T, link string) *device {
	t.Helper()
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	d := &device{File: master, slave: slave}
	d.unplug = sync.OnceFunc(func() {
		slave.Close() // ends a read of the master, which its own close would not
		master.Close()
	})
	t.Cleanup(d.unplug)
	// A terminal echoes and edits lines until somebody tells it not to.
	p, err := serial.Open(slave.Name(), &serial.Mode{BaudRate: 9600})
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	os.Remove(link)
	if err := os.Symlink(slave.Name(), link); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *device) send(t *testing.T, text string) {
	t.Helper()
	if _, err := d.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

// answer sends text for each request, and counts those that are as wanted.
func (d *device) answer(request, text string) (count func() int) {
	var mu sync.Mutex
	n := 0
	go func() {
		buf := make([]byte, len(request))
		for at := 0; ; {
			got, err := d.Read(buf[at:])
			if err != nil {
				return
			}
			if at += got; at == len(buf) && string(buf) == request {
				mu.Lock()
				n++
				mu.Unlock()
				d.WriteString(text)
				at = 0
			}
		}
	}()
	return func() int { mu.Lock(); defer mu.Unlock(); return n }
}

func portOf(t *testing.T) string { return filepath.Join(t.TempDir(), "usb-Test-if00-port0") }

// newSensor makes a sensor that hands on and complains at once.
func newSensor(t *testing.T, link string, change func(*Options)) *sensor {
	t.Helper()
	o := Type.Options().(*Options)
	o.Device, o.SilenceSeconds = link, 0
	change(o)
	s, err := New(config.Sensor{Name: "test", PollIntervalSeconds: 0.1, Options: o}, sensors.Env{})
	if err != nil {
		t.Fatal(err)
	}
	r := s.(*sensor)
	r.settle, r.patience = 0, time.Nanosecond
	return r
}

// running is a sensor that runs until the test ends.
type running struct {
	*sensor
	woken chan struct{}
	stop  func() // may be called again
}

func run(t *testing.T, s *sensor) *running {
	t.Helper()
	r := &running{sensor: s, woken: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- s.Run(ctx, func() {
			select {
			case r.woken <- struct{}{}:
			default:
			}
		})
	}()
	r.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("Run did not end")
		}
	})
	t.Cleanup(r.stop)
	return r
}

func (r *running) read(t *testing.T) ([]sensors.Sample, error) {
	t.Helper()
	samples, err := r.Read(t.Context())
	if err != nil && strings.Contains(err.Error(), secret) {
		t.Fatalf("the error shows what came: %v", err)
	}
	return samples, err
}

// collect reads until n samples came.
func (r *running) collect(t *testing.T, n int) []sensors.Sample {
	t.Helper()
	var out []sensors.Sample
	eventually(t, fmt.Sprintf("%d samples", n), func() bool {
		got, _ := r.read(t)
		out = append(out, got...)
		return len(out) >= n
	})
	return out
}

// failing waits until Read fails with want in the error, which it returns.
func (r *running) failing(t *testing.T, want string) string {
	t.Helper()
	last := ""
	defer func() {
		if t.Failed() {
			t.Logf("the last error was: %s", last)
		}
	}()
	eventually(t, "an error with "+want, func() bool {
		_, err := r.read(t)
		last = fmt.Sprint(err)
		return err != nil && strings.Contains(last, want)
	})
	return last
}

// open waits until the port is.
func (r *running) open(t *testing.T) {
	t.Helper()
	eventually(t, "the port to be open", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.link == nil && !r.heard.since.IsZero()
	})
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func droppedIn(err error) int {
	var n sensors.Dropped
	errors.As(err, &n)
	return int(n)
}
