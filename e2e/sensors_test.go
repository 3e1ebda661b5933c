package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/creack/pty"
	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
	"golang.org/x/sys/unix"

	"github.com/pyvorin/pyvorin-edge/health"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// canary is what devices send and nothing but a reading may hold.
const canary = "canary4711"

// fault is a sensor that cannot be read, and how its cause goes away.
type fault struct {
	name   string
	config string // its keys, but for name
	reason string // what /health says, a regular expression
	mend   func() // nil: it stays
}

// bench is a device with sensors that work and sensors that do not.
type bench struct {
	healthy map[string]string // name to keys
	started func()            // causes what needs an agent that runs; nil: nothing does
	faults  []fault
}

// /health has the reasons of five sensors, so each agent has no more of them.
func TestABrokenSensorHasAReasonAndHarmsNoOther(t *testing.T) {
	for name, lay := range map[string]func(*testing.T) bench{
		"serial": serialBench, "ports": portBench, "network": networkBench, "machine": machineBench,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lay(t).prove(t)
		})
	}
}

func (b bench) prove(t *testing.T) {
	healthy := map[string]string{"healthy": "ingest_type = \"simulator\"\npoll_interval_seconds = 0.2"}
	maps.Copy(healthy, b.healthy)
	config := "[sensors]\npoll_interval_seconds = 0.5\n"
	device := func(name, keys string) {
		config += fmt.Sprintf("[[sensors.devices]]\nname = %q\n%s\n", name, keys)
	}
	for name, keys := range healthy {
		device(name, keys)
	}
	for _, f := range b.faults {
		device(f.name, f.config)
	}
	e := newEdge(t, config+"[health]\nenabled = false\n").start()
	var flows []func(*testing.T)
	for name := range healthy {
		flows = append(flows, e.flowing(name))
	}
	allFlow := func() {
		t.Helper()
		for _, flows := range flows {
			flows(t)
		}
	}
	allFlow()
	if b.started != nil {
		b.started()
	}
	failing := func(name, reason string) {
		t.Helper()
		warning := regexp.MustCompile(`^sensors: ` + name + ` fails: .*(` + reason + `)`)
		e.waitHealth(patience, func(d wire.Health) error {
			for name := range healthy {
				if slices.Contains(d.Sensors.Failing, name) {
					t.Fatalf("the healthy sensor %s fails too: %q", name, d.Warnings)
				}
			}
			if !slices.Contains(d.Sensors.Failing, name) || !slices.ContainsFunc(d.Warnings, warning.MatchString) {
				return fmt.Errorf("%s: no %q in %q", name, reason, d.Warnings)
			}
			if strings.Contains(strings.Join(d.Warnings, "\n"), canary) {
				t.Fatalf("a reason holds what a device sent: %q", d.Warnings)
			}
			return nil
		})
	}
	for _, f := range b.faults {
		failing(f.name, f.reason)
		allFlow()
		if f.mend != nil {
			f.mend()
		}
	}
	for _, f := range b.faults {
		if f.mend == nil {
			failing(f.name, f.reason)
			continue
		}
		e.waitHealth(patience, func(d wire.Health) error {
			if slices.Contains(d.Sensors.Failing, f.name) {
				return fmt.Errorf("%s still fails: %q", f.name, d.Warnings)
			}
			return nil
		})
		e.flowing(f.name)(t)
	}
	allFlow()
	if code := e.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if data, err := os.ReadFile(e.log); err != nil || strings.Contains(string(data), canary) {
		t.Errorf("the log holds what a device sent: %v\n%s", err, data)
	}
}

// flowing returns what waits for a good reading that is newer than the one
// before.
func (e *edge) flowing(sensor string) func(*testing.T) {
	var last time.Time
	return func(t *testing.T) {
		t.Helper()
		eventually(t, patience, func() error {
			resp, err := e.socketClient().Get("http://agent/api/readings")
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			var d struct{ Readings []health.LiveReading }
			if err := json.NewDecoder(resp.Body).Decode(&d); err != nil {
				return err
			}
			for _, r := range d.Readings {
				isOf := r.Sensor == sensor || strings.HasPrefix(r.Sensor, sensor+".")
				if isOf && r.Quality == wire.Good && r.Timestamp.After(last) {
					last = r.Timestamp
					return nil
				}
			}
			return fmt.Errorf("no new reading of %s", sensor)
		})
	}
}

