package watchdog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/internal/procgroup"
)

// exitConfig is EX_CONFIG of sysexits.h: starting again cannot help.
const exitConfig = 78

const (
	restartDelayMin = 200 * time.Millisecond
	restartDelayMax = 30 * time.Second

	// crashLoop restarts within crashWindow are a crash loop.
	crashLoop   = 5
	crashWindow = 5 * time.Minute

	// settled is how long a process must run for the pauses to begin anew.
	settled = time.Minute
)

// ChildOptions are what a Child needs.
type ChildOptions struct {
	Argv   []string // looked up at each start, so active may change in between
	Env    []string
	Dir    string
	User   *User     // whom it runs as; nil is the same user
	Output io.Writer // of its standard output and error; an *os.File is handed over
	// RuntimeDir holds the socket on which the child tells that it is ready and
	// alive, as under systemd (sd_notify(3)).
	RuntimeDir string
	// PingTimeout is how long it may be silent on that socket once it has
	// spoken; 0 does not ask for pings.
	PingTimeout time.Duration
	StopTimeout time.Duration // between SIGTERM and SIGKILL
	Log         zerolog.Logger
}

// Child runs the component as a child process: the Service of machines without
// systemd, such as containers.
type Child struct {
	o        ChildOptions
	delayMin time.Duration
	restarts chan chan error

	mu     sync.Mutex
	status Status
	began  time.Time   // when what runs was started
	ends   []time.Time // of late, by itself
}

// NewChild returns a Child; Run starts it.
func NewChild(o ChildOptions) (*Child, error) {
	if len(o.Argv) == 0 {
		return nil, errors.New("a child needs a command")
	}
	if path := notifyPath(o.RuntimeDir); len(path) > maxSocketPath {
		return nil, fmt.Errorf("the path of the socket %s has more than %d bytes; choose a base dir with a shorter name", path, maxSocketPath)
	}
	return &Child{o: o, delayMin: restartDelayMin, restarts: make(chan chan error)}, nil
}

// Status implements Service.
func (c *Child) Status(context.Context) (Status, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.status
	s.GaveUp = s.GaveUp && !(s.Running && time.Since(c.began) > settled)
	return s, nil
}

// Restart implements Service. Run must be running.
func (c *Child) Restart(ctx context.Context) error {
	done := make(chan error, 1)
	select {
	case c.restarts <- done:
	case <-ctx.Done():
		return fmt.Errorf("restart %s: %w", c.o.Argv[0], ctx.Err())
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("restart %s: %w", c.o.Argv[0], ctx.Err())
	}
}

// Run keeps the process running until ctx ends, then stops it.
func (c *Child) Run(ctx context.Context) error {
	notify, err := listenNotify(c.o.RuntimeDir, c.o.User)
	if err != nil {
		return err
	}
	defer notify.close()
	delay := c.delayMin
	var answer chan error // of the Restart that this start belongs to
	for {
		began := time.Now()
		p, err := c.start(notify)
		if answer != nil {
			answer <- err
			answer = nil
		}
		if err != nil {
			c.ended(Status{ExitCode: -1, Reason: err.Error()})
		} else {
			answer = c.watch(ctx, p, notify)
			p.stop(c.o.StopTimeout)
			if answer == nil && ctx.Err() == nil {
				c.ended(p.end())
			}
		}
		if answer == nil && ctx.Err() == nil {
			if time.Since(began) > settled {
				delay = c.delayMin
			}
			answer = c.rest(ctx, delay)
			delay = min(2*delay, restartDelayMax)
		}
		switch {
		case ctx.Err() != nil:
			if answer != nil {
				answer <- ctx.Err()
			}
			c.set(func(s *Status) { s.Running, s.PID = false, 0 })
			return nil
		case answer != nil:
			delay = c.delayMin
			c.mu.Lock()
			c.status, c.ends = Status{}, nil
			c.mu.Unlock()
		default:
			c.set(func(s *Status) { s.Restarts++ })
		}
	}
}

// rest waits before another start, for ever if starting again cannot help. A
// Restart ends it: then its answer channel is returned.
func (c *Child) rest(ctx context.Context, delay time.Duration) chan error {
	wait := time.NewTimer(delay)
	defer wait.Stop()
	if st, _ := c.Status(ctx); st.ExitCode == exitConfig {
		wait.Stop()
	}
	select {
	case answer := <-c.restarts:
		return answer
	case <-ctx.Done():
	case <-wait.C:
	}
	return nil
}

