package gpio

import "time"

// maxConsumerBytes is what the kernel keeps of a holder's name.
const maxConsumerBytes = 31

// kernel lists the GPIO chips of this machine.
type kernel interface {
	// nodes returns the chips there are now; none is no error.
	nodes() ([]node, error)

	// open opens one of them; the caller closes it. It does not block.
	open(n node) (chip, error)
}

// node is a chip as the kernel lists it.
type node struct {
	path   string // of its file, such as /dev/gpiochip0: another one after a reboot
	device string // where the hardware is in the tree of devices; "" when that is not known
}

// chip is an open GPIO chip. Errors of its methods wrap the kernel's number.
type chip interface {
	label() string
	lines() int
	info(offset int) (lineInfo, error)

	// request takes a line for this process, until it is closed; it outlives
	// the chip.
	request(offset int, r request) (line, error)
	Close() error
}

// lineInfo is what everyone may know of a line.
type lineInfo struct {
	name     string
	consumer string // who holds it; may be empty although it is used
	used     bool
	output   bool
}

// request says how a line is wanted: as an input, with events for the edges
// that are named.
type request struct {
	consumer        string
	bias            string
	activeLow       bool
	rising, falling bool
	debounce        time.Duration // by the kernel or the chip; 0 is none
}

// event is one edge, as the kernel saw it.
type event struct {
	at     time.Time // wall clock, with the monotonic reading
	rising bool      // from inactive to active
	number uint32    // counts the edges of this request, lost ones too; the first is 1
}

// line is a line that this process holds. Only interrupt may be called at the
// same time as another method.
type line interface {
	// value tells whether the line is active.
	value() (bool, error)

	// events takes the next events out of the kernel's buffer, oldest first,
	// and waits for the first one as long as wait says. None is no error. The
	// slice is overwritten by the next call.
	events(wait time.Duration) ([]event, error)

	// interrupt ends the waiting of this and of every later call of events.
	interrupt()

	Close() error
}
