package watchdog

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"

	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/ota/disk"
)

// finish ends the attempt: f brings the state to rest and says how it ended,
// all in one write. What follows the write is done again by the next start if
// it is cut off.
func (w *Watchdog) finish(f func(*ota.State, *ota.Outcome) error) error {
	a := w.state.Attempt
	now := w.now()
	o := ota.Outcome{ID: a.ID, At: now, Action: a.Action, Nonce: a.Nonce, RolloutID: a.RolloutID, Seconds: w.took(a)}
	if a.Base != nil {
		o.From = a.Base.Version
	}
	if a.Candidate != nil {
		o.To = a.Candidate.Version
	}
	w.writeHistory()
	err := w.change(func(s *ota.State) error {
		if err := f(s, &o); err != nil {
			return err
		}
		o.Reason = short(o.Reason)
		s.Last, s.Attempt = &o, nil
		if w.o.Clock.State().Synchronized && now.After(s.TrustedTime) {
			s.TrustedTime = now
		}
		return nil
	})
	if err != nil {
		return err
	}
	w.settled()
	return nil
}

// took is how long an attempt has taken: by what no clock change moves, unless
// the machine was started anew.
func (w *Watchdog) took(a *ota.Attempt) float64 {
	seconds := w.now().Sub(a.Now).Seconds()
	if a.AskedAt > 0 && a.BootID == w.o.BootID {
		seconds = w.o.Uptime().Seconds() - a.AskedAt
	}
	return math.Round(max(seconds, 0)*1000) / 1000
}

// settled does what follows a state that came to rest. Nothing of it may keep
// the watchdog from what is more important; the next start does it again.
func (w *Watchdog) settled() {
	if err := w.tidy(); err != nil {
		w.log.Error().Err(err).Msg("leftovers not removed")
	}
	w.writeHistory()
	if last := w.state.Last; last != nil {
		w.dropRequest(last.ID)
	}
	if err := w.setBusy(false); err != nil {
		w.log.Error().Err(err).Msg("watchdog stays marked as busy")
	}
}

// refuse ends an attempt that changed nothing. Version is what was asked for,
// where that is known.
func (w *Watchdog) refuse(why error, version string) error {
	w.log.Warn().Str("reason", short(why.Error())).Msg("update refused")
	return w.finish(func(s *ota.State, o *ota.Outcome) error {
		o.From, o.To = s.Active.Version, version
		o.Result, o.Reason, o.Remedy = ota.Refused, why.Error(), remedy(why)
		return s.To(ota.Committed)
	})
}

func remedy(why error) ota.Remedy {
	switch {
	case errors.Is(why, bundle.ErrWrongBase):
		return ota.BringFull
	case errors.Is(why, bundle.ErrDamaged):
		return ota.BringAgain
	case isFull(why):
		return ota.AskLater
	}
	return ""
}

// answer records the outcome of an order that is no attempt, with what else f
// changes, and removes its request.
func (w *Watchdog) answer(o *order, out ota.Outcome, f func(*ota.State)) error {
	out.ID, out.At, out.Action, out.From = o.ID, w.now(), o.Action, w.state.Active.Version
	if o.command != nil {
		out.Nonce, out.RolloutID = o.command.Nonce, o.command.RolloutID
	}
	out.Reason = short(out.Reason)
	w.log.Info().Str("outcome", out.String()).Msg("request answered")
	w.writeHistory()
	err := w.change(func(s *ota.State) error {
		s.Last = &out
		if out.Result != ota.Refused {
			mark(s, o, out.At)
		}
		f(s)
		return nil
	})
	if err != nil {
		return err
	}
	w.writeHistory()
	w.dropRequest(o.ID)
	return nil
}

// answered reports whether the request with this id has an outcome.
func (w *Watchdog) answered(id string) bool {
	if last := w.state.Last; last != nil && last.ID == id {
		return true
	}
	history := w.history()
	return bytes.Contains(history, []byte(id)) && slices.ContainsFunc(ota.ParseHistory(history), func(o ota.Outcome) bool { return o.ID == id })
}

// history returns the file's content. What cannot be read is set aside.
func (w *Watchdog) history() []byte {
	data, _, err := w.read(w.o.Disk, historyFile, 4*ota.MaxHistoryBytes)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return data
	}
	w.log.Error().Err(err).Msg("history is unreadable, set aside and begun anew")
	if err := w.setAside(historyFile, historyFile+".bad"); err != nil {
		w.log.Error().Err(err).Msg("history not set aside")
	}
	return nil
}

// writeHistory appends the last outcome unless it is there already. When that
// fails, the state keeps it until the next outcome, before which it is tried
// again.
func (w *Watchdog) writeHistory() {
	last := w.state.Last
	if last == nil {
		return
	}
	data := w.history()
	if newest := newestOf(data); newest != nil && newest.ID == last.ID {
		return
	}
	line, err := json.Marshal(last)
	if err == nil {
		line = append(line, '\n')
		if len(data) > 0 && data[len(data)-1] != '\n' {
			line = append([]byte("\n"), line...) // ends the line that a power cut tore
		}
		if len(data)+len(line) > ota.MaxHistoryBytes {
			err = w.shortenHistory(append(ota.ParseHistory(data), *last))
		} else {
			err = w.appendHistory(line)
		}
	}
	if err != nil {
		w.log.Error().Err(err).Msg("outcome not added to the history")
	}
}

// newestOf returns the last outcome of a history; nil when there is none.
func newestOf(history []byte) *ota.Outcome {
	for len(history) > 0 {
		line := history[bytes.LastIndexByte(history, '\n')+1:]
		if newest := ota.ParseHistory(line); len(newest) > 0 {
			return &newest[0]
		}
		history = bytes.TrimSuffix(history[:len(history)-len(line)], []byte("\n"))
	}
	return nil
}

func (w *Watchdog) appendHistory(line []byte) error {
	f, err := w.o.Disk.Append(historyFile, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(line)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = w.o.Disk.SyncDir(otaDir)
	}
	return err
}

// shortenHistory replaces the history by the newest of these, half of what it
// may have. Refusals go first: they cost nothing to cause, and must not push out
// what happened to the device.
func (w *Watchdog) shortenHistory(all []ota.Outcome) error {
	lines := make([][]byte, len(all))
	left := ota.MaxHistoryBytes / 2
	for _, refusals := range []bool{false, true} {
		for i := len(all) - 1; i >= 0; i-- {
			newest := i == len(all)-1
			if (all[i].Result == ota.Refused && !newest) != refusals {
				continue
			}
			line, err := json.Marshal(all[i])
			if err != nil {
				return err
			}
			if left -= len(line) + 1; left < 0 {
				break
			}
			lines[i] = append(line, '\n')
		}
	}
	var data []byte
	for _, line := range lines {
		data = append(data, line...)
	}
	if err := disk.WriteFile(w.o.Disk, historyFile, data, 0o644); err != nil {
		return fmt.Errorf("shorten it: %w", err)
	}
	return nil
}

// nothing changes nothing.
func nothing(*ota.State) {}

// newID names what nobody asked for.
func newID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
