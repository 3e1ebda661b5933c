package update

import (
	"fmt"
	"time"

	"github.com/pyvorin/pyvorin-edge/internal/human"
	"github.com/pyvorin/pyvorin-edge/ota"
)

// maxAsks is how often the watchdog is asked for one command, and maxFaults how
// often something that is no good is fetched for it.
const (
	maxAsks   = 5
	maxFaults = 8
)

// view is all that a decision depends on.
type view struct {
	now      time.Time
	rejected string // why the command is not obeyed any more; "" when it is

	state    *ota.State // nil when there is none that can be read
	stateErr error
	outcome  *ota.Outcome // of the want's request
	request  string       // id of what is in the inbox; "" is nothing

	busy     string // what another want does that this one has to wait for
	hold     string // why this is no time for updates
	download string // until when the window for fetching is closed; "" while it is open
	install  string // the same of the one for asking
	retryIn  time.Duration
	ready    bool  // the want's bundle is there
	free     int64 // bytes on the component's disk, above the reserve; of ready
}

// verb is what is done with a want.
type verb string

const (
	waitFor  verb = "wait"     // why says for what
	fetchNow verb = "fetch"    //
	askNow   verb = "ask"      // the watchdog
	lost     verb = "lost"     // the request, without an outcome
	amend    verb = "amend"    // by the remedy of the watchdog's refusal
	endWant  verb = "end"      // the watchdog has answered
	settle   verb = "settle"   // result and why say how
	withdraw verb = "withdraw" // the request, and settle
)

type decision struct {
	verb   verb
	why    string
	result ota.Result
}

func wait(format string, args ...any) decision {
	return decision{verb: waitFor, why: fmt.Sprintf(format, args...)}
}

func refuse(format string, args ...any) decision {
	return decision{verb: settle, result: ota.Refused, why: fmt.Sprintf(format, args...)}
}

// decide says what to do with a want. It depends on nothing but its arguments.
func decide(w *want, o order, v view) decision {
	if w.Request != "" {
		return decideAsked(w, o, v)
	}
	if v.rejected != "" {
		return refuse("%s", v.rejected)
	}
	if !v.now.Before(o.ExpiresAt) {
		why := fmt.Sprintf("its command expired on %s", o.ExpiresAt.UTC().Format(time.RFC3339))
		if w.Error != "" {
			why += "; the last try: " + w.Error
		}
		return refuse("%s", why)
	}
	switch s := v.state; {
	case s == nil && v.stateErr != nil:
		return wait("the watchdog, whose state cannot be read: %v", v.stateErr)
	case s == nil:
		return wait("the watchdog, which has never run for this component; is it installed?")
	case !s.Phase.AtRest():
		return wait("the end of another update, which is %s", s.Phase)
	case v.request != "":
		return wait("the watchdog to take another request")
	case v.busy != "":
		return wait("%s", v.busy)
	case runs(o, s):
		return decision{verb: settle, result: ota.Installed, why: "it runs already"}
	case o.action() == ota.Install && o.Counter != 0 && o.Counter < s.Floor && !(o.AllowDowngrade && o.release):
		return refuse("version %s has counter %d, and %d was committed; an older release needs a command with allow_downgrade that a release key signed too",
			o.Version, o.Counter, s.Floor)
	case w.Asks >= maxAsks:
		return refuse("asked %d times, the last time in vain: %s", maxAsks, w.Error)
	case o.action() == ota.Rollback:
		return decision{verb: askNow} // it needs no download, and is never put off
	case v.retryIn > 0:
		return wait("%s, when it is tried again", human.Duration(v.retryIn))
	case v.hold != "":
		return wait("%s", v.hold)
	case !v.ready && v.download != "":
		return wait("%s", v.download)
	case !v.ready:
		return decision{verb: fetchNow}
	case v.install != "":
		return wait("%s", v.install)
	case v.free < w.Room:
		return wait("free space: %s are missing", human.Bytes(w.Room-v.free))
	}
	return decision{verb: askNow}
}

// runs reports whether what is ordered is what runs.
func runs(o order, s *ota.State) bool {
	if o.action() == ota.Rollback {
		return o.TargetVersion != "" && o.TargetVersion == s.Active.Version
	}
	return o.Version == s.Active.Version && (o.Counter == 0 || o.Counter == s.Active.Counter)
}

// decideAsked is decide for a want that the watchdog was asked for.
func decideAsked(w *want, o order, v view) decision {
	switch a := v.attempt(w.Request); {
	case v.outcome != nil && v.outcome.Remedy != "":
		return decision{verb: amend}
	case v.outcome != nil:
		return decision{verb: endWant}
	case a != nil && v.state.Phase == ota.Trial:
		return wait("the trial of version %s", a.Candidate.Version)
	case a != nil:
		return wait("the watchdog, which is installing it")
	case v.request == w.Request && v.rejected != "":
		return decision{verb: withdraw, result: ota.Refused, why: v.rejected}
	case v.request == w.Request && !v.now.Before(o.ExpiresAt):
		return decision{
			verb: withdraw, result: ota.Refused,
			why: "the watchdog did not take the request before its command expired; is it installed, and does it run?",
		}
	case v.request == w.Request:
		return wait("the watchdog to take the request")
	}
	return decision{verb: lost, why: "the watchdog did not take the request"}
}

// attempt returns the watchdog's attempt at a request, nil when there is none.
func (v view) attempt(request string) *ota.Attempt {
	if v.state == nil || v.state.Attempt == nil || v.state.Attempt.ID != request {
		return nil
	}
	return v.state.Attempt
}
