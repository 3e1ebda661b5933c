package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"
)

// noStore is where the library keeps packets in flight, and it keeps none. No
// connection takes over the session of another, and a broker that never
// completes its messages of QoS 2 would have 65,535 of them held.
type noStore struct{}

func (noStore) Open()                             {}
func (noStore) Put(string, packets.ControlPacket) {}
func (noStore) Get(string) packets.ControlPacket  { return nil }
func (noStore) All() []string                     { return nil }
func (noStore) Del(string)                        {}
func (noStore) Close()                            {}
func (noStore) Reset()                            {}

// dial connects to the broker; tlsConfig is nil without TLS. It ends with ctx,
// but for WebSockets, whose dialer knows only the timeout.
func dial(ctx context.Context, broker *url.URL, tlsConfig *tls.Config) (net.Conn, error) {
	switch {
	case broker.Scheme == "ws" || broker.Scheme == "wss":
		return paho.NewWebsocket(broker.String(), tlsConfig, connectTimeout, nil, nil)
	case tlsConfig != nil:
		return (&tls.Dialer{Config: tlsConfig}).DialContext(ctx, "tcp", broker.Host)
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", broker.Host)
}

// boundedConn refuses packets that are too long. The library sets memory aside
// for a packet as soon as it knows the length, which may be 256 MB: enough to
// take a small machine down. So the length is read along as it arrives, and
// the connection fails before the library has all of it.
type boundedConn struct {
	net.Conn
	limit int

	body   int  // bytes left of the packet that is passing
	inSize bool // in the bytes that tell its length
	size   int
	shift  uint
}

func (c *boundedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if bad := c.follow(p[:n]); bad != nil {
		return 0, bad
	}
	return n, err
}

// follow keeps track of where packets begin, by section 2.2 of MQTT 3.1.1: one
// byte of type and flags, then the length, seven bits a byte, low ones first.
func (c *boundedConn) follow(p []byte) error {
	for len(p) > 0 {
		switch {
		case c.body > 0:
			n := min(c.body, len(p))
			c.body -= n
			p = p[n:]
		case !c.inSize:
			c.inSize, c.size, c.shift = true, 0, 0
			p = p[1:]
		default:
			c.size |= int(p[0]&0x7f) << c.shift
			c.shift += 7
			last := p[0]&0x80 == 0
			p = p[1:]
			if c.size > c.limit {
				return fmt.Errorf("a message is longer than max_message_bytes (%d)", c.limit)
			}
			if !last && c.shift > 21 {
				return errors.New("what it sends is not MQTT")
			}
			if last {
				c.inSize, c.body = false, c.size
			}
		}
	}
	return nil
}
