package vm

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// client speaks the JSON protocol that qemu's monitor and the guest agent have
// in common: one command, one answer, each a line.
type client struct {
	mu   sync.Mutex
	conn net.Conn
	in   *bufio.Reader
}

// answer is a line from the other side: an answer, or an event of the monitor.
type answer struct {
	Return json.RawMessage
	Event  string
	Error  *struct{ Class, Desc string }
}

// errNoAnswer says that the other side is gone or busy; a command that it
// refused is another error.
var errNoAnswer = errors.New("no answer")

func dial(socket string) (*client, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	return &client{conn: conn, in: bufio.NewReader(conn)}, nil
}

// dialMonitor connects to qemu's monitor.
func dialMonitor(socket string, limit time.Duration) (*client, error) {
	c, err := dial(socket)
	if err != nil {
		return nil, err
	}
	c.conn.SetDeadline(time.Now().Add(limit))
	if _, err = c.in.ReadBytes('\n'); err == nil { // the greeting
		err = c.call(limit, "qmp_capabilities", nil, nil)
	}
	if err != nil {
		c.conn.Close()
		return nil, fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	return c, nil
}

// dialAgent connects to the guest agent. What its port still holds of earlier
// connections, which a cut may have broken off anywhere, ends with a byte that
// is in no JSON.
func dialAgent(socket string, limit time.Duration) (*client, error) {
	const mark = '\xff'
	c, err := dial(socket)
	if err != nil {
		return nil, err
	}
	c.conn.SetDeadline(time.Now().Add(limit))
	id := rand.IntN(1 << 30)
	if _, err = fmt.Fprintf(c.conn, "\xff{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":%d}}\n", id); err == nil {
		_, err = c.in.ReadBytes(mark)
	}
	for ; err == nil; _, err = c.in.ReadBytes(mark) {
		var synced int
		if err := c.receive(&synced); err == nil && synced == id {
			return c, nil
		}
	}
	c.conn.Close()
	return nil, fmt.Errorf("%w: %w", errNoAnswer, err)
}

// call executes a command. After errNoAnswer the client is of no more use.
func (c *client) call(limit time.Duration, command string, arguments, result any) error {
	request := map[string]any{"execute": command}
	if arguments != nil {
		request["arguments"] = arguments
	}
	line, err := json.Marshal(request)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn.SetDeadline(time.Now().Add(limit))
	if _, err := c.conn.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("%s: %w: %w", command, errNoAnswer, err)
	}
	if err := c.receive(result); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	return nil
}

func (c *client) receive(result any) error {
	for {
		line, err := c.in.ReadBytes('\n')
		if err != nil {
			return fmt.Errorf("%w: %w", errNoAnswer, err)
		}
		var a answer
		if err := json.Unmarshal(bytes.TrimSpace(line), &a); err != nil {
			return err
		}
		switch {
		case a.Event != "":
			continue
		case a.Error != nil:
			return fmt.Errorf("refused: %s: %s", a.Error.Class, a.Error.Desc)
		case result == nil:
			return nil
		}
		return json.Unmarshal(a.Return, result)
	}
}