// port is a device on a serial port that says the same again and again.
type port struct {
	t      *testing.T
	link   string
	saying atomic.Pointer[string]
	unplug func()
}

func newPort(t *testing.T) *port {
	p := &port{t: t, link: filepath.Join(t.TempDir(), "usb-Test-if00-port0"), unplug: func() {}}
	p.say("")
	t.Cleanup(func() { p.unplug() })
	return p
}

func (p *port) say(text string) { p.saying.Store(&text) }

func (p *port) plug() {
	p.t.Helper()
	master, slave, err := pty.Open()
	if err != nil {
		p.t.Fatal(err)
	}
	// A terminal echoes and edits lines until somebody tells it not to.
	raw, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil {
		p.t.Fatal(err)
	}
	raw.Lflag, raw.Iflag, raw.Oflag = 0, 0, 0
	if err := unix.IoctlSetTermios(int(slave.Fd()), unix.TCSETS, raw); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Symlink(slave.Name(), p.link); err != nil {
		p.t.Fatal(err)
	}
	gone := make(chan struct{})
	var talking sync.WaitGroup
	talking.Go(func() {
		for {
			select {
			case <-gone:
				return
			case <-time.After(50 * time.Millisecond):
			}
			if _, err := io.WriteString(master, *p.saying.Load()); err != nil {
				return
			}
		}
	})
	p.unplug = sync.OnceFunc(func() {
		os.Remove(p.link)
		close(gone)
		slave.Close() // ends a write of the master, which its own close would not
		talking.Wait()
		master.Close()
	})
}

func serialKeys(path, more string) string {
	return fmt.Sprintf("ingest_type = \"serial\"\ndevice = %q\n%s", path, more)
}

func serialBench(t *testing.T) bench {
	const good = "T=21.5\n"
	silent, noise, foreign, away, loose := newPort(t), newPort(t), newPort(t), newPort(t), newPort(t)
	for _, p := range []*port{silent, noise, foreign, loose} {
		p.plug()
	}
	noise.say("\xff\xfe" + canary + "\x00\n")
	foreign.say("H=" + canary + "\n")
	away.say(good)
	return bench{faults: []fault{
		{"silent", serialKeys(silent.link, "silence_seconds = 1"), "nothing comes", func() { silent.say("21.5\n") }},
		{"away", serialKeys(away.link, "regex = 'T=(.*)'"), "absent", away.plug},
		{"loose", serialKeys(loose.link, "silence_seconds = 1"), "nothing comes", func() {
			loose.say("21.5\n")
			loose.unplug()
			loose.plug()
		}},
		{"noise", serialKeys(noise.link, ""), "none is text", func() { noise.say("21.5\n") }},
		{"foreign", serialKeys(foreign.link, "regex = 'T=(.*)'"), "regex matches none", func() { foreign.say(good) }},
	}}
}

// portBench has a port that three sensors want, and two that the wrong device
// is on.
func portBench(t *testing.T) bench {
	shared, receiver, bus := newPort(t), newPort(t), newPort(t)
	for _, p := range []*port{shared, receiver, bus} {
		p.plug()
	}
	shared.say("21.5\n")
	const sentence = "$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*"
	receiver.say(sentence + "00\n")
	otherName := shared.link + "-2"
	modbus := func(path string) string {
		return fmt.Sprintf("ingest_type = \"modbus\"\nurl = \"rtu://%s\"\naddress = 0", path)
	}
	return bench{
		healthy: map[string]string{"first": serialKeys(shared.link, "")},
		started: func() { // first has the port
			if err := os.Symlink(shared.link, otherName); err != nil {
				t.Fatal(err)
			}
		},
		faults: []fault{
			{"second", serialKeys(otherName, ""), "in use by the sensor first", nil},
			{"meter", modbus(otherName), "in use by the sensor first", nil},
			{"nobody", modbus(bus.link), "no complete answer from unit 1", nil},
			{"damaged", serialKeys(receiver.link, `framing = "nmea"`), "no intact NMEA sentence", func() { receiver.say(sentence + "47\n") }},
		},
	}
}

