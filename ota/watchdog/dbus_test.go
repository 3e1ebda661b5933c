package watchdog

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// bus is a D-Bus daemon with systemd behind it, as far as a watchdog needs them:
// it speaks the wire protocol on a socket of its own.
type bus struct {
	t          *testing.T
	listener   net.Listener
	properties map[string]any // of the one unit that there is

	mu    sync.Mutex
	calls []string // with their first arguments
	conns map[net.Conn]*sync.Mutex
	job   string // result of a restart; "" is none yet
	fault string // an error's name: what each call is answered with
	done  sync.WaitGroup
}

// startBus has this process find a bus.
func startBus(t *testing.T) *bus {
	t.Helper()
	dir, err := os.MkdirTemp("", "bus")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "bus")
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+socket)
	b := &bus{t: t, conns: map[net.Conn]*sync.Mutex{}, job: "done"}
	b.listener, err = net.Listen("unix", socket)
	must(t, err)
	b.done.Go(func() {
		for {
			conn, err := b.listener.Accept()
			if err != nil {
				return
			}
			b.done.Go(func() { b.serve(conn) })
		}
	})
	t.Cleanup(func() {
		b.listener.Close()
		b.mu.Lock()
		for conn := range b.conns {
			conn.Close()
		}
		b.mu.Unlock()
		b.done.Wait()
	})
	return b
}

func (b *bus) serve(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	if !greet(in, conn) {
		return
	}
	writing := &sync.Mutex{}
	b.mu.Lock()
	b.conns[conn] = writing
	b.mu.Unlock()
	for {
		call, err := readCall(in)
		if err != nil {
			return
		}
		reply, job := b.answer(call)
		writing.Lock()
		_, err = conn.Write(reply)
		writing.Unlock()
		if err != nil {
			return
		}
		if job != "" {
			b.endJob(job)
		}
	}
}

// greet is the beginning of each connection.
func greet(in *bufio.Reader, out io.Writer) bool {
	if zero, err := in.ReadByte(); err != nil || zero != 0 {
		return false
	}
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return false
		}
		answer := "ERROR"
		switch words := strings.Fields(line); {
		case words[0] == "BEGIN":
			return true
		case words[0] == "AUTH" && len(words) == 1:
			answer = "REJECTED EXTERNAL"
		case words[0] == "AUTH", words[0] == "DATA":
			answer = "OK 0123456789abcdef0123456789abcdef"
		}
		if _, err := io.WriteString(out, answer+"\r\n"); err != nil {
			return false
		}
	}
}

// answer returns the reply to a call, and the result of the job that it began.
func (b *bus) answer(c call) (reply []byte, job string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if strings.HasPrefix(c.member, "Hello") {
		return message(2, c.serial, nil, "s", ":1.7"), ""
	}
	if c.member == "AddMatch" {
		return message(2, c.serial, nil, ""), ""
	}
	b.calls = append(b.calls, c.member+" "+c.argument)
	switch {
	case b.fault != "":
		return message(3, c.serial, map[byte]string{4: b.fault}, "s", "it is so"), ""
	case c.member == "RestartUnit":
		return message(2, c.serial, nil, "o", "/org/freedesktop/systemd1/job/7"), b.job
	case c.member == "GetAll":
		return message(2, c.serial, nil, "a{sv}", b.properties), ""
	}
	return message(2, c.serial, nil, ""), ""
}

// endJob tells everybody that the job has ended.
func (b *bus) endJob(result string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	signal := message(4, 0, map[byte]string{1: "/org/freedesktop/systemd1", 2: "org.freedesktop.systemd1.Manager", 3: "JobRemoved", 7: ":1.0"},
		"uoss", uint32(7), "/org/freedesktop/systemd1/job/7", agentName, result)
	for conn, writing := range b.conns {
		writing.Lock()
		_, _ = conn.Write(signal)
		writing.Unlock()
	}
}

func (b *bus) called() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.calls, ", ")
}

// call is a message that asks for something.
type call struct {
	serial   uint32
	member   string
	argument string // the first one
}

