package watchdog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/rs/zerolog"
)

// The environment of a child in these tests: what it does, and in which folder
// it writes down what.
const (
	childMode = "WATCHDOG_TEST_CHILD"
	childDir  = "WATCHDOG_TEST_DIR"
)

// childMain is what the children do.
func childMain(mode string) int {
	dir := os.Getenv(childDir)
	tell := func(name, content string) {
		// Whole, since a test waits for it.
		temp := filepath.Join(dir, "."+name)
		_ = os.WriteFile(temp, []byte(content), 0o644)
		_ = os.Rename(temp, filepath.Join(dir, name))
	}
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	tell("pid", strconv.Itoa(os.Getpid()))
	switch mode {
	case "waits":
		<-terminated
		tell("terminated", "")
	case "ignores":
		time.Sleep(time.Hour)
	case "pings":
		for {
			_, _ = daemon.SdNotify(false, daemon.SdNotifyWatchdog)
			select {
			case <-terminated:
				return 0
			case <-time.After(20 * time.Millisecond):
			}
		}
	case "hangs":
		_, _ = daemon.SdNotify(false, "STATUS=fine\n"+daemon.SdNotifyReady+"\n")
		fmt.Println("it hangs here")
		time.Sleep(time.Hour)
	case "has another ping":
		_, _ = daemon.SdNotify(false, daemon.SdNotifyReady)
		other := exec.Command(os.Args[0])
		other.Env = append(os.Environ(), childMode+"=pings", childDir+"="+filepath.Join(dir, "other"))
		_ = other.Run()
	case "leaves others":
		other := exec.Command(os.Args[0])
		other.Env = append(os.Environ(), childMode+"=ignores", childDir+"="+filepath.Join(dir, "other"))
		_ = other.Start()
		<-terminated
	case "tells":
		tell("environment", strings.Join(os.Environ(), "\n"))
		tell("user", fmt.Sprint(os.Getuid(), " ", os.Getgid()))
		<-terminated
	case "supervises":
		c, err := NewChild(ChildOptions{
			Argv: []string{os.Args[0]}, Env: append(os.Environ(), childMode+"=waits", childDir+"="+filepath.Join(dir, "other")),
			RuntimeDir: dir, Log: zerolog.Nop(),
		})
		if err == nil {
			err = c.Run(context.Background())
		}
		fmt.Println(err)
	default:
		status, _ := strconv.Atoi(mode)
		return status
	}
	return 0
}

// family is a Child that runs, and what its processes told.
type family struct {
	*Child
	t      *testing.T
	dir    string
	stop   context.CancelFunc
	ended  chan error
	output *buffer
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func raise(t *testing.T, mode string, change func(*ChildOptions)) *family {
	t.Helper()
	dir, err := os.MkdirTemp("", "wd")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o777))
	must(t, os.Mkdir(filepath.Join(dir, "other"), 0o777))
	must(t, os.Chmod(filepath.Join(dir, "other"), 0o777))
	program, err := os.Executable()
	must(t, err)
	f := &family{t: t, dir: dir, ended: make(chan error, 1), output: &buffer{}}
	o := ChildOptions{
		Argv: []string{program}, Env: append(os.Environ(), childMode+"="+mode, childDir+"="+dir),
		Output: f.output, RuntimeDir: filepath.Join(dir, "run"), StopTimeout: time.Minute, Log: zerolog.Nop(),
	}
	if change != nil {
		change(&o)
	}
	if o.User != nil { // who may not look into the folder that the program is in
		// No copy: a file that another test's fork holds open for writing cannot
		// be run.
		o.Argv[0] = filepath.Join(dir, "program")
		must(t, os.Link(program, o.Argv[0]))
	}
	f.Child, err = NewChild(o)
	must(t, err)
	f.delayMin = 20 * time.Millisecond
	ctx, stop := context.WithCancel(context.Background())
	f.stop = stop
	go func() { f.ended <- f.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		<-f.ended
		f.ended <- nil
	})
	return f
}

// wait waits until the status is as is says.
func (f *family) wait(what string, is func(Status) bool) Status {
	f.t.Helper()
	var s Status
	eventually(f.t, func() bool {
		s, _ = f.Status(f.t.Context())
		return is(s)
	}, func() string { return fmt.Sprintf("%s: %+v", what, s) })
	return s
}

// told waits for what a process tells.
func (f *family) told(name string) string {
	f.t.Helper()
	var data []byte
	eventually(f.t, func() (ok bool) {
		var err error
		data, err = os.ReadFile(filepath.Join(f.dir, name))
		return err == nil
	}, func() string { return name + " was not told" })
	return string(data)
}

// pid waits for a process to tell its id.
func (f *family) pid(name string) int {
	f.t.Helper()
	pid, err := strconv.Atoi(f.told(name))
	must(f.t, err)
	return pid
}

