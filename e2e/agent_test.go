package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pyvorin/pyvorin-edge/wire"
)

// seedTemplate is the template that devices are provisioned with, unchanged
// but for the port.
const seedTemplate = `
[sensors]
poll_interval_seconds = 5.0
devices = [ { name = "temp-01", ingest_type = "simulator", sensor_type = "temperature", unit = "C" } ]
[cloud]
enabled = true
endpoint = "https://api.example.com/v1/ingest"
api_key = "${API_KEY}"
batch_size = 100
flush_interval_seconds = 60.0
[privacy]
enabled = true
rules = [ { sensor_pattern = "*password*", action = "drop" }, { sensor_pattern = "*email*", action = "hash" } ]
[logging]
level = "INFO"
format = "json"
[health]
port = @PORT@
enabled = true
`

func TestTheTemplateRunsAndKeepsItsSecret(t *testing.T) {
	const secret = "s3cret-api-key-canary"
	e := newEdge(t, seedTemplate)
	e.env = []string{"API_KEY=" + secret}
	e.start()
	d := e.waitHealth(patience, func(d wire.Health) error {
		if d.Sensors.OK != 1 || d.Cloud.QueueDepth == 0 {
			return fmt.Errorf("%d ok, %d queued, %q", d.Sensors.OK, d.Cloud.QueueDepth, d.Warnings)
		}
		return sound(d)
	})
	if d.Privacy.Rules != 2 || !d.Cloud.Enabled {
		t.Errorf("the document does not show the config: %+v", d)
	}
	for _, verb := range []string{"config show", "config check", "config hash", "status", "doctor", "privacy explain --sensor x"} {
		out, err := e.cli(strings.Fields(verb)...)
		if err != nil && verb != "doctor" { // the endpoint does not exist here
			t.Errorf("%s: %v", verb, err)
		}
		if strings.Contains(out, secret) {
			t.Errorf("%s shows the API key", verb)
		}
	}
	if code := e.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	filepath.WalkDir(e.dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			if data, err := os.ReadFile(path); err == nil && bytes.Contains(data, []byte(secret)) {
				t.Errorf("%s holds the API key", path)
			}
		}
		return nil
	})
}

func TestAPortInUseIsReportedAndHealed(t *testing.T) {
	c := newController(t)
	e := newEdge(t, fastConfig(c))
	taken, err := net.Listen("tcp", fmt.Sprintf(":%d", e.port))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	e.start()
	e.waitHealth(patience, func(d wire.Health) error {
		if !strings.Contains(strings.Join(d.Warnings, " "), fmt.Sprint(e.port)) {
			return fmt.Errorf("no warning names the port: %q", d.Warnings)
		}
		return nil
	})
	taken.Close()
	eventually(t, patience, func() error { _, err := get(e.url() + "/livez"); return err })
	settled(t, e, c)
}

func TestStartsThatCannotWork(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	good := newEdge(t, "[health]\nenabled = false\n")
	for _, tt := range []struct {
		name, config string
		baseDir      string
		code         int
		says         string
	}{
		{"wrong type", "[sensors]\npoll_interval_seconds = \"5\"\n", "", 78, "config.toml:2:"},
		{"unknown key", "[cloud]\nendpont = \"x\"\n", "", 78, "endpoint"},
		{"bad TOML", "[cloud\n", "", 78, "config.toml:1:"},
		{"missing variable", "[cloud]\napi_key = \"${NO_SUCH_VARIABLE}\"\n", "", 78, "NO_SUCH_VARIABLE"},
		{"unknown privacy action", "[privacy]\nrules = [ { sensor_pattern = \"*\", action = \"hide\" } ]\n", "", 78, "privacy.rules[0].action"},
		{"password in the endpoint", "[cloud]\nenabled = true\nendpoint = \"https://u:p@example.com/\"\n", "", 78, "password"},
		{"base dir that is a file", "", file, 1, "base"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := newEdge(t, tt.config)
			args := []string{"run", "--base-dir", e.dir}
			if tt.baseDir != "" {
				args = []string{"run", "--base-dir", tt.baseDir, "--config", filepath.Join(good.dir, "config.toml")}
			}
			p := startProcess(t, filepath.Join(t.TempDir(), "log"), nil, "pyvorin-edge", args...)
			if code := p.wait(patience); code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			if log := tail(p.log); !strings.Contains(log, tt.says) {
				t.Errorf("it does not say %q:\n%s", tt.says, log)
			}
		})
	}
}

func TestASecondAgentOnTheSameBaseDirIsRefused(t *testing.T) {
	e := newEdge(t, "[health]\nenabled = false\n").start()
	e.waitHealth(patience, func(wire.Health) error { return nil })
	starts := filepath.Join(e.dir, "run", "starts.json")
	before, err := os.ReadFile(starts)
	if err != nil {
		t.Fatal(err)
	}
	second := startProcess(t, filepath.Join(t.TempDir(), "log"), nil, "pyvorin-edge", "run", "--base-dir", e.dir)
	if code := second.wait(patience); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	if log := tail(second.log); !strings.Contains(log, "another agent runs with the files of "+e.dir) || strings.Contains(log, "agent started") {
		t.Errorf("it does not say why, or that it started:\n%s", log)
	}
	if after, err := os.ReadFile(starts); err != nil || !bytes.Equal(before, after) {
		t.Errorf("it counts as a restart of the first: %s, %v", after, err)
	}
	if _, err := e.health(); err != nil {
		t.Errorf("the first agent no longer answers: %v", err)
	}
}

