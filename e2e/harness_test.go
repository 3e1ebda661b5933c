package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pyvorin/pyvorin-edge/wire"
)

var binDir string

// patience is how long a condition may take to hold: long, because the machine
// may be small and busy, and no test that passes waits it out.
const patience = time.Minute

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "e2e-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binDir = dir
	build := exec.Command("go", "build", "-o", dir+"/", "../cmd/...", "../packaging/try")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// process is a child that is stopped when the test ends.
type process struct {
	t    testing.TB
	cmd  *exec.Cmd
	log  string
	done chan struct{}
	err  error
}

func startProcess(t testing.TB, log string, env []string, name string, args ...string) *process {
	t.Helper()
	cmd := exec.Command(filepath.Join(binDir, name), args...)
	cmd.Env = append(os.Environ(), env...)
	return startCommand(t, log, cmd)
}

func startCommand(t testing.TB, log string, cmd *exec.Cmd) *process {
	t.Helper()
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := &process{t: t, cmd: cmd, log: log, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = f, f
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s:\n%s", filepath.Base(cmd.Path), tail(log))
		}
	})
	return p
}

func tail(path string) string {
	data, _ := os.ReadFile(path)
	if len(data) > 6000 {
		data = data[len(data)-6000:]
	}
	return string(data)
}

// kill is kill -9.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// stop is SIGTERM, and returns the exit code.
func (p *process) stop() int {
	p.t.Helper()
	p.cmd.Process.Signal(syscall.SIGTERM)
	return p.wait(patience)
}

func (p *process) wait(limit time.Duration) int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(limit):
		p.t.Fatalf("still running %s later:\n%s", limit, tail(p.log))
	}
	return p.cmd.ProcessState.ExitCode()
}

// eventually waits until ok returns nil.
func eventually(t testing.TB, limit time.Duration, ok func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not so after %s: %v", limit, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// controller is a pyvorin-fleet with its data folder.
type controller struct {
	*process
	t    testing.TB
	dir  string
	port int
}

func newController(t testing.TB) *controller {
	c := &controller{t: t, dir: filepath.Join(t.TempDir(), "fleet"), port: freePort(t)}
	c.start()
	return c
}

func (c *controller) start() {
	c.t.Helper()
	os.MkdirAll(c.dir, 0o755)
	c.process = startProcess(c.t, filepath.Join(c.dir, "log"), nil, "pyvorin-fleet",
		"serve", "--listen", fmt.Sprintf("127.0.0.1:%d", c.port), "--data", c.dir)
	eventually(c.t, patience, func() error { _, err := get(c.url() + "/livez"); return err })
}

func (c *controller) url() string     { return fmt.Sprintf("http://127.0.0.1:%d", c.port) }
func (c *controller) keyFile() string { return filepath.Join(c.dir, "api-keys") }

// device is what the controller knows of one device.
type device struct {
	DeviceID   string `json:"device_id"`
	Received   int64  `json:"received"`
	Duplicates int64  `json:"duplicates"`
	Conflicts  int64  `json:"conflicts"`
	Missing    int64  `json:"missing"`
	MaxSeq     int64  `json:"max_seq"`
}

// devices returns what the controller knows of every device.
func (c *controller) devices() []device {
	c.t.Helper()
	var list struct{ Devices []device }
	body, err := get(c.url() + "/api/v1/devices")
	if err == nil {
		err = json.Unmarshal(body, &list)
	}
	if err != nil {
		c.t.Logf("ask the controller: %v", err)
	}
	return list.Devices
}

// device returns the only device that delivered, or the zero device.
func (c *controller) device() device {
	c.t.Helper()
	if list := c.devices(); len(list) == 1 {
		return list[0]
	}
	return device{}
}

// edge is a pyvorin-edge with its base dir.
type edge struct {
	*process
	t    testing.TB
	dir  string
	port int
	env  []string
}

func newEdge(t testing.TB, config string) *edge {
	t.Helper()
	e := &edge{t: t, dir: filepath.Join(t.TempDir(), "edge"), port: freePort(t)}
	if err := os.MkdirAll(e.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	e.writeConfig(config)
	return e
}

// writeConfig writes the config with @PORT@ replaced by the health port.
func (e *edge) writeConfig(config string) {
	e.t.Helper()
	config = strings.ReplaceAll(config, "@PORT@", fmt.Sprint(e.port))
	if err := os.WriteFile(filepath.Join(e.dir, "config.toml"), []byte(config), 0o640); err != nil {
		e.t.Fatal(err)
	}
}

func (e *edge) start() *edge {
	e.t.Helper()
	e.process = startProcess(e.t, filepath.Join(e.dir, "log"), e.env, "pyvorin-edge", "run", "--base-dir", e.dir)
	return e
}

func (e *edge) url() string { return fmt.Sprintf("http://127.0.0.1:%d", e.port) }

// socketClient asks over the unix socket, which is there whatever the config says.
func (e *edge) socketClient() *http.Client {
	return &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(e.dir, "run", "health.sock"))
		},
	}}
}

func (e *edge) health() (wire.Health, error) {
	var d wire.Health
	resp, err := e.socketClient().Get("http://agent/health")
	if err != nil {
		return d, err
	}
	defer resp.Body.Close()
	return d, json.NewDecoder(resp.Body).Decode(&d)
}

// waitHealth waits until the document satisfies ok, which says what is amiss.
func (e *edge) waitHealth(limit time.Duration, ok func(wire.Health) error) wire.Health {
	e.t.Helper()
	var d wire.Health
	eventually(e.t, limit, func() (err error) {
		if d, err = e.health(); err != nil {
			return err
		}
		return ok(d)
	})
	return d
}

// sound reports the first check that is not ok, but for those of the machine,
// which may be hot or full where the tests run.
func sound(d wire.Health) error {
	for _, name := range []string{"sensors", "queue", "cloud", "fleet", "clock", "agent"} {
		if state, present := d.Checks[name]; present && state != wire.CheckOK {
			return fmt.Errorf("%s is %s: %q", name, state, d.Warnings)
		}
	}
	return nil
}

// cli runs a verb of pyvorin-edge on this base dir.
func (e *edge) cli(args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(binDir, "pyvorin-edge"), append([]string{"--base-dir", e.dir}, args...)...)
	cmd.Env = append(os.Environ(), e.env...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, errOut.String())
	}
	return out.String(), err
}

func get(url string) ([]byte, error) {
	resp, err := (&http.Client{Timeout: 10 * time.Second}).Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return body, err
}
