package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pyvorin/pyvorin-edge/internal/buildinfo"
	"github.com/pyvorin/pyvorin-edge/internal/clock"
	"github.com/pyvorin/pyvorin-edge/internal/human"
	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/trust"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// otaStatus is what `ota status --json` prints: what /health says of updates,
// and more. Its keys are documented in the verb's help and stay.
type otaStatus struct {
	wire.OTAHealth
	Component   string        `json:"component"`
	Slots       bool          `json:"slots"`
	Committed   *ota.Release  `json:"committed"`
	CommittedAt *time.Time    `json:"committed_at"`
	Retained    *ota.Release  `json:"retained"`
	Attempt     *otaAttempt   `json:"attempt"`
	Last        *ota.Outcome  `json:"last"`
	Failed      []ota.Failure `json:"failed"`
	Floor       uint64        `json:"floor"`
	Next        string        `json:"next"`
	Device      otaDevice     `json:"device"`
}

// otaAttempt is an update that is under way.
type otaAttempt struct {
	ID                string       `json:"id"`
	Action            ota.Action   `json:"action"`
	RolloutID         string       `json:"rollout_id"`
	Candidate         *ota.Release `json:"candidate"`
	TrialSeconds      *float64     `json:"trial_seconds"`
	MinHealthySeconds float64      `json:"min_healthy_seconds"`
	DeadlineSeconds   float64      `json:"deadline_seconds"`
	Boots             int          `json:"boots"`
	Restarts          int          `json:"restarts"`
	Verdict           string       `json:"verdict"`
}

// otaDevice is what a bundle meets here.
type otaDevice struct {
	ID             string     `json:"id"`
	OS             string     `json:"os"`
	Arch           string     `json:"arch"`
	Hardware       []string   `json:"hardware"`
	AnchorVersion  int        `json:"anchor_version"` // 0 is none
	AnchorExpires  *time.Time `json:"anchor_expires_at"`
	AnchorProblem  string     `json:"anchor_problem"`
	ActiveLink     string     `json:"active_link"`
	RequestPending bool       `json:"request_pending"`
}

func newOTAStatus(u *updates) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say what runs, what is kept, what is on trial, and what happens next",
		Long: `Say what runs, what is kept to go back to, what is on trial, and what happens
next. It needs neither root nor a running agent.

A device that is not updated by slots is "committed" to the version that runs;
"slots" is false then.

With --json, one object with the keys of "ota" in /health and more:

  state         committed, staging, staged, trial or rolled_back
  active        version that runs, or is about to
  previous      version that it replaced and that can be gone back to, or ""
  last_outcome  how the last attempt ended, in a line; or null
  component     which component this is about
  slots         whether there are slots
  committed     {slot, version, counter, digest, seed}, the release that is kept
  committed_at  since when
  retained      the same of the release before it, or null
  attempt       null at rest, else {id, action, rollout_id, candidate,
                trial_seconds, min_healthy_seconds, deadline_seconds, boots,
                restarts, verdict}; trial_seconds is null before the trial, and
                a verdict is why the candidate is being taken back
  last          the last attempt as in 'ota history --json', or null
  failed        [{digest, version, reason, at}], not tried again by themselves
  floor         bundles need a higher counter
  next          what happens next, in a line
  device        {id, os, arch, hardware, anchor_version, anchor_expires_at,
                anchor_problem, active_link, request_pending}`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			doc, err := u.status(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(doc)
			}
			return printOTAStatus(cmd.OutOrStdout(), doc, time.Now())
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (u *updates) status(ctx context.Context) (otaStatus, error) {
	s, err := u.state()
	if err != nil {
		return otaStatus{}, err
	}
	l, err := u.layout()
	if err != nil {
		return otaStatus{}, err
	}
	running := ""
	if s == nil && u.component == ota.AgentComponent {
		running = buildinfo.Version
		if d, err := u.agentHealth(ctx); err == nil {
			running = d.Version
		}
	}
	doc := otaStatus{OTAHealth: ota.Health(l, running), Component: u.component, Failed: []ota.Failure{}, Device: u.device(l)}
	if s != nil {
		doc.fill(s, clock.BootID(), clock.SinceBoot())
	}
	doc.Next = doc.next()
	return doc, nil
}

// fill adds what the state says; uptime is since the boot with this id.
func (d *otaStatus) fill(s *ota.State, bootID string, uptime time.Duration) {
	d.Slots, d.Committed, d.Retained, d.Last, d.Floor = true, &s.Active, s.Previous, s.Last, s.Floor
	d.Failed = append(d.Failed, s.Failures...)
	if !s.CommittedAt.IsZero() {
		d.CommittedAt = &s.CommittedAt
	}
	a := s.Attempt
	if a == nil {
		return
	}
	d.Attempt = &otaAttempt{
		ID: a.ID, Action: a.Action, RolloutID: a.RolloutID, Candidate: a.Candidate,
		MinHealthySeconds: a.MinHealthySeconds, DeadlineSeconds: a.DeadlineSeconds,
		Boots: a.Boots, Restarts: len(a.Restarts), Verdict: a.Verdict,
	}
	if a.Activated && a.BootID == bootID {
		on := max(0, math.Round(10*(uptime.Seconds()-a.BeganAt))/10)
		d.Attempt.TrialSeconds = &on
	}
}

