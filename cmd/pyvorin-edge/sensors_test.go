package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/pyvorin/pyvorin-edge/internal/cli"
	"github.com/pyvorin/pyvorin-edge/wire"
)

const sensorsConfig = `
[sensors]
poll_interval_seconds = 0.05
devices = [
    { name = "temp-01", ingest_type = "simulator", sensor_type = "temperature", unit = "C", waveform = "constant", noise = 0, min = 20, max = 23 },
    { name = "door-password", ingest_type = "simulator", waveform = "constant", noise = 0 },
    { name = "broken", ingest_type = "simulator", fault_rate = 1, enabled = false },
    { name = "garbled", ingest_type = "simulator", fault_rate = 1, fault = "bad_utf8", enabled = false },
]
[privacy]
enabled = true
rules = [
    { sensor_pattern = "*password*", action = "drop" },
    { sensor_type = "temperature", action = "round", step = 1 },
]
`

// output is a buffer that may be read while it is written.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// runSensors runs `sensors args…` with sensorsConfig.
func runSensors(ctx context.Context, t *testing.T, out, errOut *output, args ...string) error {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{"config.toml": sensorsConfig, "device_id": "FLEET-0123456789ab\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := newSensors(&app{baseDir: dir})
	cli.Prepare(cmd)
	cmd.SetOut(out)
	cmd.SetErr(errOut)
	cmd.SetArgs(args)
	return cmd.ExecuteContext(ctx)
}

func TestSensorsList(t *testing.T) {
	var out, errOut output
	if err := runSensors(t.Context(), t, &out, &errOut, "list"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"NAME", "temp-01        simulator    temperature  C     50ms      -\n", "disabled"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in\n%s", want, &out)
		}
	}

	out = output{}
	if err := runSensors(t.Context(), t, &out, &errOut, "list", "--json"); err != nil {
		t.Fatal(err)
	}
	var entries []sensorEntry
	if err := json.Unmarshal([]byte(out.String()), &entries); err != nil {
		t.Fatal(err)
	}
	want := sensorEntry{Name: "temp-01", IngestType: "simulator", SensorType: "temperature", Unit: "C", Enabled: true, IntervalSeconds: 0.05, TimeoutSeconds: 0.05}
	if len(entries) != 4 || entries[0] != want || entries[2].Enabled {
		t.Errorf("got %+v", entries)
	}
}

func TestSensorsListTypes(t *testing.T) {
	var out, errOut output
	if err := runSensors(t.Context(), t, &out, &errOut, "list", "--types", "--json"); err != nil {
		t.Fatal(err)
	}
	var entries []typeEntry
	if err := json.Unmarshal([]byte(out.String()), &entries); err != nil {
		t.Fatal(err)
	}
	if len(entries) < 2 || entries[0].Name != "simulator" || entries[0].Doc == "" {
		t.Errorf("got %+v", entries)
	}
}

func TestSensorsReadShowsOnlyWhatIsCleared(t *testing.T) {
	var out, errOut output
	if err := runSensors(t.Context(), t, &out, &errOut, "read"); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 3 || !strings.HasPrefix(lines[0], "SENSOR") {
		t.Fatalf("got\n%s", &out)
	}
	// 21.5 was rounded to a step of 1, and 21 is the value behind the password.
	if f := strings.Fields(lines[1]); len(f) < 4 || f[0] != "temp-01" || f[1] != "22" || f[2] != "C" || f[3] != "good" {
		t.Errorf("got %q", lines[1])
	}
	if !strings.HasPrefix(lines[2], "door-password") || !strings.Contains(lines[2], "withheld by the privacy rules") || strings.Contains(lines[2], "21") {
		t.Errorf("got %q", lines[2])
	}

	out, errOut = output{}, output{}
	if err := runSensors(t.Context(), t, &out, &errOut, "read", "--json"); err != nil {
		t.Fatal(err)
	}
	var reading wire.Reading
	if err := json.Unmarshal([]byte(out.String()), &reading); err != nil {
		t.Fatalf("%v in %q", err, &out)
	}
	if v, _ := reading.Value.Float(); v != 22 || reading.Sensor != "temp-01" || reading.DeviceID != "FLEET-0123456789ab" {
		t.Errorf("got %+v", reading)
	}
	if !strings.Contains(errOut.String(), "door-password: 1 withheld") {
		t.Errorf("got notes %q", &errOut)
	}
}

