package ota

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/pyvorin/pyvorin-edge/wire"
)

// Phase is where an update stands.
type Phase string

// The phases. Committed and RolledBack are at rest: what active names is kept
// for good.
const (
	Committed  Phase = "committed"
	Staging    Phase = "staging"     // a bundle is being checked and unpacked; active is untouched
	Staged     Phase = "staged"      // the inactive slot is complete and verified
	Trial      Phase = "trial"       // active names it, or is about to; it is being judged, or its verdict carried out
	RolledBack Phase = "rolled_back" // as Committed, but the last attempt failed
)

// next are the transitions that there are. A rest state may follow any other,
// because every attempt can be given up.
var next = map[Phase][]Phase{
	Committed:  {Staging, Trial}, // straight to a trial: going back to the retained slot
	RolledBack: {Staging, Trial},
	Staging:    {Staged, Committed, RolledBack},
	Staged:     {Trial, Committed, RolledBack},
	Trial:      {Committed, RolledBack},
}

// AtRest reports whether no attempt is under way.
func (p Phase) AtRest() bool { return p == Committed || p == RolledBack }

// Release is what a slot holds.
type Release struct {
	Slot    string `json:"slot"`
	Version string `json:"version"`
	Counter uint64 `json:"counter"`
	// Digest names the content: SHA-256 over the release's list of files, 64
	// hex digits, the same whether it came as a full bundle or as a delta.
	Digest string `json:"digest"`
	// Seed marks a copy of the package's own binary, which has no manifest:
	// Digest is then the SHA-256 of the binary.
	Seed bool `json:"seed,omitempty"`
}

// Attempt is one update from its request to its outcome.
type Attempt struct {
	ID          string    `json:"id"` // of the request
	Action      Action    `json:"action"`
	Nonce       string    `json:"nonce,omitempty"`      // of the signed command, if there was one
	RolloutID   string    `json:"rollout_id,omitempty"` // the same
	Now         time.Time `json:"now"`                  // the time that every expiry in this attempt is compared with
	Transitions int       `json:"transitions"`          // so far; bounded
	Tries       int       `json:"tries"`                // how often staging began; bounded

	Why string `json:"why,omitempty"` // of a rescue: what happened to Base

	Candidate *Release `json:"candidate,omitempty"` // what is on trial
	Base      *Release `json:"base,omitempty"`      // what to go back to

	MinHealthySeconds float64   `json:"min_healthy_seconds,omitempty"`
	DeadlineSeconds   float64   `json:"deadline_seconds,omitempty"`
	Required          []string  `json:"required,omitempty"` // checks
	Baseline          *Baseline `json:"baseline,omitempty"` // how the device was before; nil when it did not answer

	// Times are seconds since boot, which no clock change moves.
	BootID  string  `json:"boot_id,omitempty"`  // in which it runs
	AskedAt float64 `json:"asked_at,omitempty"` // in this boot; 0 when it was another one

	// Of the trial.
	Boots     int       `json:"boots,omitempty"`     // how many it has seen; bounded
	Resumed   int       `json:"resumed,omitempty"`   // how often a watchdog went on with it; bounded
	BeganAt   float64   `json:"began_at,omitempty"`  // in this boot
	Activated bool      `json:"activated,omitempty"` // the service was started from the candidate in this boot
	Seen      int       `json:"seen,omitempty"`      // restarts that the service manager has counted so far
	Restarts  []float64 `json:"restarts,omitempty"`  // when, the newest last; bounded

	// Verdict is set before it is carried out: "" while judging, else why the
	// candidate is taken back.
	Verdict string `json:"verdict,omitempty"`
}

// Baseline is what was good before a trial and must not be bad after it.
type Baseline struct {
	Checks         []string `json:"checks"`           // those that were ok
	Unwell         []string `json:"unwell,omitempty"` // those that were not
	CloudGood      bool     `json:"cloud_good"`
	FleetConnected bool     `json:"fleet_connected"`
}

// Failure is a release that must not be tried again unless a new command says so.
type Failure struct {
	Digest  string    `json:"digest"`
	Version string    `json:"version"`
	Reason  string    `json:"reason"`
	At      time.Time `json:"at"`
}

// Bounds of what is remembered.
const (
	MaxFailures = 32
	MaxNonces   = 256
)

// Obeyed is a command that was taken, remembered until it has expired.
type Obeyed struct {
	Nonce     string    `json:"nonce"`
	ExpiresAt time.Time `json:"expires_at"`
}

