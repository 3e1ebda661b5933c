package watchdog

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pyvorin/pyvorin-edge/internal/clock"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// device is the service manager and the component in one: what runs is what
// active named at the last start.
type device struct {
	dir     string
	behaves map[string]*behaviour // by version
	boots   int
	uptime  time.Duration
	wall    time.Time
	synced  bool

	running  string // version; "" is nothing
	restarts int
	starts   []string // versions, as they were started
	looks    int      // at what runs, since its start

	onLook  func()       // before each look at what runs
	refuses func() error // to restart
	mute    func() bool  // does not answer
}

// behaviour is how a version behaves; nil is well.
type behaviour struct {
	crashAfter int // looks until it ends, each time it was started; 0 never
	exit       int // with which exit status
	hangs      bool
	says       string // version that it claims
	report     func(looks int) Report
	gaveUp     bool // from its first crash on
}

// start starts what active names.
func (d *device) start() {
	d.looks = 0
	d.running = d.version()
	d.starts = append(d.starts, d.running)
}

// version reads what active leads to.
func (d *device) version() string {
	data, err := os.ReadFile(filepath.Join(d.dir, "active", "pyvorin-edge"))
	if err != nil {
		return ""
	}
	_, version, _ := strings.Cut(string(data), " ")
	return version
}

func (d *device) Restart(context.Context) error {
	if d.refuses != nil {
		if err := d.refuses(); err != nil {
			return err
		}
	}
	d.restarts = 0
	d.start()
	return nil
}

func (d *device) Status(ctx context.Context) (Status, error) {
	if d.mute != nil && d.mute() {
		<-ctx.Done()
		return Status{}, ctx.Err()
	}
	if d.onLook != nil {
		d.onLook()
	}
	if d.running == "" {
		return Status{GaveUp: true, ExitCode: -1, Reason: "nothing to start"}, nil
	}
	d.looks++
	b := d.behaves[d.running]
	s := Status{Running: true, PID: 100 + len(d.starts), Restarts: d.restarts}
	if b != nil && b.crashAfter > 0 && d.looks >= b.crashAfter {
		d.looks = 0
		d.restarts++
		s = Status{Restarts: d.restarts, ExitCode: b.exit, Reason: "exit status", GaveUp: d.restarts >= 5 || b.exit == exitConfig || b.gaveUp}
	}
	return s, nil
}

func (d *device) Look(context.Context, int) (Report, error) {
	b := d.behaves[d.running]
	if b == nil {
		b = &behaviour{}
	}
	if b.hangs {
		return Report{}, errors.New("no answer")
	}
	r := well()
	if b.report != nil {
		r = b.report(d.looks)
	}
	r.Version = d.running
	if b.says != "" {
		r.Version = b.says
	}
	return r, nil
}

// well is the report of a component with nothing to complain of.
func well() Report {
	return Report{
		Checks: map[string]wire.CheckState{
			"sensors": wire.CheckOK, "queue": wire.CheckOK, "cloud": wire.CheckOK, "fleet": wire.CheckOK,
		},
		CloudGood: true, CloudProven: true, FleetConnected: true,
	}
}

func (d *device) Now() time.Time { return d.wall }
func (d *device) State() clock.State {
	return clock.State{Set: d.synced, Synchronized: d.synced}
}