// readCall reads a message in little endian.
func readCall(in io.Reader) (c call, err error) {
	head := make([]byte, 16)
	if _, err := io.ReadFull(in, head); err != nil {
		return c, err
	}
	if head[0] != 'l' {
		return c, errors.New("big endian")
	}
	c.serial = binary.LittleEndian.Uint32(head[8:])
	fields := make([]byte, padding(int(binary.LittleEndian.Uint32(head[12:])), 8))
	body := make([]byte, binary.LittleEndian.Uint32(head[4:]))
	if _, err := io.ReadFull(in, fields); err != nil {
		return c, err
	}
	if _, err := io.ReadFull(in, body); err != nil {
		return c, err
	}
	for at := 0; at+8 <= len(fields); at = padding(at, 8) {
		code, kind := fields[at], fields[at+2]
		at += 4 // the code and the signature of one letter
		if kind == 'g' {
			at += 1 + int(fields[at]) + 1
			continue
		}
		value := binary.LittleEndian.Uint32(fields[at:])
		if at += 4; kind != 'u' {
			if code == 3 {
				c.member = string(fields[at : at+int(value)])
			}
			at += int(value) + 1
		}
	}
	if len(body) > 4 {
		if n := int(binary.LittleEndian.Uint32(body)); n <= len(body)-4 {
			c.argument = string(body[4 : 4+n])
		}
	}
	return c, nil
}

func padding(n, to int) int { return (n + to - 1) / to * to }

// message makes a message of a kind, with these texts as further fields.
func message(kind byte, replyTo uint32, texts map[byte]string, signature string, values ...any) []byte {
	body := encoder{}
	for i, v := range values {
		letter := signature
		if len(values) > 1 {
			letter = signature[i : i+1]
		}
		body.value(letter, v)
	}
	fields := encoder{}
	field := func(code byte, letter string, v any) {
		fields.align(8)
		fields.b = append(fields.b, code)
		fields.value("g", letter)
		fields.value(letter, v)
	}
	if kind != 4 {
		field(5, "u", replyTo)
	}
	for _, code := range slices.Sorted(maps.Keys(texts)) {
		letter := "s"
		if code == 1 {
			letter = "o"
		}
		field(code, letter, texts[code])
	}
	if signature != "" {
		field(8, "g", signature)
	}
	out := encoder{b: []byte{'l', kind, 0, 1}}
	out.value("u", uint32(len(body.b)))
	out.value("u", uint32(1)) // serial
	out.value("u", uint32(len(fields.b)))
	out.b = append(out.b, fields.b...)
	out.align(8)
	return append(out.b, body.b...)
}

// encoder writes values as D-Bus does.
type encoder struct{ b []byte }

func (e *encoder) align(to int) {
	for len(e.b)%to != 0 {
		e.b = append(e.b, 0)
	}
}

func (e *encoder) value(signature string, v any) {
	switch signature {
	case "u":
		e.align(4)
		e.b = binary.LittleEndian.AppendUint32(e.b, v.(uint32))
	case "i":
		e.align(4)
		e.b = binary.LittleEndian.AppendUint32(e.b, uint32(v.(int32)))
	case "s", "o":
		e.value("u", uint32(len(v.(string))))
		e.b = append(append(e.b, v.(string)...), 0)
	case "g":
		e.b = append(append(append(e.b, byte(len(v.(string)))), v.(string)...), 0)
	case "a{sv}":
		entries := encoder{}
		for _, name := range slices.Sorted(maps.Keys(v.(map[string]any))) {
			entries.align(8)
			entries.value("s", name)
			letter := map[string]string{"string": "s", "uint32": "u", "int32": "i"}[fmt.Sprintf("%T", v.(map[string]any)[name])]
			entries.value("g", letter)
			entries.value(letter, v.(map[string]any)[name])
		}
		e.value("u", uint32(len(entries.b)))
		e.align(8)
		e.b = append(e.b, entries.b...)
	default:
		panic(signature)
	}
}
