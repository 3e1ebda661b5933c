package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pyvorin/pyvorin-edge/wire"
)

// makeUnwritable takes the right to write away from the base dir, as a worn SD
// card or a wrong owner does, and returns what gives it back. Root needs a file
// system of its own for that: permissions do not stop it.
func makeUnwritable(t *testing.T, dir string) (mend func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		if err := os.Chmod(dir, 0o555); err != nil {
			t.Fatal(err)
		}
		mend = func() { os.Chmod(dir, 0o755) }
		t.Cleanup(mend)
		return mend
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, ""); err != nil {
			t.Fatal(err)
		}
	}
}

// newUnwritableEdge returns an agent whose base dir can be made unwritable.
func newUnwritableEdge(t *testing.T, config string) *edge {
	t.Helper()
	e := newEdge(t, config)
	if os.Geteuid() == 0 {
		if err := syscall.Mount("tmpfs", e.dir, "tmpfs", 0, "size=16m"); err != nil {
			t.Skipf("root here may not mount a file system to make it read-only: %v", err)
		}
		t.Cleanup(func() { syscall.Unmount(e.dir, syscall.MNT_DETACH) })
		e.writeConfig(config)
	}
	return e
}

func TestAnUnwritableBaseDirOfANewDeviceIsRefused(t *testing.T) {
	e := newUnwritableEdge(t, "[health]\nenabled = false\n")
	makeUnwritable(t, e.dir)
	p := startProcess(t, filepath.Join(t.TempDir(), "log"), nil, "pyvorin-edge", "run", "--base-dir", e.dir)
	if code := p.wait(time.Minute); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	if log := tail(p.log); !strings.Contains(log, "is the base dir writable?") {
		t.Errorf("it does not say what to do:\n%s", log)
	}
}

// TestABaseDirThatBecameUnwritable starts a known device whose disk cannot be
// written: it says so, and goes on by itself when it can.
func TestABaseDirThatBecameUnwritable(t *testing.T) {
	c := newController(t)
	e := newUnwritableEdge(t, fastConfig(c))
	if err := os.WriteFile(filepath.Join(e.dir, "device_id"), []byte("FLEET-0123456789ab\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	mend := makeUnwritable(t, e.dir)
	e.process = startProcess(t, filepath.Join(t.TempDir(), "log"), nil, "pyvorin-edge", "run", "--base-dir", e.dir)
	// The socket is in the base dir too, so the port has to answer: 503.
	eventually(t, time.Minute, func() error {
		body, err := get(e.url() + "/health")
		var d wire.Health
		if jsonErr := json.Unmarshal(body, &d); jsonErr != nil {
			return errors.Join(err, jsonErr)
		}
		if d.Status != wire.Unhealthy || d.Checks["queue"] != wire.CheckCritical {
			return fmt.Errorf("%s, queue %s", d.Status, d.Checks["queue"])
		}
		return nil
	})
	mend()
	eventually(t, 2*time.Minute, func() error {
		if c.device().Received == 0 {
			return errors.New("nothing arrives although the base dir can be written again")
		}
		return nil
	})
	settled(t, e, c)
}