// State is all that the watchdog remembers.
type State struct {
	Format   int      `json:"format"`
	Phase    Phase    `json:"state"`
	Active   Release  `json:"active"`             // the committed release
	Previous *Release `json:"previous,omitempty"` // the one before it, kept in the other slot
	Attempt  *Attempt `json:"attempt,omitempty"`  // nil at rest

	Floor       uint64    `json:"floor"`                  // counter of the last committed release
	FloorDigest string    `json:"floor_digest,omitempty"` // and what it holds: that one may come back
	TrustedTime time.Time `json:"trusted_time,omitzero"`  // the latest time that something trusted has told

	// When Active was committed: by the clock if it was set, and in seconds
	// since that boot.
	CommittedAt   time.Time `json:"committed_at,omitzero"`
	CommittedBoot string    `json:"committed_boot,omitempty"`
	CommittedUp   float64   `json:"committed_up,omitempty"`

	// RescueUsed: after a commit, a crash loop goes back to Previous, but once.
	RescueUsed bool `json:"rescue_used,omitempty"`

	Failures []Failure `json:"failures,omitempty"` // the newest last
	Obeyed   []Obeyed  `json:"obeyed,omitempty"`
	Last     *Outcome  `json:"last_outcome,omitempty"`
}

// To returns an error unless the state may become phase.
func (s *State) To(phase Phase) error {
	if !slices.Contains(next[s.Phase], phase) {
		return fmt.Errorf("internal error: update %s -> %s", s.Phase, phase)
	}
	s.Phase = phase
	return nil
}

// Failed returns why the release with this digest failed before, or nil.
func (s *State) Failed(digest string) *Failure {
	for i := range s.Failures {
		if s.Failures[i].Digest == digest {
			return &s.Failures[i]
		}
	}
	return nil
}

// stateFormat is that of this version. A later one that old versions could not
// understand would take another file.
const stateFormat = 1

// MaxStateBytes bounds the file; full lists have some 100 KiB.
const MaxStateBytes = 1 << 20

// ErrNoState is in the error of ParseState for a file that is no state, as a
// failing disk leaves it.
var ErrNoState = errors.New("no update state")

// ParseState reads a state file. Fields of later versions are ignored.
func ParseState(data []byte) (*State, error) {
	if len(data) > MaxStateBytes {
		return nil, fmt.Errorf("%w: %d bytes are too many", ErrNoState, len(data))
	}
	var s State
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoState, err)
	}
	_, known := next[s.Phase]
	switch {
	case s.Format != stateFormat:
		return nil, fmt.Errorf("%w: format %d", ErrNoState, s.Format)
	case !known:
		return nil, fmt.Errorf("%w: state %q", ErrNoState, s.Phase)
	case !validSlot(s.Active) || s.Previous != nil && !validSlot(*s.Previous):
		return nil, fmt.Errorf("%w: a release without a slot", ErrNoState)
	case s.Previous != nil && s.Previous.Slot == s.Active.Slot:
		return nil, fmt.Errorf("%w: two releases in slot %s", ErrNoState, s.Active.Slot)
	case !s.Phase.AtRest() && s.Attempt == nil:
		return nil, fmt.Errorf("%w: %s without an attempt", ErrNoState, s.Phase)
	case s.Phase == Staged || s.Phase == Trial:
		a := s.Attempt
		if a.Candidate == nil || a.Base == nil || !validSlot(*a.Candidate) || !validSlot(*a.Base) || a.Candidate.Slot == a.Base.Slot {
			return nil, fmt.Errorf("%w: %s without two slots", ErrNoState, s.Phase)
		}
	}
	return &s, nil
}

func validSlot(r Release) bool { return r.Slot == SlotA || r.Slot == SlotB }

// Encode returns s as the content of its file.
func (s *State) Encode() ([]byte, error) {
	s.Format = stateFormat
	data, err := json.MarshalIndent(s, "", "  ")
	return append(data, '\n'), err
}

// ReadState reads a component's state for whoever only wants to know: the
// agent, the status verbs. The error is fs.ErrNotExist where there was never a
// watchdog.
func ReadState(l Layout) (*State, error) {
	data, err := readBounded(l.State(), MaxStateBytes+1)
	if err != nil {
		return nil, err
	}
	return ParseState(data)
}

// Health returns what /health says of the updates of the component. Where there
// are no slots, the running version is all there is.
func Health(l Layout, running string) wire.OTAHealth {
	s, err := ReadState(l)
	if err != nil {
		state := string(Committed)
		if !errors.Is(err, fs.ErrNotExist) {
			state = "unknown"
		}
		return wire.OTAHealth{State: state, Active: running}
	}
	h := wire.OTAHealth{State: string(s.Phase), Active: s.Active.Version}
	if s.Phase == Trial {
		h.Active = s.Attempt.Candidate.Version
		h.Previous = s.Active.Version
	} else if s.Previous != nil {
		h.Previous = s.Previous.Version
	}
	if s.Last != nil {
		last := s.Last.String()
		h.LastOutcome = &last
	}
	return h
}