func eventually(t *testing.T, is func() bool, otherwise func() string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(otherwise())
		}
	}
}

// gone waits until there is no process with this id, not even a dead one.
func gone(t *testing.T, pid int) {
	t.Helper()
	eventually(t, func() bool {
		// Whoever inherits it may be slow to bury it.
		state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) || bytes.Contains(state, []byte(") Z "))
	}, func() string { return fmt.Sprintf("process %d lives", pid) })
}

func TestAChildThatEndsIsStartedAgain(t *testing.T) {
	t.Parallel()
	f := raise(t, "3", nil)
	s := f.wait("not given up", func(s Status) bool { return s.GaveUp })
	if s.Restarts != crashLoop-1 || s.ExitCode != 3 || s.Reason != "exit status 3" || s.Running || s.PID != 0 {
		t.Errorf("%+v", s)
	}
	// It waits before the next start, and a Restart does not.
	must(t, f.Restart(t.Context()))
	s = f.wait("not started again", func(s Status) bool { return s.Restarts == 1 })
	if s.GaveUp {
		t.Errorf("%+v", s)
	}
}

func TestAChildThatRefusesItsConfigIsNotStartedAgain(t *testing.T) {
	t.Parallel()
	f := raise(t, "78", nil)
	f.wait("not given up", func(s Status) bool { return s.GaveUp && s.ExitCode == exitConfig && s.Restarts == 0 })
	must(t, os.Remove(filepath.Join(f.dir, "pid")))
	must(t, f.Restart(t.Context()))
	f.pid("pid")
	f.wait("not given up again", func(s Status) bool { return s.GaveUp && s.Restarts == 0 })
}

func TestAChildThatGivesNoSignOfLifeIsKilled(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"hangs", "has another ping"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			f := raise(t, mode, func(o *ChildOptions) { o.PingTimeout = 400 * time.Millisecond })
			pid := f.pid("pid")
			s := f.wait("not killed", func(s Status) bool { return s.Reason != "" })
			if s.ExitCode == 0 || !strings.Contains(s.Reason, "no sign of life") {
				t.Errorf("%+v", s)
			}
			gone(t, pid)
			if mode == "hangs" && !strings.Contains(f.output.String(), "SIGABRT") {
				t.Errorf("it did not tell where it hangs: %q", f.output)
			}
		})
	}
}

func TestAChildThatGivesSignsOfLifeGoesOn(t *testing.T) {
	t.Parallel()
	user := (*User)(nil)
	if os.Geteuid() == 0 {
		user = &User{UID: hostile, GID: hostile} // who must be able to give them
	}
	f := raise(t, "pings", func(o *ChildOptions) { o.PingTimeout, o.User = 5*time.Second, user })
	first := f.wait("not running", func(s Status) bool { return s.Running })
	// A Restart replaces the process; none but it is believed.
	must(t, f.Restart(t.Context()))
	second := f.wait("not running", func(s Status) bool { return s.Running })
	gone(t, first.PID)
	if second.PID == first.PID || second.Restarts != 0 || second.Reason != "" {
		t.Errorf("%+v, then %+v", first, second)
	}
}

// TestTheSocketTakesWhatTheUserSends: without it nobody would ever be missed.
func TestTheSocketTakesWhatTheUserSends(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can have something run as another user")
	}
	f := raise(t, "hangs", func(o *ChildOptions) {
		o.PingTimeout, o.User = 400*time.Millisecond, &User{UID: hostile, GID: hostile}
	})
	if s := f.wait("READY=1 did not arrive", func(s Status) bool { return s.Reason != "" }); !strings.Contains(s.Reason, "no sign of life") {
		t.Errorf("%+v", s)
	}
}

func TestAChildIsStopped(t *testing.T) {
	t.Parallel()
	f := raise(t, "waits", nil)
	pid := f.pid("pid")
	f.stop()
	must(t, <-f.ended)
	f.ended <- nil
	gone(t, pid)
	f.told("terminated")
	if s, _ := f.Status(t.Context()); s.Running || s.PID != 0 {
		t.Errorf("%+v", s)
	}
	if _, err := os.Lstat(notifyPath(filepath.Join(f.dir, "run"))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its socket is left: %v", err)
	}
}

func TestAChildThatDoesNotStopIsKilled(t *testing.T) {
	t.Parallel()
	f := raise(t, "ignores", func(o *ChildOptions) { o.StopTimeout = 50 * time.Millisecond })
	pid := f.pid("pid")
	must(t, f.Restart(t.Context()))
	gone(t, pid)
	f.wait("not running", func(s Status) bool { return s.Running && s.PID != pid })
}

func TestWhatAChildStartedEndsWithIt(t *testing.T) {
	t.Parallel()
	f := raise(t, "leaves others", nil)
	other := f.pid("other/pid")
	must(t, f.Restart(t.Context()))
	gone(t, other)
}