func TestSensorsReadFails(t *testing.T) {
	var out, errOut output
	err := runSensors(t.Context(), t, &out, &errOut, "read", "broken", "temp-01")
	if err == nil || exitCode(err) != cli.ExitFailure || err.Error() != "1 of 2 sensors gave nothing usable: broken" {
		t.Errorf("got %v", err)
	}
	if !strings.Contains(out.String(), "simulated fault") || !strings.Contains(out.String(), "temp-01") {
		t.Errorf("got\n%s", &out)
	}
	if err := runSensors(t.Context(), t, &out, &errOut, "read", "nobody"); err == nil || !strings.Contains(err.Error(), `no sensor is called "nobody"`) {
		t.Errorf("got %v", err)
	}
}

func TestSensorsReadWatch(t *testing.T) {
	for _, args := range [][]string{{"read", "--watch"}, {"read", "--watch", "--json"}} {
		var out, errOut output
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- runSensors(ctx, t, &out, &errOut, args...) }()
		deadline := time.After(20 * time.Second)
		for strings.Count(out.String(), "temp-01") < 3 {
			select {
			case err := <-done:
				t.Fatalf("ended with %v", err)
			case <-deadline:
				t.Fatalf("got only\n%s", &out)
			case <-time.After(10 * time.Millisecond):
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Ctrl-C: %v", err)
		}
		if !strings.Contains(out.String()+errOut.String(), "withheld") {
			t.Errorf("nothing about what was withheld:\n%s", &out)
		}
		// Every line is in the columns of the first, whichever came first.
		column := strings.Index(out.String(), "VALUE")
		for line := range strings.Lines(out.String()) {
			if len(args) == 2 && (line[column-1] != ' ' || line[column] == ' ') {
				t.Errorf("out of its column in\n%s", &out)
				break
			}
		}
	}
}

// A reason names the cause at its end: it is never cut.
func TestSensorsReadShowsWholeReasons(t *testing.T) {
	missing := "/nowhere/" + strings.Repeat("x", 60)
	dir := t.TempDir()
	config := `sensors.devices = [ { name = "file", ingest_type = "sysfs", bus = "path", path = "` + missing + `" } ]`
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := runCapture(t, "--base-dir", dir, "sensors", "read")
	if err == nil || !strings.Contains(out, missing+": no such file or directory\n") {
		t.Errorf("%v\n%s", err, out)
	}
}

// Silence is no failure: the exit code stays 0.
func TestSensorsReadOfASilentSubscription(t *testing.T) {
	broker, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	go serveSilence(broker)
	dir := t.TempDir()
	config := fmt.Sprintf(`sensors.devices = [ { name = "door", ingest_type = "mqtt", timeout_seconds = 0.5, broker = "tcp://%s", topics = ["door"] } ]`, broker.Addr())
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := runCapture(t, "--base-dir", dir, "sensors", "read")
	if err != nil || !strings.Contains(out, "door    (nothing came within 0.5 s)") {
		t.Errorf("%v\n%s", err, out)
	}
}

// serveSilence is a broker that grants one subscription and sends nothing.
func serveSilence(l net.Listener) {
	conn, err := l.Accept()
	if err != nil {
		return
	}
	defer conn.Close()
	for {
		packet, err := packets.ReadPacket(conn)
		if err != nil {
			return
		}
		switch p := packet.(type) {
		case *packets.ConnectPacket:
			err = packets.NewControlPacket(packets.Connack).Write(conn)
		case *packets.SubscribePacket:
			ack := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
			ack.MessageID, ack.ReturnCodes = p.MessageID, []byte{0}
			err = ack.Write(conn)
		}
		if err != nil {
			return
		}
	}
}

func TestCells(t *testing.T) {
	long := strings.Repeat("é", 100)
	if got := cellFor(&output{})(long + "\x1b"); got != long+`\x1b` {
		t.Errorf("a pipe gets %q", got)
	}
}
