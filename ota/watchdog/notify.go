package watchdog

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxSocketPath is the longest name that a unix socket can have.
const maxSocketPath = 107

func notifyPath(dir string) string { return filepath.Join(dir, "notify.sock") }

// notifySocket takes sd_notify(3) messages.
type notifySocket struct {
	path     string
	conn     *net.UnixConn
	messages chan notification
	closed   chan struct{}
}

type notification struct {
	pid   int  // who sent it, by the kernel's word
	alive bool // READY=1 or WATCHDOG=1
}

// listenNotify listens for what user, who may be another one, tells.
func listenNotify(dir string, user *User) (*notifySocket, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make runtime dir: %w", err)
	}
	n := &notifySocket{path: notifyPath(dir), messages: make(chan notification, 16), closed: make(chan struct{})}
	if err := os.Remove(n.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove old notify socket: %w", err)
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: n.path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("listen for notifications: %w", err)
	}
	n.conn = conn
	raw, err := conn.SyscallConn()
	if err == nil {
		var setErr error
		err = raw.Control(func(fd uintptr) { setErr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
		err = errors.Join(err, setErr)
	}
	if err == nil && user != nil {
		err = os.Lchown(n.path, int(user.UID), int(user.GID)) // to send it must be allowed to write
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("listen for notifications: %w", err)
	}
	go n.receive()
	return n, nil
}

func (n *notifySocket) receive() {
	defer close(n.closed)
	buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	for {
		size, oobSize, _, _, err := n.conn.ReadMsgUnix(buf, oob)
		if err != nil {
			return
		}
		message := notification{pid: senderOf(oob[:oobSize])}
		for line := range strings.Lines(string(buf[:size])) {
			line = strings.TrimSuffix(line, "\n")
			message.alive = message.alive || line == "READY=1" || line == "WATCHDOG=1"
		}
		select {
		case n.messages <- message:
		default: // nobody looks; a later ping will do
		}
	}
}

// senderOf returns the process id in a datagram's credentials, or 0.
func senderOf(oob []byte) int {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0
	}
	for _, m := range messages {
		if cred, err := unix.ParseUnixCredentials(&m); err == nil {
			return int(cred.Pid)
		}
	}
	return 0
}

func (n *notifySocket) close() {
	n.conn.Close()
	<-n.closed
	os.Remove(n.path)
}
