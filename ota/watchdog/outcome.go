package watchdog

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/disk"
)

// finish ends the attempt: f brings the state to rest and says how it ended,
// all in one write. What follows the write is done again by the next start if
// it is cut off.
func (w *Watchdog) finish(f func(*ota.State, *ota.Outcome) error) error {
	a := w.state.Attempt
	now := w.now()
	o := ota.Outcome{ID: a.ID, At: now, Action: a.Action, Nonce: a.Nonce, RolloutID: a.RolloutID}
	if a.Base != nil {
		o.From = a.Base.Version
	}
	if a.Candidate != nil {
		o.To = a.Candidate.Version
	}
	if took := now.Sub(a.Now); took > 0 {
		o.Seconds = took.Seconds()
	}
	err := w.change(func(s *ota.State) error {
		if err := f(s, &o); err != nil {
			return err
		}
		s.Last, s.Attempt = &o, nil
		if w.o.Clock.State().Synchronized && now.After(s.TrustedTime) {
			s.TrustedTime = now
		}
		return nil
	})
	if err != nil {
		return err
	}
	return w.settled()
}

// settled does what follows a state that came to rest.
func (w *Watchdog) settled() error {
	if err := w.tidy(); err != nil {
		return err
	}
	if err := w.writeHistory(); err != nil {
		return err
	}
	if err := w.dropRequest(w.state.Last.ID); err != nil {
		return err
	}
	return w.setBusy(false)
}

// refuse ends an attempt that changed nothing.
func (w *Watchdog) refuse(why string) error {
	w.log.Warn().Str("reason", why).Msg("update refused")
	return w.finish(func(s *ota.State, o *ota.Outcome) error {
		o.From = s.Active.Version
		o.Result, o.Reason = ota.Refused, why
		return s.To(ota.Committed)
	})
}

// writeHistory appends the last outcome unless it is there already.
func (w *Watchdog) writeHistory() error {
	last := w.state.Last
	if last == nil {
		return nil
	}
	data, err := disk.ReadFile(w.o.Disk, historyFile, 4*ota.MaxHistoryBytes)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		// Damaged, or replaced by something else: what is in the state is kept.
		w.log.Error().Err(err).Msg("history is unreadable, begun anew")
		data = nil
		if err := disk.RemoveAll(w.o.Disk, historyFile); err != nil {
			return fmt.Errorf("write history: %w", err)
		}
	}
	before := ota.ParseHistory(data)
	if n := len(before); n > 0 && before[n-1].ID == last.ID {
		return nil
	}
	line, err := json.Marshal(last)
	if err != nil {
		return fmt.Errorf("write history: %w", err)
	}
	line = append(line, '\n')
	if len(data) > 0 && data[len(data)-1] != '\n' {
		line = append([]byte("\n"), line...) // ends the line that a power cut tore
	}
	if len(data)+len(line) > ota.MaxHistoryBytes {
		half := data[len(data)/2:]
		if i := bytes.IndexByte(half, '\n'); i >= 0 {
			half = half[i+1:]
		}
		if err := disk.WriteFile(w.o.Disk, historyFile, append(half, line...), 0o644); err != nil {
			return fmt.Errorf("shorten history: %w", err)
		}
		return nil
	}
	f, err := w.o.Disk.Append(historyFile, 0o644)
	if err != nil {
		return fmt.Errorf("write history: %w", err)
	}
	_, err = f.Write(line)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = w.o.Disk.SyncDir(otaDir)
	}
	if err != nil {
		return fmt.Errorf("write history: %w", err)
	}
	return nil
}

// newID names what nobody asked for.
func newID() string {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(err) // crypto/rand never fails
	}
	return hex.EncodeToString(b[:])
}
