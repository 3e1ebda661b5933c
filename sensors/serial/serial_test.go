package serial

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.bug.st/serial"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

func TestLines(t *testing.T) {
	link := portOf(t)
	d := plug(t, link)
	d.send(t, "2.5\n12.5\r\n\r\nopen\r-3e1\n") // the first is the rest of a line
	r := run(t, newSensor(t, link, func(*Options) {}))
	got := r.collect(t, 3)
	want := []wire.Value{wire.NumberValue(12.5), wire.TextValue("open"), wire.NumberValue(-30)}
	if len(got) != len(want) {
		t.Fatalf("%+v", got)
	}
	for i, s := range got {
		if s.Value != want[i] || s.Channel != "" || s.Quality != "" || s.Time.IsZero() {
			t.Errorf("sample %d: %+v", i, s)
		}
	}
	select {
	case <-r.woken:
	case <-time.After(20 * time.Second):
		t.Error("not woken")
	}
	if got, err := r.read(t); err != nil || len(got) != 0 {
		t.Errorf("no line is no error: %+v, %v", got, err)
	}
}

// The first line that a silent device sends is whole: of a scale that answers
// on demand there is no other.
func TestRequest(t *testing.T) {
	link := portOf(t)
	d := plug(t, link)
	requests := d.answer("SI\r\n", "S S  -    1.25 kg\r\n")
	r := run(t, newSensor(t, link, func(o *Options) {
		o.Request, o.Regex = "SI\r\n", `^S [SD]\s+([-+]?\s*[\d.]+) kg$`
	}))
	got := r.collect(t, 3)
	for _, s := range got {
		if s.Value != wire.NumberValue(-1.25) {
			t.Errorf("%+v", s)
		}
	}
	if n := requests(); n < len(got) {
		t.Errorf("%d samples of %d requests", len(got), n)
	}
}

func TestNMEA(t *testing.T) {
	link := portOf(t)
	d := plug(t, link)
	r := run(t, newSensor(t, link, func(o *Options) { o.Framing = "nmea" }))
	d.send(t, "0*7C\r\n"+strings.Join([]string{
		"$GNGGA,203415.000,6325.6138,N,01021.4290,E,1,8,2.42,72.5,M,41.5,M,,*7C",
		"$GPVTG,220.86,T,,M,2.550,N,4.724,K,A*34",
		"",
	}, "\r\n"))
	values := map[string]wire.Value{}
	for _, s := range r.collect(t, 8) {
		values[s.Channel] = s.Value
	}
	for channel, want := range map[string]float64{
		"fix": 1, "latitude": 63.42689667, "longitude": 10.35715, "altitude": 72.5,
		"speed": 1.312, "course": 220.86, "satellites": 8, "hdop": 2.42,
	} {
		if values[channel] != wire.NumberValue(want) {
			t.Errorf("%s is %v, want %v", channel, values[channel], want)
		}
	}
	if got, err := r.read(t); err != nil || len(got) != 0 {
		t.Errorf("nothing new is no error: %+v, %v", got, err)
	}
}

// A receiver's first values wait for each other, and wake the poller once.
func TestNMEASettles(t *testing.T) {
	link := portOf(t)
	d := plug(t, link)
	s := newSensor(t, link, func(o *Options) { o.Framing = "nmea" })
	s.settle = time.Hour
	r := run(t, s)
	d.send(t, "\r\n"+sentence("GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,"))
	eventually(t, "the sentence", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return !r.heard.first.IsZero()
	})
	if got, err := r.read(t); len(got) != 0 || err != nil {
		t.Errorf("not settled: %+v, %v", got, err)
	}
	r.mu.Lock()
	r.settle = time.Nanosecond
	r.mu.Unlock()
	select {
	case <-r.woken:
	case <-time.After(20 * time.Second):
		t.Error("not woken")
	}
	if got := r.collect(t, 6); len(got) != 6 {
		t.Errorf("%+v", got)
	}
}

