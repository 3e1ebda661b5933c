package update

import (
	"cmp"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/fetch"
)

const (
	// maxStrangers files in the inbox that are not ours are kept, none of them
	// longer than maxStrangerAge: bundles that were brought by hand.
	maxStrangers   = 8
	maxStrangerAge = 7 * 24 * time.Hour
)

// ourFile matches what bring has fetched.
var ourFile = regexp.MustCompile(`^([0-9a-f]{32})(-[0-9a-f]{16}\.delta|\.bundle)(\` + fetch.PartSuffix + `|\` + fetch.PieceSuffix + `)?$`)

// clean removes what nobody waits for, now and then and after each end of a want,
// while neither the watchdog nor a job is at work with it.
func (u *Updater) clean(request ota.Request) {
	if time.Now().Before(u.cleanAt) || u.job != nil {
		return
	}
	for _, l := range u.looks {
		if l.state != nil && !l.state.Phase.AtRest() {
			return
		}
	}
	u.cleanAt = time.Now().Add(cleanPause)
	entries, err := os.ReadDir(u.o.Layout.Inbox())
	if err != nil {
		u.log.Warn().Err(err).Msg("inbox not cleaned")
		return
	}
	var strangers []fs.FileInfo
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || e.Name() == request.Bundle && request.ID != "" {
			continue
		}
		switch name := e.Name(); {
		case name == desiredFile || name == reportedFile || name == ota.RequestFile:
		case ourFile.MatchString(name):
			if !u.needed(name) {
				u.remove(name)
			}
		default:
			strangers = append(strangers, info)
		}
	}
	slices.SortFunc(strangers, func(a, b fs.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	for i, info := range strangers {
		old := u.o.Clock.State().Set && u.o.Clock.Now().Sub(info.ModTime()) > maxStrangerAge
		if i >= maxStrangers || old {
			u.remove(info.Name())
		}
	}
}

// needed reports whether a want may use the file, which is one of ours.
func (u *Updater) needed(name string) bool {
	return slices.ContainsFunc(u.wants().Wants, func(w *want) bool {
		o, known := u.orders[w.Nonce]
		if !known {
			return true // it could not be looked at yet
		}
		return o.action() == ota.Install && strings.HasPrefix(name, o.SHA256[:32]) && !(w.Full && strings.Contains(name, ".delta"))
	})
}

func (u *Updater) remove(name string) {
	if err := os.Remove(u.inbox(name)); err != nil {
		u.log.Warn().Err(err).Msg("inbox not cleaned")
		return
	}
	u.log.Info().Str("file", name).Msg("removed from the inbox")
}

// publish makes known how things are. Notes are what the wants wait for.
func (u *Updater) publish(notes []string) {
	h := *u.status.Load()
	h.Target, h.ProgressPercent, h.WaitingFor, h.LastError = "", nil, "", u.fault
	if wants := u.wants().Wants; len(wants) > 0 {
		w := wants[0]
		h.Target = cmp.Or(w.To, "the release before")
		if w.Component != ota.AgentComponent {
			h.Target = w.Component + " " + h.Target
		}
		h.LastError = cmp.Or(u.fault, w.Error)
		switch {
		case u.o.Disabled:
			h.WaitingFor = "ota.enabled to be true"
		case u.job != nil && u.job.nonce == w.Nonce:
			percent := 0.0
			if total := u.job.total.Load(); total > 0 {
				percent = 100 * float64(u.job.downloaded.Load()) / float64(total)
			}
			h.ProgressPercent = &percent
		case len(notes) > 0:
			h.WaitingFor = notes[0]
		}
	}
	u.status.Store(&h)
}
