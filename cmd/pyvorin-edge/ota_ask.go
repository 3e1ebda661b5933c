package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"github.com/pyvorin/pyvorin-edge/internal/cli"
	"github.com/pyvorin/pyvorin-edge/internal/human"
	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/disk"
)

func newOTARollback(u *updates) *cobra.Command {
	var to string
	var w waiting
	cmd := &cobra.Command{
		Use:   "rollback",
		Short: "Go back to the release that is kept, and tell what becomes of it",
		Long: `Ask the watchdog to go back to the release that is kept in the other slot. It is
judged only by whether it runs. Run it as root. Ctrl-C stops the waiting and not
the rollback. Exit code 0 when that release runs.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := w.check(); err != nil {
				return err
			}
			judge, err := u.newGatekeeper()
			if err != nil {
				return err
			}
			if err := u.mayAsk(judge.state); err != nil {
				return err
			}
			box, err := u.openInbox() // only to say so when it is not for this user
			if err != nil {
				return err
			}
			defer box.Close()
			_, err = u.ask(cmd, ota.Request{Action: ota.Rollback, TargetVersion: to}, judge, w)
			return err
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "only if the release that is kept has this version")
	w.flags(cmd)
	return cmd
}

// waiting is how an outcome is waited for.
type waiting struct {
	not     bool
	timeout time.Duration
}

func (w *waiting) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&w.not, "no-wait", false, "only ask, and do not wait for the outcome")
	cmd.Flags().DurationVar(&w.timeout, "timeout", 0, "stop waiting after so long; 0 waits for as long as it takes")
}

func (w *waiting) check() error {
	if w.timeout < 0 || w.not && w.timeout > 0 {
		return cli.Usagef("--timeout must be positive, and there is nothing to wait for with --no-wait")
	}
	return nil
}

// mayAsk returns why nothing can be asked of the watchdog now.
func (u *updates) mayAsk(s *ota.State) error {
	if s == nil {
		return errNoSlots
	}
	if !s.Phase.AtRest() {
		return fmt.Errorf("an update is under way (%s): wait for its outcome, see 'pyvorin-edge ota status'", s.Phase)
	}
	id, pending := u.pending()
	if pending && (s.Last == nil || s.Last.ID != id) { // else it was answered just now
		return fmt.Errorf("another request waits for the watchdog: see 'pyvorin-edge ota status'; if no watchdog runs, remove %s", u.home().Request())
	}
	return nil
}

// requestName is the request's in the base dir.
const requestName = "inbox/" + ota.RequestFile

// inHome lets do work in the base dir, where no link is followed: parts of it
// are the agent's.
func (u *updates) inHome(do func(home disk.FS) error) error {
	home, err := disk.Open(u.home().Base)
	if err != nil {
		return err
	}
	return errors.Join(do(home), home.Close())
}

// pending returns the id of the request in the inbox, "" when it cannot be read.
func (u *updates) pending() (id string, pending bool) {
	var data []byte
	err := u.inHome(func(home disk.FS) (err error) {
		data, err = disk.ReadFile(home, requestName, ota.MaxRequestBytes)
		return err
	})
	if err != nil {
		return "", !errors.Is(err, fs.ErrNotExist)
	}
	r, _ := ota.ParseRequest(data) // one that is no good has an id all the same
	return r.ID, true
}

// ask writes a request and waits for what becomes of it. The error is nil when
// it was done; answered says whether the watchdog is finished with it.
func (u *updates) ask(cmd *cobra.Command, r ota.Request, judge gatekeeper, w waiting) (answered bool, err error) {
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		return false, err
	}
	r.ID, r.At = hex.EncodeToString(id[:]), judge.now.UTC()
	if u.component != ota.AgentComponent {
		r.Component = u.component
	}
	if err := ota.WriteRequest(u.home(), r); err != nil {
		return false, err
	}
	out := cmd.OutOrStdout()
	if w.not {
		_, err := fmt.Fprintln(out, "asked; 'pyvorin-edge ota status' says what becomes of it")
		return false, err
	}
	ctx := cmd.Context()
	if w.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, w.timeout, errWaitedEnough)
		defer cancel()
	}
	l, err := u.layout()
	if err != nil {
		return false, err
	}
	f := follower{u: u, l: l, id: r.ID, out: out, errOut: cmd.ErrOrStderr(), pace: u.pace}
	o, err := f.follow(ctx)
	switch {
	case err != nil:
		return errors.Is(err, errUnanswered), err
	case o.Result != ota.Installed:
		return true, errors.New(human.Plain(o.String()))
	}
	_, err = fmt.Fprintln(out, human.Plain(o.String()+": "+o.Reason))
	return true, err
}

var (
	errWaitedEnough = errors.New("waited long enough")

	// errUnanswered marks that the watchdog did not take the request, and will not.
	errUnanswered = errors.New("the request was not taken")
)

// pace is how patient a follower is.
type pace struct {
	poll   time.Duration
	hint   time.Duration // after which it wonders whether there is a watchdog
	giveUp time.Duration // after which it takes the request back
	grace  time.Duration // for a watchdog that was just about to take it
}

var usualPace = pace{poll: 100 * time.Millisecond, hint: 5 * time.Second, giveUp: 30 * time.Second, grace: 2 * time.Second}

// follower follows an attempt by what the watchdog writes down.
type follower struct {
	u           *updates
	l           ota.Layout // of the component
	id          string
	out, errOut io.Writer
	pace        pace

	taken bool   // the watchdog works on it
	told  string // the last line
}

// follow tells each step of the attempt until it has an outcome.
func (f *follower) follow(ctx context.Context) (ota.Outcome, error) {
	tick := time.NewTicker(f.pace.poll)
	defer tick.Stop()
	begun, hinted := time.Now(), false
	var withdrawn time.Time
	for {
		o, gone, err := f.look()
		if err != nil {
			return ota.Outcome{}, err
		}
		waited := time.Since(begun)
		switch {
		case o != nil:
			f.awaitRemoval(ctx)
			return *o, nil
		case f.taken:
			withdrawn = time.Time{} // too late for that
		case !withdrawn.IsZero():
			if time.Since(withdrawn) >= f.pace.grace {
				return ota.Outcome{}, fmt.Errorf("%w for %s, so it was taken back: neither pyvorin-edge-watchdog.path ('systemctl status pyvorin-edge-watchdog.path') nor 'pyvorin-edge supervise' seems to run",
					errUnanswered, human.Exact(waited.Round(time.Second)))
			}
		case gone:
			return ota.Outcome{}, fmt.Errorf("%w: the watchdog removed it without an answer, or another one took its place; its log says more ('journalctl -u pyvorin-edge-watchdog')", errUnanswered)
		case waited >= f.pace.giveUp || errors.Is(context.Cause(ctx), errWaitedEnough):
			if err := f.withdraw(); err != nil {
				return ota.Outcome{}, err
			}
			withdrawn = time.Now()
		case waited >= f.pace.hint && !hinted:
			hinted = true
			fmt.Fprintln(f.errOut, "nothing has taken the request yet; does a watchdog run ('systemctl status pyvorin-edge-watchdog.path', or 'pyvorin-edge supervise')?")
		}
		if ctx.Err() != nil && withdrawn.IsZero() {
			return ota.Outcome{}, fmt.Errorf("%w: what was asked for goes on; see 'pyvorin-edge ota status'", stopped(ctx))
		}
		select {
		case <-tick.C:
		case <-f.done(ctx, withdrawn):
		}
	}
}

// done is when to stop waiting; once the request was withdrawn, the end of the
// grace is waited for.
func (f *follower) done(ctx context.Context, withdrawn time.Time) <-chan struct{} {
	if withdrawn.IsZero() {
		return ctx.Done()
	}
	return nil
}

func stopped(ctx context.Context) error {
	if errors.Is(context.Cause(ctx), errWaitedEnough) {
		return errWaitedEnough
	}
	return errors.New("stopped waiting")
}

// look reads how it stands and tells what is new. The outcome is nil before
// there is one; gone is true when the request is not in the inbox any more.
func (f *follower) look() (o *ota.Outcome, gone bool, err error) {
	// In this order: the watchdog writes the outcome before it removes the
	// request.
	pending, _ := f.u.pending()
	gone = pending != f.id
	s, err := ota.ReadState(f.l)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil // it was damaged, and is being made anew
	}
	if err != nil {
		return nil, gone, fmt.Errorf("read update state: %w", err)
	}
	if s.Attempt != nil && s.Attempt.ID == f.id {
		f.taken = true
		if line := stepText(s); line != f.told {
			f.told = line
			fmt.Fprintln(f.out, line)
		}
		return nil, gone, nil
	}
	if s.Last != nil && s.Last.ID == f.id {
		return s.Last, gone, nil
	}
	history, err := ota.ReadHistory(f.l)
	if err != nil {
		return nil, gone, fmt.Errorf("read update history: %w", err)
	}
	for _, o := range history {
		if o.ID == f.id {
			return &o, gone, nil
		}
	}
	if f.taken {
		return nil, gone, errors.New("the attempt was given up without an outcome of its own; 'pyvorin-edge ota history' says what happened instead")
	}
	return nil, gone, nil
}

// awaitRemoval waits until the watchdog has put everything away, so that the
// next request finds it ready.
func (f *follower) awaitRemoval(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, f.pace.hint)
	defer cancel()
	tick := time.NewTicker(f.pace.poll / 4)
	defer tick.Stop()
	for {
		if id, _ := f.u.pending(); id != f.id {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// withdraw takes the request back. A watchdog that has read it already carries
// it out all the same, which shows in its state.
func (f *follower) withdraw() error {
	if id, _ := f.u.pending(); id != f.id {
		return nil
	}
	err := f.u.inHome(func(home disk.FS) error { return home.Remove(requestName) })
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("take the request back: %w", err)
	}
	return nil
}

// stepText says in a line what the attempt in s is at.
func stepText(s *ota.State) string {
	a := s.Attempt
	switch s.Phase {
	case ota.Staging:
		line := "staging: the bundle is verified, unpacked and tested"
		if a.Tries > 1 {
			line += fmt.Sprintf(", try %d", a.Tries)
		}
		return line
	case ota.Staged:
		return fmt.Sprintf("staged: %s is complete in slot %s", a.Candidate.Version, a.Candidate.Slot)
	case ota.Trial:
		switch {
		case a.Verdict != "":
			return fmt.Sprintf("going back to %s: %s", a.Base.Version, human.Plain(a.Verdict))
		case !a.Activated:
			return fmt.Sprintf("trial: %s is started from slot %s", a.Candidate.Version, a.Candidate.Slot)
		case len(a.Restarts) > 0:
			return fmt.Sprintf("trial: %s ended %s", a.Candidate.Version, timesText(len(a.Restarts)))
		}
		return fmt.Sprintf("trial: %s runs; kept after %s well without a break, taken back if not within %s",
			a.Candidate.Version, seconds(a.MinHealthySeconds), seconds(a.DeadlineSeconds))
	}
	return string(s.Phase)
}