// device gathers what decides which bundles may come.
func (u *updates) device(l ota.Layout) otaDevice {
	target := bundle.HostTarget()
	d := otaDevice{OS: target.OS, Arch: target.Arch, Hardware: append([]string{}, target.Hardware...)}
	d.ID, _ = u.paths().ReadDeviceID()
	d.ActiveLink, _ = os.Readlink(l.Active())
	_, err := os.Lstat(u.home().Request())
	d.RequestPending = err == nil
	anchor, err := trust.LoadAnchor(u.home().Anchor())
	if err != nil {
		d.AnchorProblem = err.Error()
		return d
	}
	d.AnchorVersion = anchor.Version()
	if at := anchor.ExpiresAt(); !at.IsZero() {
		d.AnchorExpires = &at
		if anchor.Expired(trust.Now(time.Now(), buildinfo.Time())) {
			d.AnchorProblem = "the trust anchor has expired; rotate it"
		}
	}
	return d
}

// next says what happens next.
func (d otaStatus) next() string {
	a := d.Attempt
	switch phase := ota.Phase(d.State); {
	case !d.Slots:
		return errNoSlots.Error()
	case phase == ota.Staging:
		return "the bundle is verified, unpacked beside the inactive slot and tested there"
	case phase == ota.Staged:
		return fmt.Sprintf("%s is complete in slot %s: its trial begins", a.Candidate.Version, a.Candidate.Slot)
	case phase == ota.Trial && a.Verdict != "":
		return fmt.Sprintf("%s is taken back: %s", a.Candidate.Version, human.Plain(a.Verdict))
	case phase == ota.Trial && a.TrialSeconds == nil:
		return fmt.Sprintf("%s is started from slot %s and judged", a.Candidate.Version, a.Candidate.Slot)
	case phase == ota.Trial:
		return fmt.Sprintf("on trial since %s: kept after %s well without a break, taken back if not within %s",
			seconds(*a.TrialSeconds), seconds(a.MinHealthySeconds), seconds(a.DeadlineSeconds))
	case d.Device.RequestPending:
		return "a request waits for the watchdog"
	case d.Device.AnchorProblem != "":
		return "no bundle can be verified: " + d.Device.AnchorProblem
	}
	return fmt.Sprintf("nothing until there is a bundle with a counter above %d", d.Floor)
}

// seconds is a time of an attempt for people.
func seconds(s float64) string {
	return human.Exact(time.Duration(s * float64(time.Second)).Round(time.Second))
}

func printOTAStatus(out io.Writer, d otaStatus, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	row("state", "%s", d.State)
	switch {
	case !d.Slots:
		row("active", "%s", cmp.Or(d.Active, "not known"))
	case d.Attempt != nil:
		row("committed", "%s", releaseText(*d.Committed))
		if c := d.Attempt.Candidate; c != nil {
			row("candidate", "%s%s", releaseText(*c), restartsText(d.Attempt))
		}
	default:
		row("active", "%s%s", releaseText(*d.Committed), agoText(", committed ", d.CommittedAt, now))
	}
	if d.Retained != nil {
		row("previous", "%s: 'pyvorin-edge ota rollback' goes back to it", releaseText(*d.Retained))
	}
	if d.Last != nil {
		row("last", "%s, %s", human.Plain(d.Last.String()), human.Ago(d.Last.At, now))
	}
	for _, f := range d.Failed {
		row("failed", "%s, %s: %s", f.Version, human.Ago(f.At, now), human.Plain(f.Reason))
	}
	hardware := "unknown board"
	if len(d.Device.Hardware) > 0 {
		hardware = human.Plain(strings.Join(d.Device.Hardware, ", "))
	}
	row("device", "%s%s/%s, %s", idText(d.Device.ID), d.Device.OS, d.Device.Arch, hardware)
	switch {
	case d.Device.AnchorVersion > 0:
		row("trust", "anchor version %d%s", d.Device.AnchorVersion, expiryText(d.Device.AnchorExpires))
	case d.Slots:
		row("trust", "%s", d.Device.AnchorProblem)
	}
	row("next", "%s", d.Next)
	return w.Flush()
}

func restartsText(a *otaAttempt) string {
	if a.Restarts == 0 {
		return ""
	}
	return ", it ended " + timesText(a.Restarts)
}

func timesText(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

func idText(id string) string {
	if id == "" {
		return ""
	}
	return id + ", "
}

func expiryText(at *time.Time) string {
	if at == nil {
		return ""
	}
	return ", expires " + at.UTC().Format("2006-01-02 15:04 UTC")
}
