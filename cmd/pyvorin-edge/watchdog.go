package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/internal/buildinfo"
	"github.com/pyvorin/pyvorin-edge/internal/clock"
	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/ota/disk"
	"github.com/pyvorin/pyvorin-edge/ota/watchdog"
)

// agentUnit is the systemd unit of the agent, and agentUser whom it runs as.
const (
	agentUnit = "pyvorin-edge.service"
	agentUser = "pyvorin-edge"
)

// bootPatience is how long a repair at boot waits for another watchdog.
const bootPatience = 10 * time.Second

func newWatchdog(a *app) *cobra.Command {
	var boot, single bool
	var userName string
	cmd := &cobra.Command{
		Use:   "watchdog",
		Short: "Do what there is to do about updates, and end",
		Long: `Judge updates from outside of the agent: finish or undo what a power cut
interrupted, carry out the request in the inbox, watch a release on trial until
it is kept or taken back, rescue an agent that crashes again and again since its
last update. With nothing to do it ends at once. It is started by systemd, as
root, from the copy that no update touches; with --boot before the agent.

Machines without systemd use "pyvorin-edge supervise" instead.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			w, done, err := a.newWatchdog(cmd, watchdog.Unit{Name: agentUnit}, trusted{user: userName, single: single})
			if err != nil {
				return err
			}
			defer done()
			patience := time.Duration(0)
			if boot {
				patience = bootPatience
			}
			err = watchdog.Locked(cmd.Context(), ota.Layout{Base: a.paths().Base}, patience, func() error {
				if boot {
					return w.Boot()
				}
				return w.Run(cmd.Context())
			})
			if errors.Is(err, watchdog.ErrBusy) && !boot || errors.Is(err, context.Canceled) {
				return nil // it sees what there is to do; or goes on when started again
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&boot, "boot", false, "only repair what active names, before the agent starts")
	cmd.Flags().StringVar(&userName, "user", agentUser, "whom the agent runs as: its requests are taken, and selftests run as this user")
	cmd.Flags().BoolVar(&single, "single-user", os.Geteuid() != 0, "all files belong to the user who runs this, and owners are not checked (default without root)")
	return cmd
}

// trusted says whose files are believed.
type trusted struct {
	user   string
	single bool
}

// newWatchdog makes the watchdog of the agent in the base dir. Done gives up
// what it holds open.
func (a *app) newWatchdog(cmd *cobra.Command, service watchdog.Service, who trusted) (w *watchdog.Watchdog, done func(), err error) {
	paths := a.paths()
	if err := os.MkdirAll(paths.Base, 0o755); err != nil {
		return nil, nil, fmt.Errorf("make base dir: %w (choose another with --base-dir)", err)
	}
	dir, err := disk.Open(paths.Base)
	if err != nil {
		return nil, nil, fmt.Errorf("open base dir: %w", err)
	}
	seed, err := os.Executable()
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("find the seed: %w", err), dir.Close())
	}
	o := watchdog.Options{
		Component: ota.AgentComponent,
		Layout:    ota.Layout{Base: paths.Base},
		Disk:      dir,
		Home:      dir,
		Service:   service,
		Probe:     watchdog.Agent{Socket: paths.Socket},
		Target:    bundle.HostTarget(),
		Seed:      &watchdog.Seed{Path: seed, Version: buildinfo.Version},
		Free:      func() (int64, error) { return freeBytes(paths.Base) },
		Clock:     clock.System(buildinfo.Time()),
		Uptime:    clock.SinceBoot,
		BootID:    clock.BootID(),
		Build:     buildinfo.Time(),
		Log:       newLogger(config.Logging{Level: "INFO", Format: "console"}, cmd.ErrOrStderr()),
	}
	var as *watchdog.User
	if !who.single {
		o.CheckOwners, o.Owner, o.Agent = true, uint32(os.Geteuid()), uint32(os.Geteuid())
		if as, err = lookUser(who.user); err == nil {
			o.Agent = as.UID
		} else if !errors.As(err, new(user.UnknownUserError)) {
			return nil, nil, errors.Join(err, dir.Close())
		}
	}
	o.Selftest = func(ctx context.Context, slot string) error {
		if as == nil && !who.single {
			return fmt.Errorf("there is no user %s to run it as", who.user)
		}
		args := []string{ota.AgentComponent, "selftest", "--base-dir", paths.Base}
		if a.configPath != "" {
			args = append(args, "--config", a.configPath)
		}
		return watchdog.RunSelftest(ctx, slot, args, as)
	}
	w, err = watchdog.New(o)
	if err != nil {
		return nil, nil, errors.Join(err, dir.Close())
	}
	return w, func() { dir.Close() }, nil
}

// lookUser finds a user and the groups it is in.
func lookUser(name string) (*watchdog.User, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("user %s has the id %s: %w", name, u.Uid, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("user %s has the group %s: %w", name, u.Gid, err)
	}
	out := &watchdog.User{UID: uint32(uid), GID: uint32(gid)}
	groups, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("groups of user %s: %w", name, err)
	}
	for _, g := range groups {
		if id, err := strconv.ParseUint(g, 10, 32); err == nil {
			out.Groups = append(out.Groups, uint32(id))
		}
	}
	return out, nil
}

// freeBytes is what this user may still write to the file system of dir.
func freeBytes(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}

func newSupervise(a *app) *cobra.Command {
	var userName string
	var ping, stop time.Duration
	cmd := &cobra.Command{
		Use:   "supervise",
		Short: "Run the agent from its slot and judge its updates, without systemd",
		Long: `Run the agent as a child process, start it again when it ends, and be the
watchdog that judges its updates: what systemd and "pyvorin-edge watchdog" do
together, for containers and for trying things out. An empty base dir is seeded
with this program. The agent must stay under the control of this process: it is
stopped when this one ends, however it ends.

With --user the agent runs as that user and only root's files are believed.
Without it all files belong to the user who runs this.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			single := userName == ""
			argv := []string{filepath.Join(ota.Layout{Base: a.paths().Base}.Active(), ota.AgentComponent), "run", "--base-dir", a.paths().Base}
			if a.configPath != "" {
				argv = append(argv, "--config", a.configPath)
			}
			log := newLogger(config.Logging{Level: "INFO", Format: "console"}, cmd.ErrOrStderr())
			if single && os.Geteuid() == 0 {
				log.Warn().Msg("the agent runs as root; name another user with --user")
			}
			options := watchdog.ChildOptions{
				Argv: argv, Env: os.Environ(), Output: childOutput(cmd),
				RuntimeDir: filepath.Join(a.paths().Base, "ota", "run"), PingTimeout: ping, StopTimeout: stop, Log: log,
			}
			if !single {
				as, err := lookUser(userName)
				if err != nil {
					return err
				}
				options.User = as
			}
			child, err := watchdog.NewChild(options)
			if err != nil {
				return err
			}
			w, done, err := a.newWatchdog(cmd, child, trusted{user: userName, single: single})
			if err != nil {
				return err
			}
			defer done()
			if err := makeInbox(ota.Layout{Base: a.paths().Base}, options.User); err != nil {
				return err
			}
			return watchdog.Locked(cmd.Context(), ota.Layout{Base: a.paths().Base}, 0, func() error {
				return watchdog.Supervise(cmd.Context(), w, child, log)
			})
		},
	}
	cmd.Flags().StringVar(&userName, "user", "", "whom the agent runs as; needs root")
	cmd.Flags().DurationVar(&ping, "ping-timeout", 30*time.Second, "kill the agent when it gives no sign of life for so long; 0 is never")
	cmd.Flags().DurationVar(&stop, "stop-timeout", 20*time.Second, "kill the agent when it has not ended so long after it was asked to")
	return cmd
}

// makeInbox makes the folder in which the agent, who runs as as, asks.
func makeInbox(l ota.Layout, as *watchdog.User) error {
	err := os.Mkdir(l.Inbox(), 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil && as != nil {
		err = os.Lchown(l.Inbox(), int(as.UID), int(as.GID))
	}
	if err != nil {
		return fmt.Errorf("make the inbox: %w", err)
	}
	return nil
}

// childOutput is where the agent's own output goes: to the same file where it
// is one, so that a log is not lost with this process.
func childOutput(cmd *cobra.Command) *os.File {
	if f, ok := cmd.ErrOrStderr().(*os.File); ok {
		return f
	}
	return os.Stderr
}
