package update

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pyvorin/pyvorin-edge/internal/atomicfile"
	"github.com/pyvorin/pyvorin-edge/ota"
)

// The names of our files in the inbox.
const (
	desiredFile  = "desired.json"
	reportedFile = "reported.json"
)

// Bounds of what is kept.
const (
	maxDesiredBytes = 16 << 20
	maxSettled      = 256 // nonces
	maxUnreported   = 32  // outcomes
)

// desired is desired.json.
type desired struct {
	Format int     `json:"format"`
	Wants  []*want `json:"wants,omitempty"` // at most two of a component: one that was asked, and the one after it

	// Newest is when the newest command that was taken was issued, by component:
	// older ones that arrive late are not for this device any more.
	Newest  map[string]time.Time `json:"newest,omitempty"`
	Settled []string             `json:"settled,omitempty"` // nonces, the newest last

	Unreported []ota.Outcome `json:"unreported,omitempty"`      // of wants that never reached the watchdog
	Dropped    int           `json:"dropped_reports,omitempty"` // beyond maxUnreported
}

// want is a command that is being carried out.
type want struct {
	Envelope  json.RawMessage `json:"envelope"`
	Nonce     string          `json:"nonce"`
	Component string          `json:"component"`
	Action    ota.Action      `json:"action"`
	To        string          `json:"to,omitempty"`
	RolloutID string          `json:"rollout_id,omitempty"`

	Full   bool   `json:"full,omitempty"`   // a delta was of no use
	Bundle string `json:"bundle,omitempty"` // in the inbox, complete
	Room   int64  `json:"room,omitempty"`   // bytes that installing it takes

	Request string `json:"request,omitempty"` // id of the request to the watchdog
	Asks    int    `json:"asks,omitempty"`    // how often that came to nothing

	Failures int    `json:"failures,omitempty"` // tries that failed
	Faults   int    `json:"faults,omitempty"`   // those of them for which what is offered is to blame
	Error    string `json:"error,omitempty"`    // of the last of them
}

func (d *desired) find(nonce string) *want {
	if i := slices.IndexFunc(d.Wants, func(w *want) bool { return w.Nonce == nonce }); i >= 0 {
		return d.Wants[i]
	}
	return nil
}

// end removes a want of which the watchdog's outcome tells.
func (d *desired) end(w *want) {
	d.Wants = slices.DeleteFunc(d.Wants, func(other *want) bool { return other.Nonce == w.Nonce })
	d.Settled = append(d.Settled, w.Nonce)
	if over := len(d.Settled) - maxSettled; over > 0 {
		d.Settled = slices.Delete(d.Settled, 0, over)
	}
}

// settle removes a want and has o told.
func (d *desired) settle(w *want, o ota.Outcome) {
	d.end(w)
	d.Unreported = append(d.Unreported, o)
	if over := len(d.Unreported) - maxUnreported; over > 0 {
		d.Unreported = slices.Delete(d.Unreported, 0, over)
		d.Dropped += over
	}
}

// outcomeOf is how a want ended that the watchdog has no outcome of.
func (u *Updater) outcomeOf(w *want, r ota.Result, reason string, now time.Time) ota.Outcome {
	o := ota.Outcome{
		ID: newID(), At: now, Action: w.Action, Result: r, To: w.To,
		Reason: reason, Nonce: w.Nonce, RolloutID: w.RolloutID,
	}
	if s, err := ota.ReadState(u.components()[w.Component]); err == nil {
		o.From = s.Active.Version
	}
	return o
}

func newID() string {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(err) // crypto/rand never fails
	}
	return hex.EncodeToString(b[:])
}

func (u *Updater) inbox(name string) string { return filepath.Join(u.o.Layout.Inbox(), name) }

// load reads our files. What is damaged is begun anew: commands that are kept
// elsewhere come again.
func (u *Updater) load() error {
	d, t := &desired{}, &told{}
	for name, v := range map[string]any{desiredFile: d, reportedFile: t} {
		data, err := readFile(u.inbox(name), maxDesiredBytes)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = json.Unmarshal(data, v)
		}
		if err != nil {
			u.log.Error().Err(err).Str("file", name).Msg("file is damaged, begun anew")
		}
	}
	// A file that was damaged may have been read in part.
	d.Wants = slices.DeleteFunc(d.Wants, func(w *want) bool { return w == nil || w.Nonce == "" || u.looks[w.Component] == nil })
	u.told = t
	u.mu.Lock()
	u.desired = d
	u.mu.Unlock()
	for _, w := range d.Wants {
		if w.Failures > 0 {
			u.delay(w)
		}
	}
	return nil
}

// readFile reads a plain file of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no plain file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", path, limit)
	}
	return data, err
}

// wants returns what is on disk. It must not be changed.
func (u *Updater) wants() *desired {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.desired
}

// change writes the wants as f leaves them, and only then takes them over.
func (u *Updater) change(f func(*desired) error) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.changeLocked(f)
}

func (u *Updater) changeLocked(f func(*desired) error) error {
	data, err := json.Marshal(u.desired)
	if err != nil {
		return fmt.Errorf("keep the wants: %w", err)
	}
	next := &desired{}
	if err := json.Unmarshal(data, next); err != nil {
		return fmt.Errorf("keep the wants: %w", err)
	}
	if err := f(next); err != nil {
		return err
	}
	next.Format = 1
	if data, err = json.Marshal(next); err != nil {
		return fmt.Errorf("keep the wants: %w", err)
	}
	if err := atomicfile.Write(u.inbox(desiredFile), data, 0o600); err != nil {
		return fmt.Errorf("keep the wants: %w", err)
	}
	u.desired = next
	return nil
}

// changeWant is change of one want, if it is still there.
func (u *Updater) changeWant(nonce string, f func(d *desired, w *want)) error {
	return u.change(func(d *desired) error {
		if w := d.find(nonce); w != nil {
			f(d, w)
		}
		return nil
	})
}
