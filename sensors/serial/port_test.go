package serial

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"go.bug.st/serial"
	"golang.org/x/sys/unix"
)

func TestWhyAPortCannotBeOpened(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for device, want := range map[string]string{
		"/dev/serial/by-id/usb-no-such-thing": "absent: it is not plugged in",
		"/dev/null":                           "not a serial port",
		"/dev":                                "not a serial port",
		file:                                  "not a serial port",
	} {
		r := run(t, newSensor(t, device, func(*Options) {}))
		r.failing(t, "port "+device+": "+want)
		r.stop()
	}
}

// What a user without privileges meets: the kernel lets root open a port that
// another program has, or that no group may.
func TestWhatAUserMayNot(t *testing.T) {
	dir := t.TempDir()
	busy, console, grouped := filepath.Join(dir, "busy"), filepath.Join(dir, "console"), filepath.Join(dir, "grouped")
	plug(t, busy)
	holder, err := serial.Open(busy, &serial.Mode{BaudRate: 9600})
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	for path, mode := range map[string]os.FileMode{console: 0, grouped: 0o060} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	withoutPrivileges(t, func() {
		for path, want := range map[string]string{
			busy:    "another program has it open",
			console: "permission denied: only its owner may use it",
			grouped: "permission denied: add the agent's user to the group ",
		} {
			// Without the claim: the program that has the port is not the agent.
			s := newSensor(t, path, func(*Options) {})
			p, err := serial.Open(path, &s.mode)
			if err == nil {
				p.Close()
				t.Errorf("%s could be opened", filepath.Base(path))
			} else if got := s.explain(err).Error(); !strings.HasPrefix(got, want) {
				t.Errorf("%s: %s", filepath.Base(path), got)
			}
		}
	})
}

func TestRareErrorsAreExplained(t *testing.T) {
	s := newSensor(t, "/dev/ttyS7", func(o *Options) { o.BaudRate = 12345 })
	for err, want := range map[error]string{
		syscall.EPERM:  "DeviceAllow=",
		syscall.ENXIO:  "no hardware",
		syscall.EIO:    "no hardware",
		syscall.EMFILE: "cannot be opened: too many open files",
		&os.PathError{Op: "lstat", Path: "x", Err: syscall.EACCES}: "permission denied",
	} {
		if got := s.explain(err).Error(); !strings.Contains(got, want) {
			t.Errorf("%v: %s", err, got)
		}
	}
}

// withoutPrivileges calls f on a thread that has no capabilities: root is then
// a user like others.
func withoutPrivileges(t *testing.T, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var before [2]unix.CapUserData
	if err := unix.Capget(&header, &before[0]); err != nil {
		t.Fatal(err)
	}
	without := before
	without[0].Effective, without[1].Effective = 0, 0
	if err := unix.Capset(&header, &without[0]); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Capset(&header, &before[0]); err != nil {
			t.Fatal(err)
		}
	}()
	f()
}
