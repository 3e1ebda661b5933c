package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// request is what a slave was asked for.
type request struct {
	transaction    uint16
	unit, function byte
	address, count int
	at             time.Time
}

// slave is a device with one register space, which every kind of register and
// every unit shares: register n holds n+1000, and odd bits are set. It speaks RTU
// frames, or those of TCP, over any stream.
type slave struct {
	tcp bool

	mu          sync.Mutex
	words       map[int]uint16
	missing     map[int]bool // answered with "illegal data address"
	misbehave   func(r request, good []byte) []byte
	requests    []request
	connections int
	overlapped  bool
	asked       bool
	out         io.Writer // of a pty
}

// write sends what nobody asked for.
func (s *slave) write(p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out.Write(p)
}

// serve answers what comes in until the stream ends.
func (s *slave) serve(stream io.ReadWriter) {
	frame := make([]byte, 8)
	if s.tcp {
		frame = make([]byte, 12)
	}
	for {
		if _, err := io.ReadFull(stream, frame); err != nil {
			return
		}
		r := request{at: time.Now()}
		body := frame
		if s.tcp {
			r.transaction = binary.BigEndian.Uint16(frame)
			body = frame[6:]
		} else if checksum := crc16(frame[:6]); !slices.Equal(checksum, frame[6:]) {
			continue
		}
		r.unit, r.function = body[0], body[1]
		r.address, r.count = int(binary.BigEndian.Uint16(body[2:])), int(binary.BigEndian.Uint16(body[4:]))
		if _, err := stream.Write(s.answer(r)); err != nil {
			return
		}
	}
}

func (s *slave) answer(r request) []byte {
	s.mu.Lock()
	s.overlapped = s.overlapped || s.asked
	s.asked = true
	s.requests = append(s.requests, r)
	good := s.frame(r, s.pdu(r))
	misbehave := s.misbehave
	s.mu.Unlock()
	if misbehave != nil {
		good = misbehave(r, good)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = false
	return good
}

// pdu is the answer to r without its frame.
func (s *slave) pdu(r request) []byte {
	for address := r.address; address < r.address+r.count; address++ {
		if s.missing[address] {
			return []byte{r.function | 0x80, 2}
		}
	}
	if r.function <= 2 {
		data := make([]byte, (r.count+7)/8)
		for i := range r.count {
			if (r.address+i)%2 == 1 {
				data[i/8] |= 1 << (i % 8)
			}
		}
		return append([]byte{r.function, byte(len(data))}, data...)
	}
	out := []byte{r.function, byte(2 * r.count)}
	for address := r.address; address < r.address+r.count; address++ {
		word, ok := s.words[address]
		if !ok {
			word = uint16(address + 1000)
		}
		out = binary.BigEndian.AppendUint16(out, word)
	}
	return out
}

func (s *slave) frame(r request, pdu []byte) []byte {
	if s.tcp {
		out := binary.BigEndian.AppendUint16(nil, r.transaction)
		out = append(out, 0, 0)
		out = binary.BigEndian.AppendUint16(out, uint16(len(pdu)+1))
		return append(append(out, r.unit), pdu...)
	}
	out := append([]byte{r.unit}, pdu...)
	return append(out, crc16(out)...)
}

// behave sets what the slave does to its answers; nil is nothing.
func (s *slave) behave(f func(r request, good []byte) []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.misbehave = f
}

// take returns what was asked for since the last call.
func (s *slave) take() []request {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.requests
	s.requests = nil
	return r
}

// crc16 is that of the Modbus specification, written from it and not from the
// library that is tested with it.
func crc16(data []byte) []byte {
	crc := uint16(0xffff)
	for _, b := range data {
		crc ^= uint16(b)
		for range 8 {
			carry := crc&1 == 1
			crc >>= 1
			if carry {
				crc ^= 0xa001
			}
		}
	}
	return []byte{byte(crc), byte(crc >> 8)}
}

// onPTY puts the slave at the far end of a terminal and returns the path of the
// near end, and how to take it away.
func (s *slave) onPTY(t *testing.T) (path string, unplug func()) {
	t.Helper()
	blocking, near, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer blocking.Close()
	fd, err := unix.FcntlInt(blocking.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		err = unix.SetNonblock(fd, true) // so that Close ends a Read
	}
	if err != nil {
		t.Fatal(err)
	}
	far := os.NewFile(uintptr(fd), "ptmx")
	s.mu.Lock()
	s.out = far
	s.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.serve(far)
	}()
	unplug = sync.OnceFunc(func() {
		near.Close()
		far.Close()
		<-ended
	})
	t.Cleanup(unplug)
	return near.Name(), unplug
}

// onTCP has the slave listen and returns its address.
func (s *slave) onTCP(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.connections++
			s.mu.Unlock()
			running.Go(func() {
				defer context.AfterFunc(ctx, func() { conn.Close() })()
				defer conn.Close()
				s.serve(hangingUp{conn})
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		listener.Close()
		running.Wait()
	})
	return listener.Addr().String()
}

// hangUp as an answer closes the connection, and so does an answer that ends
// with it, once the rest is sent.
var hangUp = []byte("hang up")

type hangingUp struct{ net.Conn }

func (c hangingUp) Write(p []byte) (int, error) {
	rest, ok := strings.CutSuffix(string(p), string(hangUp))
	if !ok {
		return c.Conn.Write(p)
	}
	c.Conn.Write([]byte(rest))
	return 0, io.ErrClosedPipe
}

// newSensor makes a sensor of its options.
func newSensor(t *testing.T, shared *sensors.Shared, name string, change func(*Options)) sensors.Sensor {
	t.Helper()
	o := Type.Options().(*Options)
	o.BaudRate = 115200
	change(o)
	s, err := New(config.Sensor{Name: name, TimeoutSeconds: patience.Seconds(), Options: o}, sensors.Env{Shared: shared})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.(sensors.Closer).Close() })
	return s
}

func read(t *testing.T, s sensors.Sensor) ([]sensors.Sample, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return s.Read(ctx)
}

// number returns the only value of a sensor.
func number(t *testing.T, s sensors.Sensor) (float64, error) {
	t.Helper()
	got, err := read(t, s)
	if err != nil {
		return 0, err
	}
	if len(got) != 1 {
		t.Fatalf("%d samples", len(got))
	}
	if got[0].Quality != "" {
		return 0, errors.New(got[0].Reason)
	}
	f, ok := got[0].Value.Float()
	if !ok {
		t.Fatalf("%+v is no number", got[0])
	}
	return f, nil
}

// eventually reads s until it gives want.
func eventually(t *testing.T, s sensors.Sensor, want float64) {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		got, err := number(t, s)
		if err == nil && got != want {
			t.Fatalf("got %v, want %v", got, want)
		}
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("never recovered: %v", err)
		}
	}
}

// eventuallyFails reads s until it fails for the reason.
func eventuallyFails(t *testing.T, s sensors.Sensor, reason string) {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		_, err := number(t, s)
		if err != nil && strings.Contains(err.Error(), reason) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("error %v, want %q in it", err, reason)
		}
	}
}

func at(address int) *int { return &address }

// byChannel sorts samples out.
func byChannel(samples []sensors.Sample) map[string]sensors.Sample {
	m := map[string]sensors.Sample{}
	for _, s := range samples {
		m[s.Channel] = s
	}
	return m
}

// numbers returns the good numbers among samples.
func numbers(samples []sensors.Sample) map[string]float64 {
	m := map[string]float64{}
	for _, s := range samples {
		if f, ok := s.Value.Float(); ok && s.Quality != wire.Bad {
			m[s.Channel] = f
		}
	}
	return m
}
