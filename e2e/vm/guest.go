package vm

import (
	"errors"
	"fmt"
	"os"
	"time"
)

// commandLimit is how long a command may run when a test does not say: long,
// because the processor is emulated and may be shared.
const commandLimit = 3 * time.Minute

// patience is how long the guest agent may take for an answer.
const patience = time.Minute

// Result is what a command came to.
type Result struct {
	Code     int // 124: it ran into its limit
	Out, Err string
}

// Run runs a bash script as root and returns what it printed. The test fails
// unless it exits with 0.
func (m *Machine) Run(script string) string {
	m.t.Helper()
	r, err := m.Try(commandLimit, script)
	if err != nil {
		m.t.Fatalf("run %q: %v", script, err)
	}
	if r.Code != 0 {
		m.t.Fatalf("run %q: exit code %d\n%s%s", script, r.Code, r.Out, r.Err)
	}
	return r.Out
}

// Try runs a bash script as root, whatever it comes to. The error says that the
// machine did not answer: it is off, starting or rebooting.
func (m *Machine) Try(limit time.Duration, script string) (Result, error) {
	var started struct{ PID int }
	err := m.call("guest-exec", map[string]any{
		"path":           "/usr/bin/timeout",
		"arg":            []string{"-k", "5", fmt.Sprint(max(1, int(limit.Seconds()))), "/bin/bash", "-c", script},
		"env":            []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"},
		"capture-output": true,
	}, &started)
	if err != nil {
		return Result{}, err
	}
	pause := 10 * time.Millisecond
	for deadline := time.Now().Add(limit + patience); ; time.Sleep(pause) {
		var status struct {
			Exited   bool
			ExitCode int
			Signal   int
			Out      []byte `json:"out-data"`
			Err      []byte `json:"err-data"`
		}
		if err := m.call("guest-exec-status", map[string]any{"pid": started.PID}, &status); err != nil {
			return Result{}, err
		}
		if status.Exited {
			if status.Signal != 0 {
				status.ExitCode = 128 + status.Signal
			}
			return Result{Code: status.ExitCode, Out: string(status.Out), Err: string(status.Err)}, nil
		}
		if time.Now().After(deadline) {
			return Result{}, errors.New("what it started holds its output open after its limit")
		}
		pause = min(2*pause, 200*time.Millisecond)
	}
}

// Write writes a file.
func (m *Machine) Write(to, content string, mode os.FileMode) {
	m.t.Helper()
	m.install(to, []byte(content), mode)
}

// Put copies a file of this machine into the other.
func (m *Machine) Put(from, to string) {
	m.t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		m.t.Fatal(err)
	}
	info, err := os.Stat(from)
	if err != nil {
		m.t.Fatal(err)
	}
	m.install(to, data, info.Mode())
}

// install passes the content through the shared folder: the guest agent would
// take ten seconds for the agent's binary.
func (m *Machine) install(to string, content []byte, mode os.FileMode) {
	m.t.Helper()
	passing := m.path("shared/passing")
	if err := os.WriteFile(passing, content, 0o600); err != nil {
		m.t.Fatal(err)
	}
	defer os.Remove(passing)
	m.Run(fmt.Sprintf(`mountpoint -q /run/shared || {
	mkdir -p /run/shared
	mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 shared /run/shared
} && install -D -m %o /run/shared/passing %q`, mode.Perm(), to))
}

// call executes a command of the guest agent, over a new connection when there
// is none or the last one was lost.
func (m *Machine) call(command string, arguments, result any) error {
	c, err := m.connect()
	if err != nil {
		return err
	}
	if err = c.call(patience, command, arguments, result); errors.Is(err, errNoAnswer) {
		m.disconnect()
	}
	return err
}

func (m *Machine) connect() (*client, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.agent != nil {
		return m.agent, nil
	}
	if !m.running() {
		return nil, errors.New("the machine is off")
	}
	c, err := dialAgent(m.path("agent"), patience)
	m.agent = c
	return c, err
}

func (m *Machine) disconnect() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.agent != nil {
		m.agent.conn.Close()
		m.agent = nil
	}
}
