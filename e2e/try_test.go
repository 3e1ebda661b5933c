package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestTryStops ends `make run` in the ways a person does, and expects both
// programs to be gone and no error for what was meant.
func TestTryStops(t *testing.T) {
	says := func(text string) func(dir, log string) error {
		return func(_, log string) error {
			if !strings.Contains(tail(log), text) {
				return fmt.Errorf("it does not say %q", text)
			}
			return nil
		}
	}
	starting := func(dir, _ string) error {
		_, err := os.Stat(filepath.Join(dir, "run", "pyvorin-fleet.log"))
		return err
	}
	for _, tt := range []struct {
		name   string
		script string
		when   func(dir, log string) error // the moment of the signal
		signal syscall.Signal
		code   int
	}{
		{"Ctrl-C", "exec bin/try", says("the first reading arrived"), syscall.SIGINT, 0},
		{"SIGTERM", "exec bin/try", says("the first reading arrived"), syscall.SIGTERM, 0},
		{"Ctrl-C while it starts", "exec bin/try", starting, syscall.SIGINT, 0},
		{"the caller is killed", "bin/try; exit", says("the first reading arrived"), syscall.SIGKILL, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, health, fleet := t.TempDir(), freePort(t), freePort(t)
			if err := os.Symlink(binDir, filepath.Join(dir, "bin")); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("sh", "-c", tt.script)
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "TRY_DIR=run", fmt.Sprintf("HEALTH_PORT=%d", health), fmt.Sprintf("FLEET_PORT=%d", fleet))
			p := startCommand(t, filepath.Join(dir, "log"), cmd)
			eventually(t, patience, func() error { return tt.when(dir, p.log) })
			p.cmd.Process.Signal(tt.signal)
			if code := p.wait(patience); code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			eventually(t, patience, func() error {
				for _, port := range []int{health, fleet} {
					if conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
						conn.Close()
						return errors.New("a program still runs")
					}
				}
				// It holds its lock until both have stopped.
				lock, err := os.Open(filepath.Join(dir, "run", "lock"))
				if err != nil {
					return err
				}
				defer lock.Close()
				return syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
			})
		})
	}
}
