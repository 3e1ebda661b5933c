package modbus

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/sensors/internal/port"
)

// TestFaultsOfALine has a slave on a serial line do what slaves do. Each fault
// has its reason, and is over with it.
func TestFaultsOfALine(t *testing.T) {
	tests := map[string]struct {
		misbehave func(r request, good []byte) []byte
		reason    string
	}{
		"silent":       {func(request, []byte) []byte { return nil }, "no complete answer from unit 7 within 0.15 s: check power, wiring, unit_id, baud_rate and parity"},
		"half a frame": {func(_ request, good []byte) []byte { return good[:len(good)-3] }, "no complete answer from unit 7"},
		"two bytes":    {func(_ request, good []byte) []byte { return good[:2] }, "only the beginning of an answer"},
		"damaged":      {func(_ request, good []byte) []byte { good[3] ^= 1; return good }, "wrong CRC"},
		"another unit": {func(r request, good []byte) []byte { return rtu(8, good[1:len(good)-2]) }, "another unit than 7 answered"},
		"noise before": {func(_ request, good []byte) []byte { return append([]byte{0, 0xff, 0x55, 0}, good...) }, "no answer to the request"},
		"too short":    {func(r request, _ []byte) []byte { return rtu(r.unit, []byte{r.function, 0}) }, "no answer to the request"},
		"other length": {func(r request, _ []byte) []byte { return rtu(r.unit, []byte{r.function, 4, 1, 2, 3, 4}) }, "no answer to the request"},
		"other code":   {func(r request, good []byte) []byte { return rtu(r.unit, []byte{0x16, 1, 2, 3, 4, 5, 6}) }, "no answer to the request"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			far := &slave{}
			path, _ := far.onPTY(t)
			s := newSensor(t, nil, "meter", func(o *Options) {
				o.URL, o.UnitID, o.Address, o.Retries, o.ResponseTimeoutSeconds = "rtu://"+path, 7, at(5), 0, 0.148
			})
			far.behave(tt.misbehave)
			eventuallyFails(t, s, tt.reason)
			far.behave(nil)
			eventually(t, s, 1005)
		})
	}
}

// rtu frames an answer of any unit.
func rtu(unit byte, pdu []byte) []byte { return (&slave{}).frame(request{unit: unit}, pdu) }

func TestExceptionsAreNamed(t *testing.T) {
	far := &slave{}
	s := newSensor(t, nil, "meter", func(o *Options) {
		o.URL, o.UnitID, o.Address, o.Retries, o.ResponseTimeoutSeconds = "rtuovertcp://"+far.onTCP(t), 7, at(5), 1, 10
	})
	for code, tt := range map[byte]struct {
		reason   string
		requests int
	}{
		1:  {"unit 7, holding register 5: illegal function (exception 1): it has no registers of this kind", 1},
		2:  {"illegal data address (exception 2): it has no such address; addresses count from 0", 1},
		3:  {"illegal data value (exception 3)", 1},
		4:  {"server device failure (exception 4)", 1},
		5:  {"request acknowledged (exception 5)", 2},
		6:  {"server device busy (exception 6): poll less often", 2},
		8:  {"memory parity error (exception 8)", 2},
		10: {"gateway path unavailable (exception 10)", 1},
		11: {"gateway target device failed to respond (exception 11)", 2},
		99: {"unknown exception code (99)", 1},
	} {
		far.behave(func(r request, _ []byte) []byte { return rtu(r.unit, []byte{r.function | 0x80, code}) })
		far.take()
		_, err := number(t, s)
		if err == nil || !strings.Contains(err.Error(), tt.reason) {
			t.Errorf("exception %d: %v", code, err)
		}
		if n := len(far.take()); n != tt.requests {
			t.Errorf("exception %d: %d requests, want %d", code, n, tt.requests)
		}
	}
	far.behave(nil)
	eventually(t, s, 1005)
	if far.connections != 1 {
		t.Errorf("%d connections: an exception is an answer", far.connections)
	}
}

