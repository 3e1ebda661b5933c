package watchdog

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/wire"
)

const (
	// crashes within crashSpan fail a trial.
	crashes   = 3
	crashSpan = 5 * time.Minute
)

// look is what one look at the candidate on trial showed.
type look struct {
	status    Status
	statusErr error // the service manager did not answer
	report    Report
	reportErr error // the candidate did not answer
}

// trial judges a candidate by what is seen of it. It depends on nothing but its
// arguments: times are since boot.
type trial struct {
	attempt *ota.Attempt
	healthy time.Duration // since when, without a break; 0 when it is not
	why     string        // why it is not
}

// verdict is what a look led to.
type verdict int

const (
	undecided verdict = iota
	keep
	takeBack
)

// judge takes one look into account. The reason is why the candidate is taken
// back, or what is waited for.
func (t *trial) judge(l look, now time.Duration) (verdict, string) {
	a := t.attempt
	recent := 0
	for _, at := range a.Restarts {
		if now-seconds(at) <= crashSpan {
			recent++
		}
	}
	switch {
	case l.statusErr == nil && l.status.ExitCode == exitConfig && !l.status.Running:
		return takeBack, "it ended with exit status 78: it does not accept this device's configuration"
	case recent >= crashes:
		return takeBack, fmt.Sprintf("it ended %d times within %v, last: %s", recent, crashSpan, orUnknown(l.status.Reason))
	case l.statusErr == nil && l.status.GaveUp && !l.status.Running:
		return takeBack, "the service manager gave up on it: " + orUnknown(l.status.Reason)
	case l.reportErr == nil && l.report.Version != "" && l.report.Version != a.Candidate.Version:
		return takeBack, fmt.Sprintf("it says that it is version %q, not %q", clip(l.report.Version), a.Candidate.Version)
	}
	began := time.Duration(0) // when it was started last, as far as that was seen
	if n := len(a.Restarts); n > 0 {
		began = seconds(a.Restarts[n-1])
	}
	if t.why = t.unwell(l); t.why != "" {
		t.healthy = 0
	} else if t.healthy == 0 || t.healthy < began {
		t.healthy = now // a restart between two looks is a break, too
	}
	late := now-seconds(a.BeganAt) >= seconds(a.DeadlineSeconds)
	if t.healthy != 0 && now-t.healthy >= seconds(a.MinHealthySeconds) {
		// Whether it reaches the cloud shows only when it delivers something,
		// which may take its time and may not be necessary.
		if late || a.Baseline == nil || !a.Baseline.CloudGood || l.report.CloudProven {
			return keep, ""
		}
		t.why = "it has not delivered anything to the cloud yet"
	}
	if late {
		why := t.why
		if why == "" {
			why = fmt.Sprintf("it was well for only %v", (now - t.healthy).Round(time.Second))
		}
		return takeBack, fmt.Sprintf("it was not well for %v within %v: %s", seconds(a.MinHealthySeconds), seconds(a.DeadlineSeconds), why)
	}
	return undecided, t.why
}

// ambient are the checks whose warning may tell of the machine and its place
// rather than of the release: a processor that is warm from unpacking, say.
var ambient = []string{"disk_space", "memory", "temperature", "clock"}

// unwell says why the candidate is not well now; "" when it is.
func (t *trial) unwell(l look) string {
	switch {
	case l.statusErr != nil:
		return l.statusErr.Error()
	case !l.status.Running:
		return "it does not run: " + orUnknown(l.status.Reason)
	case l.reportErr != nil:
		return l.reportErr.Error()
	}
	base := t.attempt.Baseline
	for _, check := range t.attempt.Required {
		// What was bad before the update is not the update's fault, and a
		// release that mends it must be able to arrive.
		if l.report.Checks[check] != wire.CheckOK && (base == nil || !slices.Contains(base.Unwell, check)) {
			return fmt.Sprintf("its check %q is %s", check, stateOf(l.report, check))
		}
	}
	if base == nil {
		return ""
	}
	var worse []string
	for _, check := range base.Checks {
		state := l.report.Checks[check]
		if state != wire.CheckOK && (state != wire.CheckWarning || !slices.Contains(ambient, check)) {
			worse = append(worse, fmt.Sprintf("%s is %s", check, stateOf(l.report, check)))
		}
	}
	if base.CloudGood && !l.report.CloudGood {
		worse = append(worse, "the cloud is not reached")
	}
	if base.FleetConnected && !l.report.FleetConnected {
		worse = append(worse, "the broker is not reached")
	}
	if len(worse) > 0 {
		return "what was good before is not: " + strings.Join(worse, ", ")
	}
	return ""
}

func stateOf(r Report, check string) string {
	if _, known := r.Checks[check]; !known {
		return "missing, it has " + clip(strings.Join(slices.Sorted(maps.Keys(r.Checks)), " "))
	}
	return clip(string(r.Checks[check]))
}

// clip bounds what came from others, and keeps it to one plain line.
func clip(s string) string { return plain(s, 200) }

// short is clip for a whole reason.
func short(s string) string { return plain(s, 600) }

func plain(s string, most int) string {
	if len(s) > most {
		s = s[:most]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}

func orUnknown(reason string) string {
	if reason == "" {
		return "the reason is not known"
	}
	return clip(reason)
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
