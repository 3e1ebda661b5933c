// Package clock tells the time, and how far it can be believed.
//
// Boards without a battery-backed clock boot in 1970, or at the time of their
// last shutdown, and learn the true time minutes later from the network. What
// does not jump is the boot-time clock, so the distance between the two (the
// Offset) is recorded with what is timestamped: once the wall clock is set, the
// same boot's earlier timestamps can be corrected exactly.
package clock

import (
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// State is what is known of the clock at one instant.
type State struct {
	BootID       string        // changes with each boot of the machine
	Offset       time.Duration // wall clock minus time since boot
	Set          bool          // the wall clock is not before the floor, so it can be right
	Synchronized bool          // the kernel says that something (NTP) disciplines it
}

// Clock is the machine's clock. Both methods are cheap and safe for
// concurrent use.
type Clock interface {
	Now() time.Time
	State() State
}

// System returns the machine's clock. A wall clock before floor cannot be
// right; pass the build time or, when known, the last trusted time.
func System(floor time.Time) Clock { return systemClock{floor} }

type systemClock struct{ floor time.Time }

func (systemClock) Now() time.Time { return time.Now() }

func (c systemClock) State() State {
	now := time.Now()
	return State{
		BootID:       BootID(),
		Offset:       time.Duration(now.UnixNano()) - SinceBoot(),
		Set:          !now.Before(c.floor),
		Synchronized: synchronized(),
	}
}

// BootID returns the kernel's identifier of this boot, or "unknown".
var BootID = sync.OnceValue(func() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
})

// SinceBoot returns the time since this boot, time that the machine was
// suspended included. No change of the wall clock moves it.
func SinceBoot() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// synchronized asks the kernel (adjtimex(2)); a sandbox that forbids the
// question counts as no.
func synchronized() bool {
	var tx unix.Timex
	state, err := unix.Adjtimex(&tx)
	return err == nil && state != unix.TIME_ERROR
}
