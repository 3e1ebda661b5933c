// Package watchdog decides what a device runs, from outside of it.
//
// The parties are the agent, whose requests are hostile input; the two slots,
// of which the symbolic link active names one; the service manager (Service),
// which runs what active names; and the component itself, which is asked how it
// is (Probe) and believed only where lying would not help it. The watchdog runs
// as root from a copy of the program that no update touches, and only while
// there is something to do. It shares no queue, broker, sensor or config code
// with what it judges.
//
// An update goes committed -> staging -> staged -> trial -> committed or
// rolled_back. Each step is written to state.json, durably, before it is done,
// and start-up has a rule for each state it may find:
//
//	committed, rolled_back   active must name the committed release; if it does
//	                         not, or the release is broken, the other slot takes
//	                         over, and if that is broken too, the seed
//	staging                  the half-filled slot is removed, and the request tried again
//	staged                   the slot is complete: the trial begins
//	trial, no verdict        it goes on, in at most three boots
//	trial, a verdict         going back is finished
//
// So at whatever instant the power is cut, active names a complete, verified
// release, and a second cut during the recovery changes nothing about that.
// Attempts, boots and transitions are counted and bounded, so that nothing is
// tried for ever.
package watchdog

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/internal/clock"
	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/ota/disk"
	"github.com/pyvorin/pyvorin-edge/trust"
)

// Options are what a Watchdog needs.
type Options struct {
	Component string // ota.AgentComponent, or that of an application
	Layout    ota.Layout
	Disk      disk.FS // of Layout.Base

	// Home is the agent's base dir, with the inbox, the trust anchor and the
	// device id. For the agent itself it is Disk.
	Home disk.FS

	Service Service
	Probe   Probe

	// Selftest runs the release in the folder before it is trusted with the
	// device, as the user that will run it. Nil where there is no such test.
	Selftest func(ctx context.Context, dir string) error

	Target bundle.Target // what bundles must be made for
	Seed   *Seed         // nil where there is none
	Free   func() (int64, error)

	Clock  clock.Clock
	Uptime func() time.Duration // since boot
	BootID string
	Build  time.Time // of this program: no true time is before it

	// CheckOwners is off where all files are one user's. Else slots, active and
	// state must belong to Owner, and requests to Agent or Owner.
	CheckOwners  bool
	Owner, Agent uint32

	Poll time.Duration // how often a trial is looked at
	Log  zerolog.Logger
}

// Seed is the program that the package brought, for a device whose slots are
// both broken, and for one that has none yet.
type Seed struct {
	Path    string // of the file
	Version string
}

const (
	maxTransitions = 12 // of one attempt
	maxTries       = 3  // of staging one request
	maxBoots       = 3  // of one trial

	// rescueWindow is how long after its commit a release that crashes again
	// and again is still taken back.
	rescueWindow = 24 * time.Hour

	defaultPoll = 500 * time.Millisecond
)

// Watchdog is the judge of one component.
type Watchdog struct {
	o     Options
	log   zerolog.Logger
	state *ota.State // as it is on disk; nil before load
}

// New checks o and does no I/O.
func New(o Options) (*Watchdog, error) {
	if o.Disk == nil || o.Home == nil || o.Service == nil || o.Probe == nil || o.Clock == nil || o.Uptime == nil || o.Free == nil {
		return nil, errors.New("internal error: the watchdog lacks a part")
	}
	if o.Poll == 0 {
		o.Poll = defaultPoll
	}
	return &Watchdog{o: o, log: o.Log.With().Str("component", "watchdog").Str("of", o.Component).Logger()}, nil
}

// Boot brings active in order before the component is started: it finishes or
// undoes what a power cut interrupted, as far as that needs no service. An
// interrupted trial goes on with the next Run.
func (w *Watchdog) Boot() error {
	if err := w.load(); err != nil {
		return err
	}
	return w.recover()
}

// Run does what there is to do and returns when nothing is left: it recovers,
// goes on with an interrupted attempt, obeys a request, or rescues a component
// that crashes again and again since its last update. Only one Run or Boot may
// be at work; the caller holds the lock.
func (w *Watchdog) Run(ctx context.Context) error {
	if err := w.load(); err != nil {
		return err
	}
	if err := w.recover(); err != nil {
		return err
	}
	if err := w.resume(ctx); err != nil {
		return err
	}
	if err := w.obey(ctx); err != nil {
		return err
	}
	return w.rescue(ctx)
}