func TestUnplugAndReplug(t *testing.T) {
	for _, framing := range []string{"line", "nmea"} {
		t.Run(framing, func(t *testing.T) {
			link := portOf(t)
			d := plug(t, link)
			s := newSensor(t, link, func(o *Options) { o.Framing = framing })
			rounds := 1
			if framing == "nmea" {
				rounds, s.reopen = 3, 10*time.Millisecond
			}
			r := run(t, s)
			text := "\r\n42\r\n"
			if framing == "nmea" {
				text = "\r\n" + sentence("GPRMC,123519,A,4807.038,N,01131.000,E,022.4,084.4,230394,003.1,W")
			}
			for range rounds {
				r.open(t)
				d.send(t, text)
				r.collect(t, 1)
				if _, err := r.read(t); err != nil {
					t.Fatal(err)
				}
				for len(r.woken) > 0 {
					<-r.woken
				}
				os.Remove(link)
				d.unplug()
				select {
				case <-r.woken:
				case <-time.After(20 * time.Second):
					t.Fatal("a lost port did not wake the poller")
				}
				r.failing(t, "port "+link+": absent")
				d = plug(t, link)
				began := time.Now()
				r.open(t)
				t.Logf("recovered after %v", time.Since(began))
			}
			if _, err := r.read(t); err != nil {
				t.Errorf("it was plugged in again: %v", err)
			}
			d.unplug()
			r.stop()
		})
	}
}

// What the library says when the other end goes away, while a read waits and
// before one.
func TestALostPort(t *testing.T) {
	link := portOf(t)
	for _, early := range []bool{true, false} {
		d := plug(t, link)
		s := newSensor(t, link, func(o *Options) { o.Request = "SI\r\n" })
		p, err := serial.Open(link, &s.mode)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		ended := make(chan error, 1)
		if early {
			d.unplug()
		}
		go func() { ended <- s.listen(t.Context(), p, func() {}) }()
		if !early {
			d.unplug()
		}
		select {
		case err := <-ended:
			if !errors.Is(err, errGone) {
				t.Error(err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("it listens on")
		}
	}
}

func TestUselessInput(t *testing.T) {
	noise := make([]byte, 20_000)
	for i := range noise {
		noise[i] = byte(0x80 | i*37)
	}
	badSum := strings.Replace(sentence("GPVTG,"+secret+",T,,M,2.550,N,4.724,K,A"), secret, "4712", 1)
	tests := []struct {
		name   string
		change func(*Options)
		input  string
		want   string
	}{
		{"binary", func(*Options) {}, string(noise), "no end of line: check baud_rate (9600)"},
		{"binary for nmea", func(o *Options) { o.Framing, o.BaudRate = "nmea", 4800 }, string(noise), "no end of line: check baud_rate (4800)"},
		{"not text", func(*Options) {}, strings.Repeat("\xff\xfe"+secret+"\x01\x80\r\n", 20), "10 lines or more came, but none is text in UTF-8"},
		{"no match", func(o *Options) { o.Regex = `T=(\d+)` }, strings.Repeat("U="+secret+"\r\n", 200), "100 lines or more came, but regex matches none"},
		{"one line", func(o *Options) { o.Regex = `T=(\d+)` }, "\nU=" + secret + "\r\n", ": lines came, but regex matches none"},
		{"text for nmea", func(o *Options) { o.Framing = "nmea" }, strings.Repeat("T="+secret+"\r\n", 20), "10 lines or more came, but no intact NMEA sentence: check baud_rate (9600)"},
		{"bad checksums", func(o *Options) { o.Framing = "nmea" }, strings.Repeat(badSum, 20), "no intact NMEA sentence: check baud_rate (9600)"},
		{"another talker", func(o *Options) { o.Framing = "nmea" }, strings.Repeat(sentence("WIMWV,214.8,R,0.1,K,A"), 20), "no GGA, RMC, VTG, GLL or GSA"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			link := portOf(t)
			d := plug(t, link)
			r := run(t, newSensor(t, link, tt.change))
			r.open(t)
			d.send(t, tt.input)
			first := r.failing(t, tt.want)
			if !strings.HasPrefix(first, "port "+link+": ") {
				t.Errorf("it names no port: %s", first)
			}
			d.send(t, tt.input)
			if again := r.failing(t, "port "); again != first {
				t.Errorf("the same fault reads otherwise: %s", again)
			}
		})
	}
}

// A device that tells other things between its values is patiently heard.
func TestPatience(t *testing.T) {
	link := portOf(t)
	d := plug(t, link)
	s := newSensor(t, link, func(o *Options) { o.Regex = `T=(\d+)` })
	s.patience = time.Hour
	r := run(t, s)
	d.send(t, "\n"+strings.Repeat("other\n", 1000)+"T=7\n"+strings.Repeat("other\n", 1000))
	eventually(t, "the lines", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.heard.useless == 1000
	})
	if got, err := r.read(t); err != nil || len(got) != 1 || got[0].Value != wire.NumberValue(7) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestSilence(t *testing.T) {
	for want, request := range map[string]string{"nothing comes": "", "no answer to request": "SI\r\n"} {
		link := portOf(t)
		d := plug(t, link)
		s := newSensor(t, link, func(o *Options) { o.Request = request })
		s.silence = time.Nanosecond
		r := run(t, s)
		if err := r.failing(t, want); !strings.Contains(err, "baud_rate (9600)") {
			t.Error(err)
		}
		r.mu.Lock()
		r.silence = time.Hour
		r.mu.Unlock()
		d.send(t, "\n1\n")
		r.collect(t, 1)
		if _, err := r.read(t); err != nil {
			t.Errorf("it spoke: %v", err)
		}
	}
}

func TestFloodIsBoundedAndCounted(t *testing.T) {
	link := portOf(t)
	d := plug(t, link)
	r := run(t, newSensor(t, link, func(o *Options) { o.BufferReadings = 10 }))
	r.open(t)
	const n = 10_000
	var flood bytes.Buffer
	for i := range n {
		fmt.Fprintf(&flood, "\n%d", i)
	}
	d.send(t, flood.String()+"\n")
	eventually(t, "the last line", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.heard.lines == n
	})
	got, err := r.read(t)
	if len(got) != 10 || droppedIn(err) != n-10 || !strings.Contains(err.Error(), "buffer_readings") {
		t.Fatalf("%d samples, %v, %d dropped", len(got), err, droppedIn(err))
	}
	for i, s := range got {
		if s.Value != wire.NumberValue(float64(n-10+i)) {
			t.Errorf("sample %d is %v", i, s.Value)
		}
	}
	if got, err := r.read(t); len(got) != 0 || err != nil {
		t.Errorf("told twice: %+v, %v", got, err)
	}
}

