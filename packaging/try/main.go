// Command try does the main job on this machine: it starts a controller and
// one agent from ./bin, waits until readings arrive, says what runs where, and
// stops both on Ctrl-C, or when whoever called it is gone. Everything it keeps
// is in ./run; `make run` calls it.
package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"

	"github.com/pyvorin/pyvorin-edge/internal/atomicfile"
)

//go:embed config.toml
var configTemplate string

// startPatience is how long a program may take to answer, and stopPatience to
// stop, before it is given up.
const (
	startPatience = 30 * time.Second
	stopPatience  = 20 * time.Second
	restartAfter  = 3 * time.Second
)

// init keeps main on the thread it started on: the children ask the kernel to
// be stopped when the thread that started them ends (Pdeathsig).
func init() { runtime.LockOSThread() }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // a second signal ends this, and the children, at once
	// A parent that is killed passes no signal on: the kernel does.
	err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGTERM), 0, 0, 0)
	if err == nil {
		err = run(ctx, os.Stdout)
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "try:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) error {
	root, err := filepath.Abs(envOr("TRY_DIR", "run"))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	lock := flock.New(filepath.Join(root, "lock"))
	if alone, err := lock.TryLock(); err != nil {
		return err
	} else if !alone {
		return fmt.Errorf("it runs already with the files of %s: stop that one first", root)
	}
	defer lock.Unlock()
	healthPort, fleetPort := envOr("HEALTH_PORT", "8080"), envOr("FLEET_PORT", "8090")
	for name, port := range map[string]string{"HEALTH_PORT": healthPort, "FLEET_PORT": fleetPort} {
		if err := portFree(port); err != nil {
			return fmt.Errorf("%w: choose another, as in `make run %s=9999`", err, name)
		}
	}
	edgeDir, fleetDir := filepath.Join(root, "edge"), filepath.Join(root, "fleet")
	if err := writeConfig(filepath.Join(edgeDir, "config.toml"), healthPort, fleetPort); err != nil {
		return err
	}

	fleet := newProgram(root, "pyvorin-fleet", "serve", "--listen", "127.0.0.1:"+fleetPort, "--data", fleetDir)
	if err := fleet.start(); err != nil {
		return err
	}
	defer fleet.stop()
	fleetURL := "http://127.0.0.1:" + fleetPort
	if err := fleet.wait(ctx, func() bool { return answers(fleetURL + "/livez") }); err != nil {
		return err
	}

	before := received(fleetURL) // by earlier runs
	edge := newProgram(root, "pyvorin-edge", "run", "--base-dir", edgeDir)
	if err := edge.start(); err != nil {
		return err
	}
	defer edge.stop() // before the controller, so that what is queued is delivered
	healthURL := "http://127.0.0.1:" + healthPort
	if err := edge.wait(ctx, func() bool { return answers(healthURL + "/readyz") }); err != nil {
		return err
	}
	if err := edge.wait(ctx, func() bool { return received(fleetURL) > before }); err != nil {
		return err
	}
	fmt.Fprintf(out, `
The agent reads this machine and delivers to the controller;
the first reading arrived %.1f s after the agent's start.

  agent       %s/          status page (health: %[2]s/health)
  controller  %s/          latest readings of every device
  files       %s
  logs        %s and %s
  more        bin/pyvorin-edge --base-dir %s status
              bin/pyvorin-edge --base-dir %[7]s sensors read

Try kill -9 on either (pids %d and %d): it is started again after %s, and no
reading is lost or doubled. Ctrl-C stops both.
`, time.Since(edge.begun).Seconds(), healthURL, fleetURL, root, edge.logPath, fleet.logPath, edgeDir,
		edge.cmd.Process.Pid, fleet.cmd.Process.Pid, restartAfter)

	for {
		var ended *program
		select {
		case <-ctx.Done():
			fmt.Fprintln(out, "stopping")
			return nil
		case <-edge.done:
			ended = edge
		case <-fleet.done:
			ended = fleet
		}
		if time.Since(ended.begun) < restartAfter {
			return ended.failure() // it cannot start: again would end the same way
		}
		fmt.Fprintf(out, "%s ended (%v), starting it again in %s\n", ended.name, ended.err, restartAfter)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(restartAfter):
		}
		if err := ended.start(); err != nil {
			return err
		}
		fmt.Fprintf(out, "%s started again with pid %d\n", ended.name, ended.cmd.Process.Pid)
	}
}