// State returns a copy of the state; nil before the first Boot or Run.
func (w *Watchdog) State() *ota.State {
	if w.state == nil {
		return nil
	}
	s, err := clone(w.state)
	if err != nil {
		return nil
	}
	return s
}

// resume goes on with an attempt that was interrupted.
func (w *Watchdog) resume(ctx context.Context) error {
	switch w.state.Phase {
	case ota.Staging:
		return w.restage(ctx)
	case ota.Staged:
		return w.beginTrial(ctx)
	case ota.Trial:
		return w.judge(ctx)
	}
	return nil
}

// The names of what is in Options.Disk.
const (
	activeLink  = "active"
	otaDir      = "ota"
	stateFile   = "ota/state.json"
	historyFile = "ota/history.jsonl"
	busyFile    = "ota/busy"
	workDir     = "ota/work"
	ballastFile = "ota/ballast"
)

// ballastBytes is room for a few states.
const ballastBytes = 256 << 10

// load reads the state. Where there is none, or it is damaged, what the slots
// hold is taken as committed: then the memory of failed releases is lost, and
// no more.
func (w *Watchdog) load() error {
	w.state = nil
	if err := disk.MkdirAll(w.o.Disk, otaDir, 0o755); err != nil {
		return fmt.Errorf("make the watchdog's folder: %w", err)
	}
	data, err := disk.ReadFile(w.o.Disk, stateFile, maxStateBytes)
	if err == nil {
		w.state, err = ota.ParseState(data)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
	case errors.Is(err, ota.ErrNoState), errors.Is(err, disk.ErrNotRegular):
		w.log.Error().Err(err).Msg("state is damaged, set aside and made anew from the slots")
		if err := w.o.Disk.Rename(stateFile, stateFile+".bad"); err != nil {
			return fmt.Errorf("set a damaged state aside: %w", err)
		}
	default:
		return fmt.Errorf("read state: %w", err)
	}
	return w.found()
}

// maxStateBytes bounds state.json.
const maxStateBytes = 1 << 20

// change writes the state as f leaves it, and only then takes it over.
func (w *Watchdog) change(f func(*ota.State) error) error {
	next, err := clone(w.state)
	if err != nil {
		return err
	}
	phase := next.Phase
	if err := f(next); err != nil {
		return err
	}
	if next.Attempt != nil && next.Phase != phase {
		if next.Attempt.Transitions++; next.Attempt.Transitions > maxTransitions {
			return fmt.Errorf("internal error: attempt %s has made more than %d transitions", next.Attempt.ID, maxTransitions)
		}
	}
	return w.save(next)
}

func (w *Watchdog) save(s *ota.State) error {
	data, err := s.Encode()
	if err != nil {
		return fmt.Errorf("encode state: %w", err)
	}
	err = disk.WriteFile(w.o.Disk, stateFile, data, 0o644)
	if errors.Is(err, syscall.ENOSPC) && w.o.Disk.Remove(ballastFile) == nil {
		err = disk.WriteFile(w.o.Disk, stateFile, data, 0o644)
	}
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	w.state = s
	return nil
}

// layBallast keeps room for the state of an attempt: a disk that others fill
// while it is under way must not keep the watchdog from taking it back.
func (w *Watchdog) layBallast() error {
	if info, err := w.o.Disk.Lstat(ballastFile); err == nil && info.Size() == ballastBytes {
		return nil
	}
	if err := disk.RemoveAll(w.o.Disk, ballastFile); err != nil {
		return fmt.Errorf("keep room for the state: %w", err)
	}
	// Random bytes, or a file system that compresses would keep no room.
	filler := make([]byte, ballastBytes)
	rand.Read(filler)
	if err := disk.WriteNew(w.o.Disk, ballastFile, filler, 0o600); err != nil {
		return fmt.Errorf("keep room for the state: %w", err)
	}
	return nil
}

func clone(s *ota.State) (*ota.State, error) {
	data, err := s.Encode()
	if err != nil {
		return nil, fmt.Errorf("copy state: %w", err)
	}
	return ota.ParseState(data)
}

// now is the time that something is compared with: never before what this
// program or anything trusted has told, whatever the clock says.
func (w *Watchdog) now() time.Time {
	return trust.Now(w.o.Clock.Now(), w.o.Build, w.state.TrustedTime).UTC()
}