func TestTooLongALine(t *testing.T) {
	link := portOf(t)
	d := plug(t, link)
	s := newSensor(t, link, func(o *Options) { o.MaxLineBytes = 100 })
	r := run(t, s)
	d.send(t, "\n1\n"+strings.Repeat(secret, 100_000)+"\n2\n"+strings.Repeat("x", 101)+"\n"+strings.Repeat("y", 100)+"\n")
	var got []sensors.Sample
	dropped := 0
	eventually(t, "the lines", func() bool {
		more, err := r.read(t)
		got, dropped = append(got, more...), dropped+droppedIn(err)
		if err != nil && !strings.Contains(err.Error(), "max_line_bytes") && !strings.Contains(err.Error(), "no end of line") {
			t.Fatal(err)
		}
		return len(got) == 3
	})
	if got[0].Value != wire.NumberValue(1) || got[1].Value != wire.NumberValue(2) || got[2].Value != wire.TextValue(strings.Repeat("y", 100)) || dropped != 2 {
		t.Errorf("%+v, %d dropped", got, dropped)
	}
}

func TestTwoSensorsOnOnePort(t *testing.T) {
	link := portOf(t)
	d := plug(t, link)
	first := run(t, newSensor(t, link, func(*Options) {}))
	first.open(t)
	other := newSensor(t, d.slave.Name(), func(*Options) {}) // under another name
	other.name, other.reopen = "other", 10*time.Millisecond
	second := run(t, other)
	second.failing(t, "is in use by the sensor test")
	d.send(t, "\n42\n")
	first.collect(t, 1)
	if _, err := first.read(t); err != nil {
		t.Errorf("the first owner: %v", err)
	}
	first.stop()
	second.open(t)
	d.send(t, "\n43\n")
	if got := second.collect(t, 1); got[0].Value != wire.NumberValue(43) {
		t.Errorf("%+v", got)
	}
}

// Another process, which may be root's: the exclusive mode of a port does not
// keep that off.
func TestAnotherProgramHasThePort(t *testing.T) {
	link := portOf(t)
	d := plug(t, link)
	unlock, err := lock(link)
	if err != nil {
		t.Fatal(err)
	}
	unlock = sync.OnceFunc(unlock)
	defer unlock()
	s := newSensor(t, link, func(*Options) {})
	s.reopen = 10 * time.Millisecond
	r := run(t, s)
	r.failing(t, "another program has it open")
	unlock()
	r.open(t)
	if _, err := lock(link); err == nil {
		t.Error("the port is not locked")
	}
	d.send(t, "\n42\n")
	r.collect(t, 1)
}

