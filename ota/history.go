package ota

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Result is how an attempt ended.
type Result string

// The results.
const (
	Installed Result = "committed"   // the candidate is kept for good
	TakenBack Result = "rolled_back" // the candidate was tried and failed, or rolled back on request
	Refused   Result = "refused"     // it was never tried: nothing was changed
	Repaired  Result = "repaired"    // no attempt: what active named was broken, and was replaced
)

// Remedy is what whoever asked can do about a refusal, after which the same
// command is obeyed all the same. Without one a refusal is final.
type Remedy string

// The remedies.
const (
	BringFull  Remedy = "full"  // the delta does not fit here: ask with the full bundle
	BringAgain Remedy = "again" // the bundle is damaged: fetch it again
	AskLater   Remedy = "later" // there was too little free space, or another release was on trial
)

// Outcome is one line of history.jsonl.
type Outcome struct {
	ID        string    `json:"id"` // of the attempt; of a repair, of its own
	At        time.Time `json:"at"`
	Action    Action    `json:"action"`
	Result    Result    `json:"outcome"`
	From      string    `json:"from,omitempty"`       // version before
	To        string    `json:"to,omitempty"`         // version that was asked for
	Reason    string    `json:"reason"`               // for people; why it was refused or taken back
	Remedy    Remedy    `json:"remedy,omitempty"`     // of a refusal
	Nonce     string    `json:"nonce,omitempty"`      // of the command
	RolloutID string    `json:"rollout_id,omitempty"` // the same
	Seconds   float64   `json:"seconds,omitempty"`    // from the request to the outcome
}

// String is the outcome in a line, as /health shows it.
func (o Outcome) String() string {
	to := cmp.Or(o.To, "an update")
	switch o.Result {
	case Installed:
		return fmt.Sprintf("committed %s", to)
	case TakenBack:
		return fmt.Sprintf("rolled back %s: %s", to, o.Reason)
	case Refused:
		return fmt.Sprintf("refused %s: %s", to, o.Reason)
	}
	return fmt.Sprintf("repaired: %s", o.Reason)
}

// MaxHistoryBytes bounds history.jsonl; beyond it the older half goes.
const MaxHistoryBytes = 256 << 10

// ReadHistory returns the outcomes, the oldest first. Lines that are damaged
// are left out. None when there was never one.
func ReadHistory(l Layout) ([]Outcome, error) {
	data, err := readBounded(l.History(), 2*MaxHistoryBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return ParseHistory(data), nil
}

// ParseHistory reads the lines of a history file.
func ParseHistory(data []byte) []Outcome {
	var out []Outcome
	for line := range bytes.Lines(data) {
		var o Outcome
		if json.Unmarshal(line, &o) == nil && o.Result != "" {
			out = append(out, o)
		}
	}
	return out
}

// readBounded reads a plain file of at most limit bytes, and follows no link to it.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil {
		return nil, err
	} else if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no plain file", path)
	}
	return io.ReadAll(io.LimitReader(f, limit))
}

// readTrusted is readBounded for what is obeyed with the power of whoever reads
// it: the file must be root's or the reader's own.
func readTrusted(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return nil, fmt.Errorf("%s is no plain file of root's", path)
	}
	return io.ReadAll(io.LimitReader(f, limit))
}
