package modbus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	mb "github.com/simonvetter/modbus"
	"golang.org/x/sys/unix"

	"github.com/pyvorin/pyvorin-edge/internal/human"
	"github.com/pyvorin/pyvorin-edge/sensors/internal/neterr"
)

var (
	errPanicked  = errors.New("internal error: the Modbus library panicked")
	errNotSerial = errors.New("not a serial port")
	errLost      = errors.New("connection lost") // in the error of a request that needs a new one
)

// retry tells what a failed request is worth.
type retry int

const (
	never  retry = iota
	later        // it may succeed the next time
	atOnce       // it failed only because the other end hung up since the last one
)

// exception is an answer that says no.
type exception struct {
	code int // 0 is one that the library does not know
	text string
}

func (e exception) Error() string { return e.text }

// isOfAddress reports whether the unit may give a part of what it refused.
func (e exception) isOfAddress() bool { return e.code == 2 || e.code == 3 }

// exceptions are those of the protocol: the library's error for each, whether
// it may pass, and what to do about it.
var exceptions = map[error]struct {
	code   int
	passes bool
	advice string
}{
	mb.ErrIllegalFunction:         {1, false, "it has no registers of this kind; change register"},
	mb.ErrIllegalDataAddress:      {2, false, "it has no such address; addresses count from 0, so that 40001 in a manual is holding register 0"},
	mb.ErrIllegalDataValue:        {3, false, "it does not read this many registers from there; check address and data_type"},
	mb.ErrServerDeviceFailure:     {4, false, "the device reports a fault of its own"},
	mb.ErrAcknowledge:             {5, true, "it is still busy with an earlier request; poll less often"},
	mb.ErrServerDeviceBusy:        {6, true, "poll less often, or raise pause_between_seconds"},
	mb.ErrMemoryParityError:       {8, true, "the device reports that its memory is damaged"},
	mb.ErrGWPathUnavailable:       {10, false, "the gateway does not know this unit; check unit_id and the gateway's settings"},
	mb.ErrGWTargetFailedToRespond: {11, true, "the unit does not answer the gateway; check its power and wiring, and unit_id"},
}

// unknownException begins the library's error for all other exceptions.
const unknownException = "unknown exception code"

// explain says why a request failed, in the same words each time. The caller
// holds the gate.
func (b *bus) explain(err error, unit uint8, q query, timeout time.Duration) (again retry, why error) {
	if e, ok := exceptions[asLibrary(err)]; ok {
		if e.passes {
			again = later
		}
		return again, exception{e.code, fmt.Sprintf("unit %d, %s: %v (exception %d): %s", unit, q, err, e.code, e.advice)}
	}
	if strings.HasPrefix(err.Error(), unknownException) {
		return never, exception{0, fmt.Sprintf("unit %d, %s: %v: see the manual of the device", unit, q, err)}
	}
	check := "unit_id, and that nothing else sends on the line"
	if !b.address.onSerialLine() {
		check = "that this address is a Modbus TCP device, and not rtuovertcp"
	}
	switch asLibrary(err) {
	case mb.ErrRequestTimedOut:
		if b.line.gone() {
			return later, fmt.Errorf("%w: the port %s went away while unit %d was asked: check its plug and its power", errLost, b.address.target, unit)
		}
		check = "power, wiring and unit_id"
		if b.address.onSerialLine() {
			check = "power, wiring, unit_id, baud_rate and parity"
		}
		return later, fmt.Errorf("no complete answer from unit %d within %s: check %s", unit, human.Exact(timeout), check)
	case mb.ErrBadCRC:
		return later, fmt.Errorf("damaged answer from unit %d (wrong CRC): check wiring, termination, baud_rate and parity", unit)
	case mb.ErrShortFrame:
		return later, fmt.Errorf("only the beginning of an answer came from unit %d: check wiring, termination, baud_rate and parity", unit)
	case mb.ErrBadUnitId:
		return later, fmt.Errorf("another unit than %d answered: check that no two devices have the same unit_id, and that nothing else sends on the line", unit)
	case mb.ErrProtocolError:
		return later, fmt.Errorf("what came is no answer to the request to unit %d: check %s", unit, check)
	}
	again = later
	if b.answered {
		again = atOnce
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return again, fmt.Errorf("%w: %s hung up without a complete answer from unit %d: it may serve fewer clients, or not know the unit", errLost, b.address.target, unit)
	}
	return again, fmt.Errorf("%w: %s: %w", errLost, b.address.target, neterr.Steady(err))
}

// asLibrary returns the error of the library that err is, or nil.
func asLibrary(err error) error {
	var own mb.Error
	if errors.As(err, &own) {
		return own
	}
	return nil
}

// explainOpen says why there is no connection.
func (b *bus) explainOpen(err error) error {
	if b.address.scheme != schemeRTU {
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("cannot connect to %s: nobody answers; check its power, its network and the address", b.address.target)
		}
		return fmt.Errorf("cannot connect: %w", neterr.Steady(err))
	}
	var t taken
	if errors.As(err, &t) {
		return t // it names the port
	}
	why := err.Error()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		why = "absent: it is not plugged in, or has another name (ls -l /dev/serial/by-id)"
	case errors.Is(err, unix.EACCES):
		why = "permission denied: add the agent's user to the group that owns it (ls -lL), and restart the agent"
	case errors.Is(err, unix.EPERM):
		why = "forbidden by the sandbox of the service: add DeviceAllow= for this device to its unit"
	case errors.Is(err, unix.EBUSY):
		why = "another program has it open (fuser -v tells which); when that is the agent, stop it first"
	case errors.Is(err, errNotSerial) || errors.Is(err, unix.EISDIR):
		why = "not a serial port: check url"
	case errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV), errors.Is(err, unix.EIO):
		why = "no hardware answers behind it: check url, and that its UART is enabled"
	}
	return fmt.Errorf("port %s: %s", b.address.target, why)
}

// String names what is asked for: "holding registers 0 to 9", "coil 3".
func (q query) String() string {
	what := q.kind
	switch {
	case q.kind == "discrete":
		what = "discrete input"
	case !isBit(q.kind):
		what += " register"
	}
	if q.count == 1 {
		return fmt.Sprintf("%s %d", what, q.address)
	}
	return fmt.Sprintf("%ss %d to %d", what, q.address, q.address+q.count-1)
}