// A read of a single value ends with a reason when something came that was of
// no use, and without one when nothing came.
func TestReadOnce(t *testing.T) {
	link := portOf(t)
	d := plug(t, link)
	once := func(input string, change func(*Options)) ([]sensors.Reading, error) {
		t.Helper()
		o := Type.Options().(*Options)
		o.Device = link
		change(o)
		p, err := sensors.NewPoller(sensors.Options{
			Types: []sensors.Type{Type},
			Defaults: config.Sensors{PollIntervalSeconds: 5, TimeoutSeconds: 0.5, Devices: []config.Sensor{{
				Name: "s", IngestType: "serial", Enabled: true, Scale: 1, MaxReadingsPerPoll: 10, MaxTextBytes: 100, Options: o,
			}}},
			Sink: func([]sensors.Reading) {},
		})
		if err != nil {
			t.Fatal(err)
		}
		d.send(t, input)
		return p.ReadOnce(t.Context(), "s")
	}
	regex := func(o *Options) { o.Regex = `T=(\d+)` }
	if _, err := once("", regex); !errors.Is(err, sensors.ErrSilent) {
		t.Errorf("nothing came: %v", err)
	}
	if got, err := once("\nU="+secret+"\n", regex); err == nil || !strings.Contains(err.Error(), "regex matches none") || len(got) != 1 || got[0].Quality != wire.Bad {
		t.Errorf("no match: %+v, %v", got, err)
	}
	if got, err := once("\nT=7\n", regex); err != nil || len(got) != 1 || got[0].Value != wire.NumberValue(7) {
		t.Errorf("a match: %+v, %v", got, err)
	}
	// Of a receiver that sends fast, what came before the end of the timeout.
	gga := sentence("GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,")
	if got, err := once("\n"+gga, func(o *Options) { o.Framing = "nmea" }); err != nil || len(got) != 6 {
		t.Errorf("a receiver: %+v, %v", got, err)
	}
	os.Remove(link)
	if _, err := once("", regex); err == nil || !strings.Contains(err.Error(), "absent") {
		t.Errorf("unplugged: %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	bad := map[string]func(*Options){
		"no device":            func(o *Options) { o.Device = "" },
		"relative device":      func(o *Options) { o.Device = "ttyUSB0" },
		"regex":                func(o *Options) { o.Regex = "(" },
		"framing":              func(o *Options) { o.Framing = "modbus" },
		"nmea and regex":       func(o *Options) { o.Framing, o.Regex = "nmea", "x" },
		"nmea and request":     func(o *Options) { o.Framing, o.Request = "nmea", "x" },
		"nmea and as_text":     func(o *Options) { o.Framing, o.AsText = "nmea", true },
		"a very long question": func(o *Options) { o.Request = strings.Repeat("?", 257) },
	}
	for name, change := range bad {
		o := Type.Options().(*Options)
		o.Device = "/dev/x"
		change(o)
		if _, err := New(config.Sensor{Options: o}, sensors.Env{}); err == nil {
			t.Errorf("%s passed", name)
		}
	}
	if _, err := New(config.Sensor{Options: 1}, sensors.Env{}); err == nil {
		t.Error("foreign options passed")
	}
}

func TestCountedNamesAreWarnedOf(t *testing.T) {
	for device, want := range map[string]bool{"/dev/ttyUSB0": true, "/dev/ttyACM12": true, "/dev/ttyAMA0": false, "/dev/serial/by-id/usb-x": false} {
		var log bytes.Buffer
		o := Type.Options().(*Options)
		o.Device = device
		root := t.TempDir()
		s, err := New(config.Sensor{Name: "s", PollIntervalSeconds: 1, Options: o}, sensors.Env{SysRoot: root, Log: zerolog.New(&log)})
		if err != nil {
			t.Fatal(err)
		}
		if s.(*sensor).path != filepath.Join(root, device) {
			t.Errorf("it would open %s", s.(*sensor).path)
		}
		r := run(t, s.(*sensor))
		r.failing(t, "port "+device+": absent")
		r.stop()
		if got := strings.Contains(log.String(), "by-id"); got != want {
			t.Errorf("%s: log %q", device, log.String())
		}
	}
}