func TestAChildEndsWithItsParent(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "wd")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Mkdir(filepath.Join(dir, "other"), 0o755))
	program, err := os.Executable()
	must(t, err)
	parent := exec.Command(program)
	parent.Env = append(os.Environ(), childMode+"=supervises", childDir+"="+dir)
	must(t, parent.Start())
	f := &family{t: t, dir: dir}
	pid := f.pid("other/pid")
	must(t, parent.Process.Kill())
	_ = parent.Wait()
	f.told("other/terminated")
	gone(t, pid)
}

func TestARestartDuringTheRestAfterACrash(t *testing.T) {
	t.Parallel()
	f := raise(t, "78", nil) // which rests for ever
	f.wait("not resting", func(s Status) bool { return s.ExitCode == exitConfig && !s.Running })
	f.set(func(s *Status) { s.ExitCode, s.Restarts = 1, 4 })
	must(t, f.Restart(t.Context()))
	f.wait("not counted anew", func(s Status) bool { return s.Restarts == 0 && s.ExitCode == exitConfig })
}

// TestAChildThatCannotBeStarted: the Restart that wanted it hears of it.
func TestAChildThatCannotBeStarted(t *testing.T) {
	t.Parallel()
	f := raise(t, "waits", func(o *ChildOptions) { o.Argv = []string{filepath.Join(o.RuntimeDir, "nothing")} })
	f.wait("no reason", func(s Status) bool { return strings.Contains(s.Reason, "no such file") && s.ExitCode == -1 })
	if err := f.Restart(t.Context()); err == nil || !strings.Contains(err.Error(), "nothing") {
		t.Errorf("%v", err)
	}
	f.stop()
	must(t, <-f.ended)
	f.ended <- nil
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := f.Restart(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a Restart of what does not run: %v", err)
	}
}

// TestAChildHasItsOwnServiceManager, whoever started its supervisor.
func TestAChildHasItsOwnServiceManager(t *testing.T) {
	t.Parallel()
	user := (*User)(nil)
	if os.Geteuid() == 0 {
		user = &User{UID: hostile, GID: stranger}
	}
	f := raise(t, "tells", func(o *ChildOptions) {
		o.PingTimeout, o.User = 30*time.Second, user
		o.Env = append(o.Env, "NOTIFY_SOCKET=/elsewhere", "WATCHDOG_USEC=1", "WATCHDOG_PID=1", "LISTEN_FDS=1", "LISTEN_PID=1", "KEPT=yes")
	})
	env := "\n" + f.told("environment") + "\n"
	for _, want := range []string{"\nWATCHDOG_USEC=30000000\n", "\nKEPT=yes\n", "\nNOTIFY_SOCKET=" + f.dir} {
		if !strings.Contains(env, want) {
			t.Errorf("%q is missing: %s", want, env)
		}
	}
	for _, not := range []string{"WATCHDOG_PID", "LISTEN_", "/elsewhere", "USEC=1\n"} {
		if strings.Contains(env, not) {
			t.Errorf("%q is there: %s", not, env)
		}
	}
	if got := f.told("user"); user != nil && got != fmt.Sprint(hostile, " ", stranger) {
		t.Errorf("it runs as %s", got)
	}
}

// TestACrashLoopThatIsOver is none.
func TestACrashLoopThatIsOver(t *testing.T) {
	c, err := NewChild(ChildOptions{Argv: []string{"x"}, RuntimeDir: "/x", Log: zerolog.Nop()})
	must(t, err)
	c.status = Status{Running: true, GaveUp: true}
	for since, want := range map[time.Duration]bool{0: true, 2 * settled: false} {
		c.began = time.Now().Add(-since)
		if s, _ := c.Status(t.Context()); s.GaveUp != want {
			t.Errorf("after %v: %+v", since, s)
		}
	}
	// Ends that are long ago are none either.
	c.ends = []time.Time{time.Now().Add(-2 * crashWindow)}
	c.ended(Status{ExitCode: 1})
	if len(c.ends) != 1 {
		t.Errorf("%v", c.ends)
	}
}

func TestNewChildRefuses(t *testing.T) {
	if _, err := NewChild(ChildOptions{RuntimeDir: "/x"}); err == nil {
		t.Error("no command")
	}
	if _, err := NewChild(ChildOptions{Argv: []string{"x"}, RuntimeDir: "/" + strings.Repeat("x", 200)}); err == nil || !strings.Contains(err.Error(), "shorter") {
		t.Errorf("a path that no socket can have: %v", err)
	}
	c, err := NewChild(ChildOptions{Argv: []string{"x"}, RuntimeDir: "/dev/null/run"})
	must(t, err)
	if err := c.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "runtime dir") {
		t.Errorf("%v", err)
	}
}
