// Package mqttconn makes connections to a broker that the MQTT library can be
// let loose on.
//
// The library (eclipse/paho.mqtt.golang) sets memory aside for a packet as soon
// as it knows the length, which may be 256 MB: enough to take a small machine
// down. It also trusts the broker to answer a subscription with as many codes as
// it has filters, and panics when there are more, on a goroutine that nobody can
// recover. And some of its writes have no time limit. So what Bound returns reads
// along: a message that is too long is read to its end and thrown away, anything
// else that cannot be right ends the connection, and so does a write that takes
// too long.
package mqttconn

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"
)

// Schemes tells which schemes a broker's address may have, and which of them
// use TLS.
var Schemes = map[string]bool{
	"tcp": false, "mqtt": false, "ws": false,
	"ssl": true, "tls": true, "mqtts": true, "wss": true,
}

// Dial connects to the broker; tlsConfig is nil without TLS. It ends with ctx,
// but for WebSockets, whose dialer knows only the timeout.
func Dial(ctx context.Context, broker *url.URL, tlsConfig *tls.Config, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	switch {
	case broker.Scheme == "ws" || broker.Scheme == "wss":
		return paho.NewWebsocket(broker.String(), tlsConfig, timeout, nil, nil)
	case tlsConfig != nil:
		return (&tls.Dialer{Config: tlsConfig}).DialContext(ctx, "tcp", broker.Host)
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", broker.Host)
}

// NoStore is where the library keeps packets in flight, and it keeps none. It is
// for clients whose connections never take over the session of another: a broker
// that never completes its messages of QoS 2 would have 65,535 of them held.
type NoStore struct{}

func (NoStore) Open()                             {}
func (NoStore) Put(string, packets.ControlPacket) {}
func (NoStore) Get(string) packets.ControlPacket  { return nil }
func (NoStore) All() []string                     { return nil }
func (NoStore) Del(string)                        {}
func (NoStore) Close()                            {}
func (NoStore) Reset()                            {}

// Limits are what a connection lets pass.
type Limits struct {
	PacketBytes int           // of a packet, its fixed header not counted
	Filters     int           // of a subscription
	Write       time.Duration // for one write
	// Skipped is called for each message that was too long, from the goroutine
	// that reads; it must not block.
	Skipped func(bytes int)
}

// Bound returns conn with limits to what it reads and writes.
func Bound(conn net.Conn, l Limits) net.Conn {
	return &bounded{Conn: conn, limits: l, in: bufio.NewReaderSize(conn, 4096)}
}

type bounded struct {
	net.Conn
	limits Limits
	in     *bufio.Reader

	header [5]byte // of the packet that is passing
	unread []byte  // the part of header that was not handed on yet
	body   int     // bytes left of the packet after that
}

func (c *bounded) Write(p []byte) (int, error) {
	if err := c.Conn.SetWriteDeadline(time.Now().Add(c.limits.Write)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

func (c *bounded) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(c.unread) == 0 && c.body == 0 {
		if err := c.next(); err != nil {
			return 0, err
		}
	}
	if len(c.unread) > 0 {
		n := copy(p, c.unread)
		c.unread = c.unread[n:]
		return n, nil
	}
	n, err := c.in.Read(p[:min(len(p), c.body)])
	c.body -= n
	return n, err
}

// Types of packets, as section 2.2.1 of MQTT 3.1.1 numbers them.
const (
	publish = 3
	suback  = 9
)

// next reads the fixed header of the next packet, by section 2.2 of MQTT 3.1.1:
// one byte of type and flags, then the length, seven bits a byte, low ones
// first.
func (c *bounded) next() error {
	first, err := c.in.ReadByte()
	if err != nil {
		return err
	}
	c.header[0] = first
	size, n := 0, 1
	for more := true; more; n++ {
		if n == len(c.header) {
			return errors.New("what the broker sends is not MQTT")
		}
		b, err := c.in.ReadByte()
		if err != nil {
			return err
		}
		c.header[n] = b
		size |= int(b&0x7f) << (7 * (n - 1))
		more = b&0x80 != 0
	}
	kind := first >> 4
	switch {
	case kind == suback && size > 2+c.limits.Filters:
		return errors.New("the broker answers for more subscriptions than it was asked for")
	case size <= c.limits.PacketBytes:
		c.unread, c.body = c.header[:n], size
		return nil
	case kind != publish:
		return fmt.Errorf("the broker sends a packet of %d bytes that is no message", size)
	}
	if c.limits.Skipped != nil {
		c.limits.Skipped(size)
	}
	// Unacknowledged: a broker sends it again to a session that is taken over,
	// and there is none.
	_, err = c.in.Discard(size)
	return err
}