func networkBench(t *testing.T) bench {
	address := func() string { return fmt.Sprintf("127.0.0.1:%d", freePort(t)) }
	broker, site, plc := address(), address(), address()
	listen := func(address string) net.Listener {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	var answering atomic.Bool
	serveModbus(listen(plc), &answering)
	return bench{faults: []fault{
		{"site", fmt.Sprintf("ingest_type = \"http\"\nurl = \"http://%s/\"\njson_path = \"t\"", site), "connection refused", func() {
			s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"t":21.5}`) })}
			t.Cleanup(func() { s.Close() })
			go s.Serve(listen(site))
		}},
		{"broker", fmt.Sprintf("ingest_type = \"mqtt\"\nbroker = \"tcp://%s\"\ntopics = [\"home/#\"]", broker), "cannot connect", func() { startBroker(t, broker) }},
		{"plc", fmt.Sprintf("ingest_type = \"modbus\"\nurl = \"tcp://%s\"\naddress = 0", plc), "no complete answer from unit 1", func() { answering.Store(true) }},
		{"gone", fmt.Sprintf("ingest_type = \"modbus\"\nurl = \"tcp://%s\"\naddress = 0", address()), "cannot connect", nil},
	}}
}

// serveModbus takes requests, and answers with the register 215 when it may.
func serveModbus(l net.Listener, answering *atomic.Bool) {
	serve := func(c net.Conn) {
		defer c.Close()
		request := make([]byte, 12)
		for {
			if _, err := io.ReadFull(c, request); err != nil {
				return
			}
			if answering.Load() {
				c.Write([]byte{request[0], request[1], 0, 0, 0, 5, request[6], request[7], 2, 0, 215})
			}
		}
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
}

// everyone may do anything at the broker.
type everyone struct{ mochi.HookBase }

func (*everyone) ID() string { return "everyone" }

func (*everyone) Provides(b byte) bool {
	return b == mochi.OnConnectAuthenticate || b == mochi.OnACLCheck
}

func (*everyone) OnConnectAuthenticate(*mochi.Client, packets.Packet) bool { return true }
func (*everyone) OnACLCheck(*mochi.Client, string, bool) bool              { return true }

// startBroker starts a broker on which something is published all the time.
func startBroker(t *testing.T, address string) {
	t.Helper()
	s := mochi.New(&mochi.Options{InlineClient: true, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	err := errors.Join(s.AddHook(&everyone{}, nil), s.AddListener(listeners.NewTCP(listeners.Config{ID: "t", Address: address})), s.Serve())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var publishing sync.WaitGroup
	publishing.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(50 * time.Millisecond):
				s.Publish("home/hall", []byte("21.5"), false, 0)
			}
		}
	})
	t.Cleanup(func() {
		close(done)
		publishing.Wait()
		s.Close()
	})
}

func machineBench(t *testing.T) bench {
	dir := t.TempDir()
	number, program, runs := filepath.Join(dir, "number"), filepath.Join(dir, "program"), filepath.Join(dir, "runs")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(program, fmt.Sprintf("#!/bin/sh\nwhile [ -e %s ]; do echo 21.5; sleep 0.1; done\necho %s\n", runs, canary))
	return bench{faults: []fault{
		{"line", "ingest_type = \"gpio\"\nchip = \"no-such-chip\"\nline = \"17\"", "absent|permission denied", nil},
		{"chip", "ingest_type = \"sysfs\"\nbus = \"iio\"\nchip = \"no-such-chip\"", "absent", nil},
		{"stuck", "ingest_type = \"simulator\"\nwaveform = \"constant\"\nnoise = 0\nfrozen_after_seconds = 1", "has not changed for 1 s", nil},
		{"file", fmt.Sprintf("ingest_type = \"sysfs\"\nbus = \"path\"\npath = %q", number), "no such file", func() { write(number, "21.5\n") }},
		{"program", fmt.Sprintf("ingest_type = \"exec\"\ncommand = [%q]\nstream = true", program), "has to keep running", func() { write(runs, "") }},
	}}
}