// ended records an end that nobody asked for.
func (c *Child) ended(how Status) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.ends = append(c.ends, now)
	for len(c.ends) > 0 && (now.Sub(c.ends[0]) > crashWindow || len(c.ends) > crashLoop) {
		c.ends = c.ends[1:]
	}
	c.status.Running, c.status.PID = false, 0
	c.status.ExitCode, c.status.Reason = how.ExitCode, how.Reason
	c.status.GaveUp = how.ExitCode == exitConfig || len(c.ends) == crashLoop
	c.o.Log.Warn().Str("reason", how.Reason).Bool("crash_loop", c.status.GaveUp).Msg("process ended")
}

func (c *Child) set(f func(*Status)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.status)
}

// process is one run of the child.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{}
	killed string // why the watchdog killed it
}

// start starts the process. It dies with this one, however this one dies.
func (c *Child) start(notify *notifySocket) (*process, error) {
	cmd := exec.Command(c.o.Argv[0], c.o.Argv[1:]...)
	cmd.Dir = c.o.Dir
	cmd.Env = append(ownEnviron(c.o.Env), "NOTIFY_SOCKET="+notify.path)
	if c.o.PingTimeout > 0 {
		cmd.Env = append(cmd.Env, "WATCHDOG_USEC="+strconv.FormatInt(c.o.PingTimeout.Microseconds(), 10))
	}
	cmd.Stdout, cmd.Stderr = c.o.Output, c.o.Output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if u := c.o.User; u != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: u.UID, Gid: u.GID, Groups: u.Groups}
	}
	cmd.WaitDelay = time.Second
	p := &process{cmd: cmd, exited: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel sends Pdeathsig when the thread that started the process
		// ends, and Go ends threads that it does not need.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
			close(p.exited)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", c.o.Argv[0], err)
	}
	c.set(func(s *Status) { s.Running, s.PID, c.began = true, cmd.Process.Pid, time.Now() })
	c.o.Log.Info().Int("pid", cmd.Process.Pid).Msg("process started")
	return p, nil
}

// managed are the variables by which a service manager talks to what it starts.
// Those of the one that started this process are not the child's.
var managed = []string{"NOTIFY_SOCKET=", "WATCHDOG_USEC=", "WATCHDOG_PID=", "LISTEN_FDS=", "LISTEN_PID=", "LISTEN_FDNAMES="}

func ownEnviron(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(v string) bool {
		return slices.ContainsFunc(managed, func(name string) bool { return strings.HasPrefix(v, name) })
	})
}

// watch returns when the process ended, ctx ended, it stopped pinging (and was
// aborted), or a Restart wants another: then its answer channel.
func (c *Child) watch(ctx context.Context, p *process, notify *notifySocket) chan error {
	var late <-chan time.Time
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-p.exited:
			return nil
		case <-ctx.Done():
			return nil
		case answer := <-c.restarts:
			return answer
		case message := <-notify.messages:
			if message.pid == p.cmd.Process.Pid && c.o.PingTimeout > 0 && message.alive {
				timer.Reset(c.o.PingTimeout)
				late = timer.C
			}
		case <-late:
			p.killed = fmt.Sprintf("it gave no sign of life for %v", c.o.PingTimeout)
			_ = p.cmd.Process.Signal(syscall.SIGABRT) // prints where it hangs
			select {
			case <-p.exited:
			case <-time.After(time.Second):
			}
			return nil
		}
	}
}

// stop ends the process and what it started, and waits for it.
func (p *process) stop(patience time.Duration) {
	select {
	case <-p.exited:
	default:
		if p.killed == "" {
			_ = p.cmd.Process.Signal(syscall.SIGTERM)
			select {
			case <-p.exited:
			case <-time.After(patience):
			}
		}
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		<-p.exited
	}
	procgroup.End(p.cmd)
}

// end tells how the process ended.
func (p *process) end() Status {
	state := p.cmd.ProcessState
	s := Status{ExitCode: state.ExitCode(), Reason: state.String()}
	if p.killed != "" {
		s.Reason = p.killed
	}
	return s
}
