// Command cp2112 is a GPIO chip for a machine that has none: a CP2112, which
// is wired to USB and has eight lines, as the kernel's own driver sees it
// through /dev/uhid. The driver makes a real GPIO chip of it, with edges.
//
//	cp2112 FIFO
//
// What is written to FIFO moves the pins, one order a line: "3 1" pulls pin 3
// high, "3 pulse 10" pulls it high and low ten times. A level stands until the
// driver has looked at it, so that no pulse is too short to be seen. There is
// nothing on the chip's I2C side. When the program ends the chip is unplugged.
package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: cp2112 FIFO")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "cp2112:", err)
		os.Exit(1)
	}
}

func run(fifo string) error {
	hid, err := os.OpenFile("/dev/uhid", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer hid.Close()
	if _, err := hid.Write(create()); err != nil {
		return fmt.Errorf("plug it in: %w", err)
	}
	// Open for reading and writing, it outlasts those who write to it.
	orders, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer orders.Close()
	c := &chip{hid: hid, looked: make(chan struct{}, 1)}
	failed := make(chan error, 2)
	go func() { failed <- c.serve() }()
	go func() { failed <- c.obey(orders) }()
	return <-failed
}

// The kinds of events of linux/uhid.h.
const (
	stopped         = 3
	output          = 6
	getReport       = 9
	getReportAnswer = 10
	create2         = 11
	input2          = 12
	setReport       = 13
	setReportAnswer = 14

	headerBytes   = 4
	nameBytes     = 128 + 64 + 64
	maxEventBytes = headerBytes + nameBytes + 20 + 4096
)

const (
	enoughLooks = 6

	// lookLimit is how long the driver may take to look: every 40 ms, but the
	// machine is emulated.
	lookLimit = 30 * time.Second
)

// The reports of the chip.
const (
	gpioConfig     = 0x02
	gpioGet        = 0x03
	gpioSet        = 0x04
	version        = 0x05
	busConfig      = 0x06
	transferStatus = 0x15
	transferAnswer = 0x16
	lock           = 0x20
)

// descriptor tells the kernel of two reports, the least that it takes: one
// feature, and the answer that the driver waits for when it looks for chips on
// the I2C side.
var descriptor = []byte{
	0x06, 0x00, 0xff, 0x09, 0x01, 0xa1, 0x01, // a collection of the vendor
	0x15, 0x00, 0x26, 0xff, 0x00, 0x75, 0x08, // of bytes
	0x85, gpioGet, 0x95, 1, 0x09, 0x01, 0xb1, 0x02,
	0x85, transferAnswer, 0x95, 6, 0x09, 0x01, 0x81, 0x02,
	0xc0,
}

func create() []byte {
	b := make([]byte, maxEventBytes)
	binary.NativeEndian.PutUint32(b, create2)
	copy(b[headerBytes:], "CP2112 of the tests")
	rest := b[headerBytes+nameBytes:]
	binary.NativeEndian.PutUint16(rest, uint16(len(descriptor)))
	binary.NativeEndian.PutUint16(rest[2:], 3) // USB
	binary.NativeEndian.PutUint32(rest[4:], 0x10c4)
	binary.NativeEndian.PutUint32(rest[8:], 0xea90)
	copy(rest[20:], descriptor)
	return b
}

type chip struct {
	hid    *os.File
	looked chan struct{} // the driver looked at the pins

	mu     sync.Mutex
	inputs byte
	output byte
	// config is what the driver set: for each pin whether it is driven.
	config [4]byte
}

// serve answers the driver.
func (c *chip) serve() error {
	event := make([]byte, maxEventBytes)
	for {
		n, err := c.hid.Read(event)
		if err != nil {
			return err
		}
		body := event[headerBytes:n]
		switch binary.NativeEndian.Uint32(event) {
		case stopped:
			return errors.New("the driver gave the chip up")
		case getReport:
			err = c.get(body[:4], body[4])
		case setReport:
			err = c.set(body[:4], body[4], body[8:])
		case output:
			if body[0] == transferStatus { // nobody is there
				err = c.send(input2, []byte{7, 0, transferAnswer, 3, 0, 0, 0, 0, 0})
			}
		}
		if err != nil {
			return err
		}
	}
}

func (c *chip) send(kind uint32, body []byte) error {
	_, err := c.hid.Write(append(binary.NativeEndian.AppendUint32(nil, kind), body...))
	return err
}

func (c *chip) get(id []byte, number byte) error {
	var report []byte
	c.mu.Lock()
	switch number {
	case gpioConfig:
		report = c.config[:]
	case gpioGet:
		report = []byte{c.inputs&^c.config[0] | c.output&c.config[0]}
		select {
		case c.looked <- struct{}{}:
		default:
		}
	case version:
		report = []byte{0x0c, 0x02}
	case busConfig:
		report = make([]byte, 13)
	case lock:
		report = []byte{0}
	}
	c.mu.Unlock()
	answer := append([]byte{}, id...)
	answer = binary.NativeEndian.AppendUint16(answer, 0) // no error
	answer = binary.NativeEndian.AppendUint16(answer, uint16(1+len(report)))
	return c.send(getReportAnswer, append(append(answer, number), report...))
}

func (c *chip) set(id []byte, number byte, report []byte) error {
	c.mu.Lock()
	switch number {
	case gpioConfig:
		copy(c.config[:], report[1:])
	case gpioSet:
		c.output = c.output&^report[2] | report[1]&report[2]
	}
	c.mu.Unlock()
	return c.send(setReportAnswer, append(append([]byte{}, id...), 0, 0))
}

// obey moves the pins.
func (c *chip) obey(orders io.Reader) error {
	for lines := bufio.NewScanner(orders); lines.Scan(); {
		var pin, level, pulses int
		if n, _ := fmt.Sscanf(lines.Text(), "%d pulse %d", &pin, &pulses); n == 2 {
			for range pulses {
				for _, level := range []int{1, 0} {
					c.pull(pin, level)
					if err := c.wait(); err != nil {
						return err
					}
				}
			}
		} else if n, _ := fmt.Sscanf(lines.Text(), "%d %d", &pin, &level); n == 2 {
			c.pull(pin, level)
		} else {
			return fmt.Errorf("no order: %q", lines.Text())
		}
	}
	return io.ErrUnexpectedEOF
}

func (c *chip) pull(pin, level int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inputs &^= 1 << pin
	if level != 0 {
		c.inputs |= 1 << pin
	}
	select {
	case <-c.looked: // that was at the old level
	default:
	}
}

// wait returns when the driver has looked at the pins so often that one of the
// looks was for edges, and a later one told what edge it was: others are by
// programs that read a line.
func (c *chip) wait() error {
	for range enoughLooks {
		select {
		case <-c.looked:
		case <-time.After(lookLimit):
			return errors.New("nobody waits for edges")
		}
	}
	return nil
}
