package modbus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	mb "github.com/simonvetter/modbus"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/sensors/internal/port"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// device is served by the library's own server.
type device struct {
	mu       sync.Mutex
	requests int
}

func (d *device) count() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.requests++
}

func (d *device) HandleCoils(r *mb.CoilsRequest) ([]bool, error) {
	d.count()
	out := make([]bool, r.Quantity)
	for i := range out {
		out[i] = (int(r.Addr)+i)%2 == 1
	}
	return out, nil
}

func (d *device) HandleDiscreteInputs(r *mb.DiscreteInputsRequest) ([]bool, error) {
	return d.HandleCoils(&mb.CoilsRequest{Addr: r.Addr, Quantity: r.Quantity})
}

func (d *device) HandleHoldingRegisters(r *mb.HoldingRegistersRequest) ([]uint16, error) {
	d.count()
	if r.UnitId != 7 {
		return nil, mb.ErrGWTargetFailedToRespond
	}
	out := make([]uint16, r.Quantity)
	for i := range out {
		out[i] = r.Addr + uint16(i) + 1000
	}
	return out, nil
}

func (d *device) HandleInputRegisters(r *mb.InputRegistersRequest) ([]uint16, error) {
	return d.HandleHoldingRegisters(&mb.HoldingRegistersRequest{UnitId: r.UnitId, Addr: r.Addr, Quantity: r.Quantity})
}

// onServer starts the library's server and returns its address.
func (d *device) onServer(t *testing.T) string {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	server, err := mb.NewServer(&mb.ServerConfiguration{URL: "tcp://" + address, Logger: log.New(io.Discard, "", 0)}, d)
	if err == nil {
		err = server.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Stop() })
	return address
}

