package syncqueue_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/privacy"
	"github.com/pyvorin/pyvorin-edge/syncqueue"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// A disk that is really full: the child has a small tmpfs of its own, in a mount
// namespace (and, for an ordinary user, a user namespace). Where the kernel
// forbids that, the child limits the pages of the queue file instead.
func TestFullDisk(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	run := func(attr *syscall.SysProcAttr) ([]byte, error) {
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), "SYNCQUEUE_TEST_CHILD=full", "SYNCQUEUE_TEST_DIR="+t.TempDir())
		if attr != nil {
			// Never without a namespace of its own: the mounts would be this machine's.
			cmd.Env = append(cmd.Env, "SYNCQUEUE_TEST_MOUNT=yes")
		}
		cmd.SysProcAttr = attr
		return cmd.CombinedOutput()
	}
	private := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Getuid() != 0 {
		private.Cloneflags |= syscall.CLONE_NEWUSER
		private.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		private.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	out, err := run(private)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Logf("no mount namespace here (%v): limiting the file's pages", err)
		out, err = run(nil)
	}
	t.Logf("%s", out)
	if err != nil {
		t.Fatalf("child: %v", err)
	}
}

// fillSmallDisk is the child of TestFullDisk.
func fillSmallDisk(dir string) int {
	if err := fillDisk(dir); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func fillDisk(dir string) error {
	ctx := context.Background()
	mountErr := errors.New("no mount namespace")
	if os.Getenv("SYNCQUEUE_TEST_MOUNT") != "" {
		// Private first: a shared mount would show outside the namespace.
		mountErr = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	}
	if mountErr == nil {
		mountErr = unix.Mount("tmpfs", dir, "tmpfs", 0, "size=6m")
	}
	o := options(dir)
	o.Linger = 0
	q, err := syncqueue.Open(ctx, o)
	if err != nil {
		return err
	}
	if mountErr != nil {
		fmt.Println("tmpfs:", mountErr)
		if err := syncqueue.Exec(q, "PRAGMA max_page_count=2000"); err != nil {
			return err
		}
	}
	f, err := privacy.New(config.Privacy{Enabled: true}, privacy.Options{Log: zerolog.Nop()})
	if err != nil {
		return err
	}
	more := func() error {
		noise := make([]rune, 3000)
		for i := range noise {
			noise[i] = rune(' ' + 3 + rand.IntN(80))
		}
		var readings []privacy.Cleared
		for range 5 {
			r := reading(0, config.PriorityNormal)
			r.Value = wire.TextValue(string(noise))
			readings = f.Clear(readings, r)
		}
		return q.Enqueue(ctx, readings)
	}
	accepted := 0
	fill := func() error {
		for range 5000 {
			if err := more(); errors.Is(err, syncqueue.ErrFull) {
				return nil
			} else if err != nil {
				return fmt.Errorf("a full disk is not ErrFull: %w", err)
			}
			accepted += 5
		}
		return errors.New("the disk does not fill")
	}
	recovers := func() error {
		for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			err := more()
			if err == nil {
				accepted += 5
				break
			}
			if !errors.Is(err, syncqueue.ErrFull) {
				return err
			}
			if time.Now().After(deadline) {
				return errors.New("accepts nothing although there is room again")
			}
		}
		if s := q.Stats(); s.Fault != "" {
			return fmt.Errorf("still at fault: %+v", s)
		}
		return nil
	}

	if err := fill(); err != nil {
		return err
	}
	if s := q.Stats(); s.Fault == "" || s.Depth != int64(accepted) {
		return fmt.Errorf("full, and %d accepted: %+v", accepted, s)
	}
	// Someone else takes the last of it, but for the ballast.
	if mountErr == nil {
		_ = os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 8<<20), 0o600)
	}
	// Acks go on, to the last reading, and make room.
	delivered := 0
	for range 10 {
		n, err := deliverOne(ctx, q)
		if err != nil {
			return fmt.Errorf("with a full disk: %w", err)
		}
		delivered += n
	}
	os.Remove(filepath.Join(dir, "filler"))
	if mountErr != nil {
		if err := syncqueue.Exec(q, "PRAGMA max_page_count=100000"); err != nil {
			return err
		}
	}
	if err := recovers(); err != nil {
		return err
	}
	for q.Stats().Depth > 0 {
		n, err := deliverOne(ctx, q)
		if err != nil {
			return err
		}
		delivered += n
	}
	if delivered != accepted {
		return fmt.Errorf("%d accepted, %d delivered", accepted, delivered)
	}
	fmt.Printf("%d accepted and delivered\n", accepted)
	return q.Close(ctx)
}

func deliverOne(ctx context.Context, q *syncqueue.Queue) (int, error) {
	b, ok, err := q.Lease(ctx, syncqueue.Want{})
	if err != nil || !ok {
		return 0, fmt.Errorf("lease: %v, %w", ok, err)
	}
	if _, err := syncqueue.Lines(b); err != nil {
		return 0, err
	}
	return b.Count, q.Ack(ctx, b)
}