func envOr(name, fallback string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return fallback
}

func portFree(port string) error {
	l, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return fmt.Errorf("port %s is not free", port)
	}
	return l.Close()
}

var (
	healthPortLine = regexp.MustCompile(`(?m)^port = \d+$`)
	fleetAddress   = regexp.MustCompile(`http://127\.0\.0\.1:\d+/v1/ingest`)
)

// writeConfig sets the ports in the agent's config, which is the template
// unless there is one already.
func writeConfig(path, healthPort, fleetPort string) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		text, err = []byte(configTemplate), os.MkdirAll(filepath.Dir(path), 0o755)
	}
	if err != nil {
		return err
	}
	text = healthPortLine.ReplaceAll(text, []byte("port = "+healthPort))
	text = fleetAddress.ReplaceAll(text, []byte("http://127.0.0.1:"+fleetPort+"/v1/ingest"))
	return atomicfile.Write(path, text, 0o640)
}

// program is one of the two children.
type program struct {
	name    string
	args    []string
	logPath string
	begun   time.Time
	cmd     *exec.Cmd
	done    chan struct{} // closed when it ended
	err     error         // why, once done is closed
}

func newProgram(root, name string, args ...string) *program {
	return &program{name: name, args: args, logPath: filepath.Join(root, name+".log")}
}

func (p *program) start() error {
	log, err := os.OpenFile(p.logPath, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd, done := exec.Command(filepath.Join("bin", p.name), p.args...), make(chan struct{})
	cmd.Stdout, cmd.Stderr = log, log
	// Ctrl-C in a terminal reaches the whole group: the children are stopped in
	// order instead.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w (run `make build` first)", p.name, err)
	}
	p.cmd, p.done, p.begun = cmd, done, time.Now()
	go func() {
		p.err = cmd.Wait()
		close(done)
	}()
	return nil
}

// wait polls ok until it is true.
func (p *program) wait(ctx context.Context, ok func() bool) error {
	deadline := time.After(startPatience)
	for tick := time.NewTicker(50 * time.Millisecond); ; {
		if ok() {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.done:
			return p.failure()
		case <-deadline:
			return fmt.Errorf("%s was not ready after %s, see %s", p.name, startPatience, p.logPath)
		case <-tick.C:
		}
	}
}

// failure describes an unexpected end with the last lines of the log.
func (p *program) failure() error {
	log, _ := os.ReadFile(p.logPath)
	lines := strings.Split(string(bytes.TrimSpace(log)), "\n")
	tail := strings.Join(lines[max(0, len(lines)-5):], "\n  ")
	return fmt.Errorf("%s ended (%v):\n  %s", p.name, p.err, tail)
}

func (p *program) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(stopPatience):
		p.cmd.Process.Kill()
		<-p.done
	}
}

var client = &http.Client{Timeout: 2 * time.Second}

func answers(url string) bool {
	resp, err := client.Get(url)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// received returns how many readings the controller has.
func received(fleetURL string) (total int) {
	resp, err := client.Get(fleetURL + "/api/v1/devices")
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	var list struct {
		Devices []struct {
			Received int `json:"received"`
		} `json:"devices"`
	}
	if json.NewDecoder(resp.Body).Decode(&list) != nil {
		return 0
	}
	for _, d := range list.Devices {
		total += d.Received
	}
	return total
}