func TestEveryTransport(t *testing.T) {
	d := &device{}
	overPTY, overTCP := &slave{}, &slave{}
	path, _ := overPTY.onPTY(t)
	for name, url := range map[string]string{
		"tcp":        "tcp://" + d.onServer(t),
		"rtu":        "rtu://" + path,
		"rtuovertcp": "rtuovertcp://" + overTCP.onTCP(t),
	} {
		t.Run(name, func(t *testing.T) {
			s := newSensor(t, nil, "meter", func(o *Options) {
				o.URL, o.UnitID, o.ResponseTimeoutSeconds = url, 7, 10
				o.Registers = []Register{
					{Channel: "voltage", Register: "input", Address: 5, Scale: 0.5, Unit: "V", SensorType: "voltage"},
					{Channel: "energy", Address: 8, DataType: "uint32", Scale: 1},
					{Channel: "pump", Register: "coil", Address: 3, Scale: 1},
					{Channel: "door", Register: "discrete", Address: 10, Scale: 1},
				}
			})
			for range 2 {
				got, err := read(t, s)
				if err != nil {
					t.Fatal(err)
				}
				want := map[string]sensors.Sample{
					"voltage": {Channel: "voltage", Value: wire.NumberValue(502.5), Unit: "V", Type: "voltage"},
					"energy":  {Channel: "energy", Value: wire.NumberValue(1008<<16 + 1009)},
					"pump":    {Channel: "pump", Value: wire.BoolValue(true)},
					"door":    {Channel: "door", Value: wire.BoolValue(false)},
				}
				if diff := cmp.Diff(want, byChannel(got), cmp.Comparer(func(a, b wire.Value) bool { return a == b })); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
	if overTCP.connections != 1 {
		t.Errorf("%d connections for two reads", overTCP.connections)
	}
}

// TestConnectionClosedBetweenPolls is what a gateway with an idle timeout does.
func TestConnectionClosedBetweenPolls(t *testing.T) {
	for _, scheme := range []string{"tcp", "rtuovertcp"} {
		t.Run(scheme, func(t *testing.T) {
			far := &slave{tcp: scheme == "tcp"}
			far.behave(func(_ request, good []byte) []byte { return append(good, hangUp...) })
			s := newSensor(t, nil, "meter", func(o *Options) {
				o.URL, o.Address, o.Retries, o.ResponseTimeoutSeconds = scheme+"://"+far.onTCP(t), at(5), 0, 10
			})
			for range 4 {
				if got, err := number(t, s); err != nil || got != 1005 {
					t.Fatalf("got %v, %v", got, err)
				}
			}
			if far.connections < 3 {
				t.Errorf("%d connections: the slave hung up after each answer", far.connections)
			}
		})
	}
}

func TestFaultsOfAConnection(t *testing.T) {
	tests := map[string]struct {
		misbehave func(r request, good []byte) []byte
		reason    string
	}{
		"silent":                {func(request, []byte) []byte { return nil }, "no complete answer from unit 1 within 0.2 s: check power, wiring and unit_id"},
		"half a frame":          {func(_ request, good []byte) []byte { return good[:9] }, "no complete answer from unit 1"},
		"hangs up":              {func(request, []byte) []byte { return hangUp }, "hung up without a complete answer from unit 1"},
		"hangs up in the midst": {func(_ request, good []byte) []byte { return append(good[:9], hangUp...) }, "hung up without a complete answer"},
		"another unit":          {func(_ request, good []byte) []byte { good[6] = 9; return good }, "another unit than 1 answered"},
		"endless":               {func(_ request, good []byte) []byte { good[4] = 0xff; return good }, "what came is no answer"},
		"another transaction":   {func(_ request, good []byte) []byte { good[0] ^= 0x40; return good }, "no complete answer from unit 1"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			far := &slave{tcp: true}
			s := newSensor(t, nil, "meter", func(o *Options) {
				o.URL, o.Address, o.Retries, o.ResponseTimeoutSeconds = "tcp://"+far.onTCP(t), at(5), 0, 0.2
			})
			far.behave(tt.misbehave)
			eventuallyFails(t, s, tt.reason)
			far.behave(nil)
			eventually(t, s, 1005)
			far.mu.Lock()
			defer far.mu.Unlock()
			if far.connections < 2 {
				t.Error("what may still come over the connection would be taken for another answer")
			}
		})
	}
}

func TestAnOldAnswerBeforeTheRightOne(t *testing.T) {
	far := &slave{tcp: true}
	far.behave(func(r request, good []byte) []byte {
		old := far.frame(request{transaction: r.transaction - 1, unit: r.unit}, []byte{r.function, 2, 9, 9})
		return append(old, good...)
	})
	s := newSensor(t, nil, "meter", func(o *Options) {
		o.URL, o.Address, o.ResponseTimeoutSeconds = "tcp://"+far.onTCP(t), at(5), 10
	})
	if got, err := number(t, s); err != nil || got != 1005 {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestNobodyListens(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free.Close()
	s := newSensor(t, nil, "meter", func(o *Options) { o.URL, o.Address = "tcp://"+free.Addr().String(), at(0) })
	first, second := "", ""
	for _, reason := range []*string{&first, &second} {
		_, err := number(t, s)
		if err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Fatalf("error %v", err)
		}
		*reason = err.Error()
	}
	if first != second {
		t.Errorf("one fault, two reasons: %s; %s", first, second)
	}
}

// TestSensorsOfOneBus reads two units through the poller: one connection, one
// request at a time, and the pause between any two.
func TestSensorsOfOneBus(t *testing.T) {
	const pause = 20 * time.Millisecond
	far := &slave{}
	address := far.onTCP(t)
	var mu sync.Mutex
	seen := map[string]int{}
	enough := make(chan struct{})
	device := func(name, url string, unit int, pause float64) config.Sensor {
		o := Type.Options().(*Options)
		o.URL, o.UnitID, o.PauseBetweenSeconds, o.ResponseTimeoutSeconds, o.BaudRate = url, unit, pause, 4, 115200
		o.Registers = []Register{{Channel: "a", Address: unit, Scale: 1}, {Channel: "b", Address: unit + 100, Scale: 1}}
		return config.Sensor{
			Name: name, IngestType: "modbus", Enabled: true, Scale: 1, PollIntervalSeconds: 5,
			MaxReadingsPerPoll: 10, MaxTextBytes: 100, Options: o,
		}
	}
	p, err := sensors.NewPoller(sensors.Options{
		Defaults: config.Sensors{TimeoutSeconds: 5, Devices: []config.Sensor{
			device("one", "rtuovertcp://"+address, 1, pause.Seconds()), device("two", "RTUoverTCP://"+address+"/", 2, 0),
		}},
		Types: []sensors.Type{Type},
		Sink: func(rs []sensors.Reading) {
			mu.Lock()
			defer mu.Unlock()
			for _, r := range rs {
				if r.Quality == wire.Good {
					seen[r.Sensor]++
				} else {
					t.Errorf("%s: %s", r.Sensor, r.Reason)
				}
				if len(seen) == 4 && enough != nil {
					close(enough)
					enough = nil
				}
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	waiting := enough
	go func() {
		select {
		case <-waiting:
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := p.Run(ctx); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(seen) != 4 {
		t.Errorf("readings %v", seen)
	}
	requests := far.take()
	if far.connections != 1 || far.overlapped {
		t.Errorf("%d connections, overlapped %v", far.connections, far.overlapped)
	}
	for i := 1; i < len(requests); i++ {
		if gap := requests[i].at.Sub(requests[i-1].at); gap < pause {
			t.Errorf("request %d came %v after the one before", i, gap)
		}
	}
	if bus := Type.Bus(device("one", "TCP://Plc", 1, 0)); bus != "modbus:tcp://plc:502" {
		t.Errorf("bus %q", bus)
	}
}

// TestNeighboursAreReadTogether counts what the slave sees.
func TestNeighboursAreReadTogether(t *testing.T) {
	far := &slave{}
	var registers []Register
	want := map[string]float64{}
	add := func(address int) {
		channel := fmt.Sprint("r", address)
		registers = append(registers, Register{Channel: channel, Address: address, Scale: 1})
		want[channel] = float64(address + 1000)
	}
	for i := range 100 {
		add(i)
	}
	add(120)
	add(300)
	s := newSensor(t, nil, "meter", func(o *Options) {
		o.URL, o.Registers, o.MaxGap, o.ResponseTimeoutSeconds = "rtuovertcp://"+far.onTCP(t), registers, 20, 10
	})
	got, err := read(t, s)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, numbers(got)); diff != "" {
		t.Error(diff)
	}
	if n := len(far.take()); n != 2 {
		t.Errorf("%d requests for two blocks", n)
	}

	// Two registers that the device does not have cost only themselves, and
	// the others are not asked for one by one for ever.
	far.missing = map[int]bool{17: true, 64: true, 110: true}
	delete(want, "r17")
	delete(want, "r64")
	if got, err = read(t, s); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, numbers(got)); diff != "" {
		t.Error(diff)
	}
	for _, channel := range []string{"r17", "r64"} {
		if bad := byChannel(got)[channel]; bad.Quality != wire.Bad || !strings.Contains(bad.Reason, "illegal data address") {
			t.Errorf("%s: %+v", channel, bad)
		}
	}
	learning := len(far.take())
	if _, err = read(t, s); err != nil {
		t.Fatal(err)
	}
	learned := len(far.take())
	t.Logf("%d requests to learn, then %d", learning, learned)
	if learned > 16 || learned >= learning {
		t.Errorf("%d requests to learn, then %d", learning, learned)
	}
}

// TestAUnitThatRefusesAll is one that is starting: what it refuses then says
// nothing about its registers.
func TestAUnitThatRefusesAll(t *testing.T) {
	far := &slave{}
	s := newSensor(t, nil, "meter", func(o *Options) {
		o.URL, o.ResponseTimeoutSeconds = "rtuovertcp://"+far.onTCP(t), 10
		for address := range 100 {
			o.Registers = append(o.Registers, Register{Channel: fmt.Sprint("r", address), Address: address, Scale: 1})
		}
	})
	far.behave(func(r request, _ []byte) []byte { return rtu(r.unit, []byte{r.function | 0x80, 2}) })
	got, err := read(t, s)
	if err != nil || len(got) != 100 || len(numbers(got)) != 0 {
		t.Errorf("%d samples, %d of them good, %v", len(got), len(numbers(got)), err)
	}
	if n := len(far.take()); n > 2*maxRefusals+1 {
		t.Errorf("%d requests to a unit that refuses everything", n)
	}
	far.behave(nil)
	if got, err = read(t, s); err != nil || len(numbers(got)) != 100 {
		t.Errorf("%d good samples, %v", len(numbers(got)), err)
	}
	if n := len(far.take()); n != 1 {
		t.Errorf("%d requests after it had started", n)
	}
}

// TestLearningGoesOn has the time of a read end in the midst of finding out what
// a device refuses.
func TestLearningGoesOn(t *testing.T) {
	far := &slave{missing: map[int]bool{0: true}}
	s := newSensor(t, nil, "meter", func(o *Options) {
		o.URL, o.ResponseTimeoutSeconds = "rtuovertcp://"+far.onTCP(t), 10
		for address := range 8 {
			o.Registers = append(o.Registers, Register{Channel: fmt.Sprint("r", address), Address: address, Scale: 1})
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	far.behave(func(r request, good []byte) []byte {
		if r.address < 4 && r.count < 4 {
			cancel()
		}
		return good
	})
	if got, err := s.Read(ctx); err == nil || numbers(got)["r7"] != 1007 {
		t.Errorf("%v, %v", numbers(got), err)
	}
	far.behave(nil)
	far.take()
	if got, err := read(t, s); err != nil || len(numbers(got)) != 7 {
		t.Errorf("%v, %v", numbers(got), err)
	}
	for _, r := range far.take() {
		if r.count == 8 {
			t.Error("what was refused as a whole is asked for as a whole again")
		}
	}
}

// TestASilentRegisterCostsOnlyItself is for devices that do not answer at all
// when they do not like a request.
func TestASilentRegisterCostsOnlyItself(t *testing.T) {
	t.Parallel()
	far := &slave{}
	far.behave(func(r request, good []byte) []byte {
		if r.address == 0 {
			return nil
		}
		return good
	})
	s := newSensor(t, nil, "meter", func(o *Options) {
		o.URL, o.Retries, o.ResponseTimeoutSeconds = "rtuovertcp://"+far.onTCP(t), 0, 0.2
		for _, address := range []int{0, 100, 200} {
			o.Registers = append(o.Registers, Register{Channel: fmt.Sprint("r", address), Address: address, Scale: 1})
		}
	})
	if _, err := read(t, s); err == nil || !strings.Contains(err.Error(), "no complete answer") {
		t.Fatalf("error %v", err)
	}
	if n := len(far.take()); n != 1 {
		t.Errorf("a unit that may be dead was asked %d times", n)
	}
	want := map[string]float64{"r100": 1100, "r200": 1200}
	for end := time.Now().Add(patience); ; {
		got, err := read(t, s)
		bad := byChannel(got)["r0"]
		if err == nil && bad.Quality == wire.Bad && cmp.Equal(want, numbers(got)) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%+v, %v", got, err)
		}
	}
}

// TestReadEndsWithItsContext leaves a request behind, and a connection.
func TestReadEndsWithItsContext(t *testing.T) {
	far := &slave{}
	asked, answer := make(chan struct{}, 10), make(chan struct{})
	far.behave(func(_ request, good []byte) []byte {
		asked <- struct{}{}
		<-answer
		return good
	})
	path, _ := far.onPTY(t)
	s := newSensor(t, nil, "meter", func(o *Options) {
		o.URL, o.Address, o.ResponseTimeoutSeconds = "rtu://"+path, at(5), 15
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		_, err := s.Read(ctx)
		ended <- err
	}()
	<-asked
	cancel()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("Read waits for the answer after its context ended")
	}
	// The bus is not free before the request is over, which Read bears too.
	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := s.Read(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
	close(answer)
	eventually(t, s, 1005)

	// Closed while a request is left behind: the port is free once that ends.
	answer = make(chan struct{})
	far.behave(func(_ request, good []byte) []byte {
		asked <- struct{}{}
		<-answer
		return good
	})
	for len(asked) > 0 {
		<-asked
	}
	ctx, cancel = context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	s.Read(ctx)
	s.(sensors.Closer).Close()
	if _, err := port.Claim(path, "other"); err == nil {
		t.Error("the port was given up during a request")
	}
	close(answer)
	for end := time.Now().Add(patience); ; {
		release, err := port.Claim(path, "other")
		if err == nil {
			release()
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
		<-time.After(time.Millisecond)
	}
}

func TestBeyondDoubles(t *testing.T) {
	far := &slave{words: map[int]uint16{0: 0x7fff, 1: 0xffff, 2: 0xffff, 3: 0xffff, 4: 0x7fc0, 5: 0, 6: 0x7f80, 7: 0}}
	s := newSensor(t, nil, "meter", func(o *Options) {
		o.URL, o.ResponseTimeoutSeconds = "rtuovertcp://"+far.onTCP(t), 10
		o.Registers = []Register{
			{Channel: "energy", Address: 0, DataType: "uint64", Scale: 1},
			{Channel: "nan", Address: 4, DataType: "float32", Scale: 1},
			{Channel: "infinite", Address: 6, DataType: "float32", Scale: 1},
			{Channel: "fine", Address: 8, Scale: 1},
		}
	})
	got, err := read(t, s)
	if err != nil {
		t.Fatal(err)
	}
	c := byChannel(got)
	if f, _ := c["energy"].Value.Float(); c["energy"].Quality != wire.Uncertain || f != math.MaxInt64 {
		t.Errorf("%+v", c["energy"])
	}
	for _, channel := range []string{"nan", "infinite"} {
		if c[channel].Quality != wire.Bad || c[channel].Reason == "" || c[channel].Value.Kind() != wire.None {
			t.Errorf("%s: %+v", channel, c[channel])
		}
	}
	if f, _ := c["fine"].Value.Float(); f != 1008 {
		t.Errorf("%+v", c["fine"])
	}
}