// TestALateAnswerIsNoOthers has the answer to the request for register 0 come
// when register 1 is the next, and before an answer for that.
func TestALateAnswerIsNoOthers(t *testing.T) {
	t.Parallel()
	const timeout = 1500 * time.Millisecond
	far := &slave{}
	path, _ := far.onPTY(t)
	shared := &sensors.Shared{}
	only := func(address int) sensors.Sensor {
		return newSensor(t, shared, fmt.Sprint("register-", address), func(o *Options) {
			o.URL, o.Address, o.Retries, o.ResponseTimeoutSeconds = "rtu://"+path, at(address), 0, timeout.Seconds()
		})
	}
	late, next := only(0), only(1)
	answers, sent := make(chan []byte, 1), make(chan struct{})
	far.behave(func(r request, good []byte) []byte {
		if r.address == 0 {
			answers <- good
			return nil
		}
		<-sent
		return good
	})
	if _, err := number(t, late); err == nil {
		t.Fatal("a value without an answer")
	}
	answer := <-answers
	time.AfterFunc(timeout/4, func() {
		defer close(sent)
		far.write(answer)
	})
	if got, err := number(t, next); err != nil || got != 1001 {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestRetries(t *testing.T) {
	t.Parallel()
	far := &slave{}
	path, _ := far.onPTY(t)
	s := newSensor(t, nil, "meter", func(o *Options) {
		o.URL, o.Address, o.Retries, o.ResponseTimeoutSeconds = "rtu://"+path, at(5), 3, 0.4
	})
	failures := 2
	far.behave(func(_ request, good []byte) []byte {
		if failures--; failures >= 0 {
			good[3] ^= 1
		}
		return good
	})
	if got, err := number(t, s); err != nil || got != 1005 {
		t.Errorf("got %v, %v after two damaged answers and three retries", got, err)
	}
	if n := len(far.take()); n < 3 {
		t.Errorf("%d requests", n)
	}
}

// TestPortRemovedAndBack unplugs an adapter and plugs it in again, as another
// device of the kernel behind the same name.
func TestPortRemovedAndBack(t *testing.T) {
	t.Parallel()
	far := &slave{}
	byID := filepath.Join(t.TempDir(), "adapter")
	plug := func() (unplug func()) {
		path, gone := far.onPTY(t)
		if err := os.Symlink(path, byID); err != nil {
			t.Fatal(err)
		}
		return func() {
			if err := os.Remove(byID); err != nil {
				t.Fatal(err)
			}
			gone()
		}
	}
	s := newSensor(t, nil, "meter", func(o *Options) {
		o.URL, o.Address, o.Retries, o.ResponseTimeoutSeconds = "rtu://"+byID, at(5), 0, 10
	})
	eventuallyFails(t, s, "port "+byID+": absent: it is not plugged in")
	unplug := plug()
	if got, err := number(t, s); err != nil || got != 1005 {
		t.Fatalf("got %v, %v", got, err)
	}
	unplug()
	eventuallyFails(t, s, "port "+byID+": absent")
	unplug = plug()
	if got, err := number(t, s); err != nil || got != 1005 {
		t.Fatalf("plugged in again: %v, %v", got, err)
	}
	// Unplugged and back before anybody looked: no read fails.
	unplug()
	unplug = plug()
	if got, err := number(t, s); err != nil || got != 1005 {
		t.Fatalf("replugged between polls: %v, %v", got, err)
	}
	// Unplugged in the middle of a request.
	asked := make(chan struct{}, 1)
	far.behave(func(request, []byte) []byte {
		select {
		case asked <- struct{}{}:
		default:
		}
		return nil
	})
	s2 := newSensor(t, nil, "short", func(o *Options) {
		o.URL, o.Address, o.Retries, o.ResponseTimeoutSeconds = "rtu://"+byID, at(5), 0, 1
	})
	s.(sensors.Closer).Close()
	go func() {
		<-asked
		unplug()
	}()
	if _, err := number(t, s2); err == nil || !strings.Contains(err.Error(), byID+" went away while unit 1 was asked") {
		t.Errorf("error %v", err)
	}
	eventuallyFails(t, s2, "port "+byID+": absent")
}

// TestWhatNobodyAskedFor is an answer that came after all, long after its
// request was given up: it waits in the port for the next request.
func TestWhatNobodyAskedFor(t *testing.T) {
	far := &slave{}
	path, _ := far.onPTY(t)
	near, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	s := newSensor(t, nil, "meter", func(o *Options) {
		o.URL, o.Address, o.Retries, o.ResponseTimeoutSeconds = "rtu://"+path, at(5), 0, 10
	})
	for range 2 {
		if got, err := number(t, s); err != nil || got != 1005 {
			t.Fatalf("got %v, %v", got, err)
		}
		far.write(rtu(1, []byte{3, 2, 0, 1}))
		for end := time.Now().Add(patience); ; <-time.After(time.Millisecond) {
			if n, err := unix.IoctlGetInt(int(near.Fd()), unix.TIOCINQ); err != nil || n > 0 {
				break
			}
			if time.Now().After(end) {
				t.Fatal("the bytes never arrived")
			}
		}
	}
}

func TestAFileIsNoPort(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := newSensor(t, nil, "meter", func(o *Options) { o.URL, o.Address = "rtu://"+path, at(0) })
	if _, err := number(t, s); err == nil || !strings.Contains(err.Error(), path+": not a serial port") {
		t.Errorf("error %v", err)
	}
	if release, err := port.Claim(path, "other"); err != nil {
		t.Errorf("the port is still claimed: %v", err)
	} else {
		release()
	}
}

// TestOnePortTwoNames has two sensors name one port differently: that is two
// buses, and the second is told.
func TestOnePortTwoNames(t *testing.T) {
	far := &slave{}
	path, _ := far.onPTY(t)
	link := filepath.Join(t.TempDir(), "by-id")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	shared := &sensors.Shared{}
	of := func(name, path string) sensors.Sensor {
		return newSensor(t, shared, name, func(o *Options) { o.URL, o.Address, o.ResponseTimeoutSeconds = "rtu://"+path, at(5), 10 })
	}
	first, same, other := of("first", path), of("same", path), of("other", link)
	for _, s := range []sensors.Sensor{first, same} {
		if got, err := number(t, s); err != nil || got != 1005 {
			t.Fatalf("got %v, %v", got, err)
		}
	}
	_, err := number(t, other)
	if err == nil || !strings.Contains(err.Error(), link+" is in use by the sensor first") || !strings.Contains(err.Error(), "same url") {
		t.Errorf("error %v", err)
	}
	first.(sensors.Closer).Close()
	if _, err := number(t, other); err == nil {
		t.Error("the port was given up while a sensor used it")
	}
	same.(sensors.Closer).Close()
	if got, err := number(t, other); err != nil || got != 1005 {
		t.Errorf("after the others closed: %v, %v", got, err)
	}
}

// TestNeverQuiet has a second master, or noise, keep the line busy.
func TestNeverQuiet(t *testing.T) {
	t.Parallel()
	far := &slave{}
	path, _ := far.onPTY(t)
	near, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	s := newSensor(t, nil, "meter", func(o *Options) {
		o.URL, o.Address, o.Retries, o.ResponseTimeoutSeconds = "rtu://"+path, at(5), 0, 0.2
	})
	noisy := make(chan struct{})
	var chatter sync.WaitGroup
	far.behave(func(request, []byte) []byte { return []byte{1, 2} })
	eventuallyFails(t, s, "beginning of an answer")
	chatter.Go(func() {
		for {
			select {
			case <-noisy:
				return
			case <-time.After(time.Millisecond):
				far.write([]byte{0x55, 0xaa})
			}
		}
	})
	eventuallyFails(t, s, "the line is never quiet: check for another master")
	close(noisy)
	chatter.Wait()
	far.behave(nil)
	eventually(t, s, 1005)
}
