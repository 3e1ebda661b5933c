package watchdog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"

	"github.com/pyvorin/pyvorin-edge/ota"
)

// The names of what is in Options.Home.
const (
	requestFile  = "inbox/" + ota.RequestFile
	anchorFile   = "trust_anchor.json"
	deviceIDFile = "device_id"
)

// obey takes requests until there is none.
func (w *Watchdog) obey(ctx context.Context) error {
	for range 16 { // whoever writes faster than that has to wait for the next Run
		o := w.vet(w.readRequest())
		if o == nil {
			return nil
		}
		var err error
		switch {
		case o.fault != "":
			err = w.answer(o, ota.Outcome{Result: ota.Refused, Reason: o.fault}, nothing)
		case o.Action == ota.Install:
			err = w.install(ctx, o)
		default:
			err = w.rollback(ctx, o)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// vet returns o if it has to be answered here, else nil.
func (w *Watchdog) vet(o *order) *order {
	switch {
	case o == nil || o.Component != w.o.Component && !w.isStray(o):
		return nil
	case w.answered(o.ID):
		// It was answered when the power was cut, or is being played back.
		w.dropRequest(o.ID)
		return nil
	case o.Component != w.o.Component:
		o.fault = fmt.Sprintf("there is no component %q on this device", clip(o.Component))
	}
	return o
}

// isStray reports whether no watchdog is there for a request.
func (w *Watchdog) isStray(o *order) bool {
	return w.o.Component == ota.AgentComponent && !slices.Contains(w.o.Others, o.Component)
}

// asked reports whether there may be a request to answer. It changes nothing.
func (w *Watchdog) asked() bool {
	if _, err := w.o.Home.Lstat(requestFile); err != nil {
		return false
	}
	o, err := w.parseRequest()
	switch last := w.state.Last; {
	case err != nil:
		return !errors.Is(err, fs.ErrNotExist)
	case last != nil && last.ID == o.ID:
		return false // it could not be removed
	}
	return o.Component == w.o.Component || w.isStray(o)
}

// readRequest returns the request; nil when there is none. One that cannot be
// read is removed: nobody can be told of its outcome.
func (w *Watchdog) readRequest() *order {
	o, err := w.parseRequest()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		w.log.Warn().Str("reason", short(err.Error())).Msg("request removed")
		w.removeRequest()
		return nil
	}
	return o
}

// parseRequest reads the request. One with an id and a fault can be answered.
func (w *Watchdog) parseRequest() (*order, error) {
	data, owner, err := w.read(w.o.Home, requestFile, ota.MaxRequestBytes)
	if err != nil {
		return nil, err
	}
	if w.o.CheckOwners && owner != w.o.Owner && owner != w.o.Agent {
		return nil, fmt.Errorf("it belongs to user %d, who may ask for nothing", owner)
	}
	req, err := ota.ParseRequest(data)
	if err != nil && req.ID == "" {
		return nil, err
	}
	o := &order{Request: req, byRoot: w.mine(owner)}
	if err != nil {
		o.fault = err.Error()
		if o.Action != ota.Install && o.Action != ota.Rollback {
			o.Action = ""
		}
	}
	if o.Component == "" {
		o.Component = ota.AgentComponent
	}
	return o, nil
}

// dropRequest removes the request with this id; another one that has come in
// its place stays.
func (w *Watchdog) dropRequest(id string) {
	if o := w.readRequest(); o != nil && o.ID == id {
		w.removeRequest()
	}
}

// removeRequest removes what is there, or moves it away: the agent may put
// anything there, and what is answered is not answered again.
func (w *Watchdog) removeRequest() {
	err := w.o.Home.Remove(requestFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		err = w.o.Home.Rename(requestFile, requestFile+"."+newID()[:8])
	}
	if err == nil {
		err = w.o.Home.SyncDir(path.Dir(requestFile))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.log.Warn().Err(err).Msg("request not removed")
	}
}

// interrupt answers what is asked for during a trial. An update has to wait for
// its end; a rollback to what ran before it is its end, and the verdict.
func (w *Watchdog) interrupt() error {
	a := w.state.Attempt
	o := w.readRequest()
	if o == nil || o.ID == a.ID {
		return nil
	}
	if o = w.vet(o); o == nil {
		return nil
	}
	why, remedy := o.fault, ota.Remedy("")
	if why == "" && (o.Action != ota.Rollback || a.Action != ota.Install) {
		why, remedy = fmt.Sprintf("version %s is on trial; ask again when that has ended", a.Candidate.Version), ota.AskLater
	}
	if why == "" {
		why = w.mayRollback(o, w.now())
	}
	if why == "" && o.TargetVersion != "" && o.TargetVersion != a.Base.Version {
		why, remedy = fmt.Sprintf("version %s is on trial, and what can be gone back to now is %s", a.Candidate.Version, a.Base.Version), ota.AskLater
	}
	if why != "" {
		return w.answer(o, ota.Outcome{Result: ota.Refused, To: clip(o.TargetVersion), Reason: why, Remedy: remedy}, nothing)
	}
	// Both in one write: what was answered must happen.
	out := ota.Outcome{Result: ota.Installed, To: a.Base.Version, Reason: "the release on trial is taken back"}
	return w.answer(o, out, func(s *ota.State) { s.Attempt.Verdict = "a rollback was ordered during its trial" })
}