func TestReload(t *testing.T) {
	const token = "reload-token-of-the-test"
	config := func(sensors string) string {
		return "[sensors]\npoll_interval_seconds = 0.1\ndevices = [" + sensors + "]\n[health]\nport = @PORT@\nadmin_token = \"" + token + "\"\n"
	}
	one := `{ name = "one", ingest_type = "simulator" }`
	two := one + `, { name = "two", ingest_type = "simulator" }`
	e := newEdge(t, config(one)).start()
	configured := func(n int) func(wire.Health) error {
		return func(d wire.Health) error {
			if d.Sensors.Configured != n || d.Sensors.OK != n {
				return fmt.Errorf("%d sensors configured, %d ok, want %d", d.Sensors.Configured, d.Sensors.OK, n)
			}
			return nil
		}
	}
	before := e.waitHealth(patience, configured(1))

	e.writeConfig(config(two))
	e.cmd.Process.Signal(syscall.SIGHUP)
	after := e.waitHealth(patience, configured(2))
	if before.Agent.ConfigHash == after.Agent.ConfigHash {
		t.Error("the config hash did not change")
	}
	if before.Sensors.ReadingsTotal > after.Sensors.ReadingsTotal {
		t.Errorf("readings_total fell from %d to %d", before.Sensors.ReadingsTotal, after.Sensors.ReadingsTotal)
	}

	// A file that does not check changes nothing.
	e.writeConfig(config(two) + "\n[cloud]\nnonsense = 1\n")
	e.cmd.Process.Signal(syscall.SIGHUP)
	eventually(t, patience, func() error {
		if !strings.Contains(tail(e.log), "nonsense") {
			return errors.New("the refusal is not logged")
		}
		return nil
	})
	e.waitHealth(patience, configured(2))

	post := func(body, auth string) (int, string) {
		req, _ := http.NewRequest(http.MethodPost, e.url()+"/config/reload", strings.NewReader(body))
		if auth != "" {
			req.Header.Set("Authorization", "Bearer "+auth)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answer, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(answer)
	}
	fresh := strings.ReplaceAll(config(one), "@PORT@", fmt.Sprint(e.port))
	for _, tt := range []struct {
		name, body, token string
		code              int
	}{
		{"no token", fresh, "", 401},
		{"wrong token", fresh, "x" + token, 401},
		{"bad config", "[cloud]\nnonsense = 1\n", token, 422},
		{"too large", strings.Repeat("# filler\n", 200_000), token, 413},
		{"good", fresh, token, 200},
	} {
		if code, answer := post(tt.body, tt.token); code != tt.code {
			t.Errorf("%s: %d %s, want %d", tt.name, code, answer, tt.code)
		}
	}
	e.waitHealth(patience, configured(1))
	if data, err := os.ReadFile(filepath.Join(e.dir, "config.toml")); err != nil || string(data) != fresh {
		t.Errorf("the pushed config is not the file: %v\n%s", err, data)
	}
	if page, err := get(e.url() + "/api/readings"); err != nil || bytes.Contains(page, []byte(`"two"`)) {
		t.Errorf("a sensor that is gone is still shown: %v %s", err, page)
	}

	// Whoever comes last wins, but the file is always what runs.
	var pushes sync.WaitGroup
	for i := range 8 {
		pushes.Go(func() {
			if code, answer := post(strings.Replace(fresh, "one", fmt.Sprintf("push-%d", i), 1), token); code != 200 {
				t.Errorf("%d %s", code, answer)
			}
		})
		e.cmd.Process.Signal(syscall.SIGHUP)
	}
	pushes.Wait()
	eventually(t, patience, func() error { // the last SIGHUP may still be under way
		d, err := e.health()
		if err != nil {
			return err
		}
		if out, err := e.cli("config", "hash"); err != nil || !strings.Contains(out, d.Agent.ConfigHash) {
			return fmt.Errorf("the agent runs %s, the file has %s, %v", d.Agent.ConfigHash, out, err)
		}
		return nil
	})
	if code := e.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestTheConfigThatRanIsKept never keeps what only lay in the file.
func TestTheConfigThatRanIsKept(t *testing.T) {
	config := func(n int) string {
		return fmt.Sprintf("# number %d\n[sensors]\npoll_interval_seconds = 0.%d\n[health]\nenabled = false\n", n, n)
	}
	e := newEdge(t, config(1)).start()
	kept := func(want string) {
		t.Helper()
		if data, err := os.ReadFile(filepath.Join(e.dir, "config.last-good.toml")); err != nil || string(data) != want {
			t.Errorf("kept is %q, %v; want %q", data, err, want)
		}
	}
	push := func(body string) {
		t.Helper()
		resp, err := e.socketClient().Post("http://agent/config/reload", "application/toml", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("the push was answered with %s", resp.Status)
		}
	}
	hash := func(d wire.Health) string { return d.Agent.ConfigHash }
	first := hash(e.waitHealth(patience, sound))

	e.writeConfig("[cloud]\nnonsense = 1\n")
	e.cmd.Process.Signal(syscall.SIGHUP)
	refused := e.waitHealth(patience, func(d wire.Health) error {
		if d.Checks["agent"] != wire.CheckWarning {
			return fmt.Errorf("the refusal is not in /health: %v", d.Checks)
		}
		return nil
	})
	if w := strings.Join(refused.Warnings, "\n"); hash(refused) != first || !strings.Contains(w, "config.toml:2:1: cloud.nonsense") {
		t.Errorf("hash %s, warnings %s", hash(refused), w)
	}

	push(config(2))
	kept(config(1))
	e.waitHealth(patience, sound) // the refusal is forgotten
	push(config(2))
	kept(config(1))
	second := hash(e.waitHealth(patience, sound))

	e.writeConfig(config(3))
	e.cmd.Process.Signal(syscall.SIGHUP)
	e.waitHealth(patience, func(d wire.Health) error {
		if hash(d) == second {
			return errors.New("not applied")
		}
		return nil
	})
	kept(config(2))
	if code := e.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestServiceManager plays systemd's side of sd_notify(3), with a receiver that
// never answers, so that a reload takes as long as it may.
func TestServiceManager(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	sock, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	config := fmt.Sprintf(`
[sensors]
devices = [ { name = "one", ingest_type = "simulator", poll_interval_seconds = 0.1 } ]
[cloud]
enabled = true
endpoint = "http://%s/"
flush_interval_seconds = 0.1
commit_interval_seconds = 0
request_timeout_seconds = 60
shutdown_timeout_seconds = 8
[health]
enabled = false
`, l.Addr())
	e := newEdge(t, config)
	e.env = []string{"NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=4000000"}
	e.start()
	// expect waits for a message and returns how many watchdog pings came before.
	expect := func(want string) (pings int) {
		t.Helper()
		buf := make([]byte, 4096)
		sock.SetReadDeadline(time.Now().Add(patience))
		for {
			n, err := sock.Read(buf)
			if err != nil {
				t.Fatalf("%s was not sent: %v", want, err)
			}
			got := string(buf[:n])
			if strings.HasPrefix(got, want) {
				return pings
			}
			if got == "READY=1" {
				t.Fatalf("READY=1 before %s", want)
			}
			if got == "WATCHDOG=1" {
				pings++
			}
		}
	}
	expect("READY=1")
	expect("STATUS=")
	expect("WATCHDOG=1")
	begun := time.Now()
	expect("WATCHDOG=1")
	if d := time.Since(begun); d > 4*time.Second {
		t.Errorf("%s between two watchdog pings, systemd would have killed the agent", d)
	}
	conn, err := l.Accept() // a delivery is under way
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	e.cmd.Process.Signal(syscall.SIGHUP)
	expect("RELOADING=1\nMONOTONIC_USEC=")
	if pings := expect("READY=1"); pings < 2 {
		t.Errorf("%d watchdog pings during a reload of 8 s, systemd would have killed the agent", pings)
	}
	// systemd waits for the end of a reload that it asked for, also of one
	// that is refused.
	e.writeConfig("[cloud\n")
	e.cmd.Process.Signal(syscall.SIGHUP)
	expect("RELOADING=1\nMONOTONIC_USEC=")
	expect("READY=1")
	e.cmd.Process.Signal(syscall.SIGTERM)
	expect("STOPPING=1")
	if code := e.wait(patience); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestSecondSignalEndsAtOnce makes an orderly stop impossible: the receiver
// never answers.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	e := newEdge(t, fmt.Sprintf(`
[sensors]
poll_interval_seconds = 0.05
devices = [ { name = "one", ingest_type = "simulator" } ]
[cloud]
enabled = true
endpoint = "http://%s/"
flush_interval_seconds = 0.1
commit_interval_seconds = 0
request_timeout_seconds = 60
shutdown_timeout_seconds = 60
[health]
enabled = false
`, l.Addr())).start()
	conn, err := l.Accept() // a delivery is under way
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	e.cmd.Process.Signal(syscall.SIGTERM)
	eventually(t, patience, func() error {
		if !strings.Contains(tail(e.log), "agent stopping") {
			return errors.New("the stop has not begun")
		}
		return nil
	})
	select {
	case <-e.done:
		t.Fatal("it ended while the delivery could still succeed")
	case <-time.After(300 * time.Millisecond):
	}
	begun := time.Now()
	e.cmd.Process.Signal(syscall.SIGTERM)
	e.wait(patience)
	if d := time.Since(begun); d > 10*time.Second {
		t.Errorf("it took %s to end", d)
	}
}
