package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pyvorin/pyvorin-edge/internal/buildinfo"
	"github.com/pyvorin/pyvorin-edge/internal/human"
	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/ota/fetch"
	"github.com/pyvorin/pyvorin-edge/trust"
)

var errRefused = errors.New("this device would refuse it")

func newOTAVerify(u *updates) *cobra.Command {
	var anchorPath string
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Say what a bundle is, and why this device would refuse it",
		Long: `Verify a bundle as the watchdog would: its signatures against the device's trust
anchor, its expiry, every part of it, whether it is made for this machine, newer
than what is committed, and has not failed here before. Nothing is installed.
Exit code 1 when the device would refuse it, with every reason.

On a machine without slots, such as yours, what the device alone knows is not
looked at; name the anchor then.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			anchor, err := u.anchor(anchorPath)
			if err != nil {
				return err
			}
			judge, err := u.newGatekeeper()
			if err != nil {
				return err
			}
			path, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			v, reasons, err := verifyBundle(cmd.Context(), path, anchor, judge)
			if err != nil {
				return fmt.Errorf("verify %s: %w", args[0], err)
			}
			out := cmd.OutOrStdout()
			if err := printBundle(out, v, anchor); err != nil {
				return err
			}
			if judge.state == nil {
				fmt.Fprintln(out, "note: there are no slots here; counter and earlier failures were not looked at")
			}
			for _, r := range reasons {
				fmt.Fprintln(out, "refused:", human.Plain(r))
			}
			if len(reasons) > 0 {
				return errRefused
			}
			verdict := "ok: this device would install it"
			if judge.runs(v.Manifest()) {
				verdict = "ok: it runs already"
			}
			_, err = fmt.Fprintln(out, verdict)
			return err
		},
	}
	cmd.Flags().StringVar(&anchorPath, "trust-anchor", "", "anchor to verify with (default BASE-DIR/trust_anchor.json)")
	return cmd
}

// anchor reads the trust anchor at path, or the device's.
func (u *updates) anchor(path string) (*trust.Anchor, error) {
	if path != "" {
		return trust.LoadAnchor(path)
	}
	anchor, err := trust.LoadAnchor(u.home().Anchor())
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: without it nothing can be verified; provision the device, or name one with --trust-anchor", err)
	}
	return anchor, err
}

// verifyBundle verifies the bundle in a file, all parts of it, and returns what
// it is and why the device would refuse it. The error says that it is not to be
// trusted, or cannot be read, so that there is nothing to show.
func verifyBundle(ctx context.Context, path string, anchor *trust.Anchor, judge gatekeeper) (bundle.Verified, []string, error) {
	f, err := os.Open(path)
	if err != nil {
		return bundle.Verified{}, nil, err
	}
	defer f.Close()
	r, err := bundle.Open(f, anchor, judge.now)
	if err != nil {
		return bundle.Verified{}, nil, err
	}
	reasons := judge.refusals(r.Verified().Manifest())
	if err := judge.room(r.Verified(), filepath.Dir(path)); err != nil {
		reasons = append(reasons, err.Error())
	}
	if err := r.Check(ctx); err != nil {
		reasons = append(reasons, err.Error())
	}
	return r.Verified(), reasons, nil
}

// gatekeeper knows what the watchdog will hold against a release. It spares
// the device work that is in vain, and decides nothing: the watchdog does.
type gatekeeper struct {
	component string
	state     *ota.State // nil where there are no slots
	target    bundle.Target
	now       time.Time
	retry     bool                  // root wants a failed release tried again
	inbox     string                // absolute
	free      func() (int64, error) // bytes of the inbox's file system
}

func (u *updates) newGatekeeper() (gatekeeper, error) {
	s, err := u.state()
	if err != nil {
		return gatekeeper{}, err
	}
	inbox, err := filepath.Abs(u.home().Inbox())
	if err != nil {
		return gatekeeper{}, err
	}
	g := gatekeeper{
		component: u.component, state: s, target: bundle.HostTarget(), now: trust.Now(time.Now(), buildinfo.Time()),
		inbox: inbox, free: func() (int64, error) { return freeBytes(u.home().Base) },
	}
	if s != nil {
		g.now = trust.Now(g.now, s.TrustedTime)
	}
	return g, nil
}

// runs reports whether the release is the one that is committed.
func (g gatekeeper) runs(m bundle.Manifest) bool {
	return g.state != nil && m.Name == g.component && m.Digest() == g.state.Active.Digest
}

// refusals returns every reason why the release would not be taken.
func (g gatekeeper) refusals(m bundle.Manifest) []string {
	var reasons []string
	because := func(format string, args ...any) { reasons = append(reasons, fmt.Sprintf(format, args...)) }
	if m.Name != g.component {
		because("it holds %s, not %s", m.Name, g.component)
	}
	if err := m.CheckTarget(g.target); err != nil {
		because("%v", err)
	}
	if err := m.CheckExpiry(g.now); err != nil {
		because("%v", err)
	}
	s := g.state
	if s == nil || m.Name != g.component || g.runs(m) {
		return reasons
	}
	digest := m.Digest()
	// What was committed last may come back after a repair or a rescue.
	if again := m.Counter == s.Floor && digest == s.FloorDigest; m.Counter <= s.Floor && !again {
		because("it has counter %d, and %d was committed; only the release that is kept can be gone back to ('pyvorin-edge ota rollback')", m.Counter, s.Floor)
	}
	if failed := s.Failed(digest); failed != nil && !g.retry {
		because("it failed on %s: %s; 'pyvorin-edge ota install --retry' as root tries it again", failed.At.UTC().Format("2006-01-02 15:04 UTC"), failed.Reason)
	}
	if m.Payload.Kind == bundle.Delta && m.Payload.BaseSHA256 != s.Active.Digest && (s.Previous == nil || m.Payload.BaseSHA256 != s.Previous.Digest) {
		because("it is a delta against another release than those on this device; take the full bundle")
	}
	return reasons
}

// room returns an error when there is no room to install a bundle that lies in
// dir.
func (g gatekeeper) room(v bundle.Verified, dir string) error {
	if g.state == nil || g.runs(v.Manifest()) {
		return nil
	}
	free, err := g.free()
	if err != nil {
		return fmt.Errorf("ask for free space: %w", err)
	}
	need := fetch.StagingRoom(v) + installReserve
	if dir != g.inbox {
		need += v.Size()
	}
	if free < need {
		return fmt.Errorf("it takes %s of free space, %s of them as a reserve, and %s are free", human.Bytes(need), human.Bytes(installReserve), human.Bytes(free))
	}
	return nil
}

func printBundle(out io.Writer, v bundle.Verified, anchor *trust.Anchor) error {
	m := v.Manifest()
	const minute = "2006-01-02 15:04 UTC"
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	row("release", "%s %s (counter %d)", m.Name, m.Version, m.Counter)
	hardware := "any board"
	if !slices.Contains(m.Hardware, "*") {
		hardware = strings.Join(m.Hardware, ", ")
	}
	row("made for", "%s/%s, %s", m.OS, m.Arch, hardware)
	kind := "full"
	if m.Payload.Kind == bundle.Delta {
		kind = fmt.Sprintf("delta against %.16s", m.Payload.BaseSHA256)
	}
	row("bundle", "%s, %s; installed %s", kind, human.Bytes(v.Size()), human.Bytes(m.InstalledSize))
	row("content", "%s", m.Digest())
	row("created", "%s", m.CreatedAt.UTC().Format(minute))
	row("expires", "%s", m.ExpiresAt.UTC().Format(minute))
	row("signed by", "%s (trust anchor version %d)", strings.Join(v.Signers(), ", "), anchor.Version())
	row("trial", "%s", trialText(m.Health))
	return w.Flush()
}

// trialText says what the trial of a release asks for; what it leaves to the
// device is not known here.
func trialText(h bundle.Health) string {
	var parts []string
	if h.MinHealthySeconds > 0 {
		parts = append(parts, "well for "+seconds(float64(h.MinHealthySeconds)))
	}
	if h.DeadlineSeconds > 0 {
		parts = append(parts, "within "+seconds(float64(h.DeadlineSeconds)))
	}
	if len(h.Required) > 0 {
		parts = append(parts, "with "+strings.Join(h.Required, ", ")+" ok")
	}
	if len(parts) == 0 {
		return "as the device does it"
	}
	return strings.Join(parts, " ")
}
