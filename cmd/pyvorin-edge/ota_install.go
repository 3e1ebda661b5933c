package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/internal/human"
	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/ota/disk"
	"github.com/pyvorin/pyvorin-edge/ota/fetch"
	"github.com/pyvorin/pyvorin-edge/trust"
)

// installReserve is what fetching a bundle leaves free, as the watchdog does.
const installReserve = 32 << 20

func newOTAInstall(u *updates) *cobra.Command {
	var retry bool
	var w waiting
	cmd := &cobra.Command{
		Use:   "install FILE|URL",
		Short: "Bring a bundle to the device, have it installed, and tell what becomes of it",
		Long: `Bring a bundle into the device's inbox, from a file or from an http or https URL,
ask the watchdog to install it, and tell each step until the new release is kept
or taken back. What was fetched before is not fetched again.

Run it as root or as the agent's user. Ctrl-C stops the waiting and not the
update. Exit code 0 when the release was committed, or runs already; 1 with the
reason when it was refused or taken back.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := w.check(); err != nil {
				return err
			}
			return u.install(cmd, args[0], retry, w)
		},
	}
	cmd.Flags().BoolVar(&retry, "retry", false, "try a release again that failed before; needs root")
	w.flags(cmd)
	return cmd
}

func (u *updates) install(cmd *cobra.Command, source string, retry bool, w waiting) error {
	anchor, err := u.anchor("")
	if err != nil {
		return err
	}
	judge, err := u.newGatekeeper()
	if err != nil {
		return err
	}
	judge.retry = retry
	if err := u.mayAsk(judge.state); err != nil {
		return err
	}
	box, err := u.openInbox()
	if err != nil {
		return err
	}
	defer box.Close()
	got, err := u.bring(cmd, box, source, anchor, judge)
	if errors.Is(err, errRunsAlready) {
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s runs already\n", judge.state.Active.Version)
		return err
	}
	if err != nil {
		return err
	}
	m := got.v.Manifest()
	fmt.Fprintf(cmd.OutOrStdout(), "verified: %s %s (counter %d), %s\n", m.Name, m.Version, m.Counter, human.Bytes(got.v.Size()))
	answered, err := u.ask(cmd, ota.Request{Action: ota.Install, Bundle: got.name, Retry: retry}, judge, w)
	if answered && !got.own {
		err = errors.Join(err, box.remove(got.name))
	}
	return err
}

var errRunsAlready = errors.New("it runs already")

// brought is a bundle in the inbox.
type brought struct {
	v    bundle.Verified
	name string
	own  bool // somebody else put it there, and keeps it
}

// bring gets the bundle at source into the inbox. It is verified, and refused
// as early as can be if the watchdog would refuse it.
func (u *updates) bring(cmd *cobra.Command, box *inbox, source string, anchor *trust.Anchor, judge gatekeeper) (brought, error) {
	isURL := strings.Contains(source, "://")
	if !isURL {
		var err error
		if source, err = filepath.Abs(source); err != nil {
			return brought{}, err
		}
		if filepath.Dir(source) == judge.inbox {
			return u.there(cmd.Context(), filepath.Base(source), anchor, judge)
		}
	}
	name, err := inboxName(source, isURL)
	if err != nil {
		return brought{}, err
	}
	if isURL {
		// What came from there earlier may not be what is there now.
		if err := box.remove(name); err != nil {
			return brought{}, err
		}
	}
	f, err := fetch.New(fetch.Options{
		Dir: box.path(), Reserve: installReserve,
		Free: func() (int64, error) { return freeBytes(box.path()) },
		Log:  newLogger(config.Logging{Level: "WARN", Format: "console"}, cmd.ErrOrStderr()),
	})
	if err != nil {
		return brought{}, err
	}
	bar, done := progress(cmd.ErrOrStderr())
	v, err := f.Fetch(cmd.Context(), fetch.Job{
		Source: source, Name: name, Anchor: anchor, Now: judge.now,
		Admit:    func(v bundle.Verified) error { return judge.admit(v.Manifest()) },
		Room:     fetch.StagingRoom,
		Progress: bar,
	})
	done()
	rest := []string{name + fetch.PartSuffix, name + fetch.PieceSuffix}
	if errors.Is(err, errRunsAlready) || errors.As(err, new(refusal)) {
		return brought{}, errors.Join(err, box.remove(rest...)) // nobody goes on with that
	}
	err = errors.Join(err, box.handOver(append(rest, name)...))
	if cmd.Context().Err() != nil {
		return brought{}, errors.New("broken off; nothing was asked of the watchdog, and what was fetched is kept for the next try")
	}
	return brought{v: v, name: name}, err
}

// there verifies a bundle that is in the inbox already.
func (u *updates) there(ctx context.Context, name string, anchor *trust.Anchor, judge gatekeeper) (got brought, err error) {
	err = u.inHome(func(home disk.FS) error {
		f, err := home.Open("inbox/" + name)
		if err != nil {
			return err
		}
		defer f.Close()
		r, err := bundle.Open(f, anchor, judge.now)
		if err == nil {
			err = judge.admit(r.Verified().Manifest())
		}
		if err == nil {
			err = r.Check(ctx)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		got = brought{v: r.Verified(), name: name, own: true}
		return nil
	})
	return got, err
}

// admit returns why the release is not worth fetching; errRunsAlready when it
// is there.
func (g gatekeeper) admit(m bundle.Manifest) error {
	if reasons := g.refusals(m); len(reasons) > 0 {
		return refusal(fmt.Sprintf("this device would refuse version %s: %s", m.Version, strings.Join(reasons, "; ")))
	}
	if g.runs(m) {
		return errRunsAlready
	}
	return nil
}

// refusal says why a release is not asked for.
type refusal string

func (r refusal) Error() string { return string(r) }

// inboxName names a bundle from source in the inbox: the same for the same
// file, or the same URL, so that fetching goes on where it was broken off.
func inboxName(source string, isURL bool) (string, error) {
	id := []byte(source)
	if !isURL {
		f, err := os.Open(source)
		if err != nil {
			return "", err
		}
		defer f.Close()
		if id, err = bundle.ReadEnvelope(f); err != nil {
			return "", fmt.Errorf("%s: %w", source, err)
		}
	}
	sum := sha256.Sum256(id)
	return "by-hand-" + hex.EncodeToString(sum[:8]) + ".bundle", nil
}

// progress returns what draws a progress bar where out is a terminal, and what
// removes it.
func progress(out io.Writer) (show func(done, total int64), end func()) {
	if !isTerminal(out) {
		return nil, func() {}
	}
	bar := progressbar.NewOptions64(1,
		progressbar.OptionSetWriter(out), progressbar.OptionSetDescription("fetching"), progressbar.OptionSetWidth(30),
		progressbar.OptionShowBytes(true), progressbar.OptionShowCount(), progressbar.OptionUseIECUnits(true),
		progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
	show = func(done, total int64) {
		if total != bar.GetMax64() {
			bar.ChangeMax64(total)
		}
		_ = bar.Set64(min(done, total)) // only drawing can fail
	}
	return show, func() { _ = bar.Clear() }
}
