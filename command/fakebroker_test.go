package command

import (
	"net"
	"sync"
	"testing"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// fakeBroker does what no real broker would.
type fakeBroker struct {
	addr string

	// answer replies to a packet, after CONNECT; nil packets are not sent. False
	// ends the connection.
	answer func(c net.Conn, p packets.ControlPacket) bool

	mu          sync.Mutex
	connections int
	received    []packets.PublishPacket
}

func startFake(t testing.TB, answer func(c net.Conn, p packets.ControlPacket) bool) *fakeBroker {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &fakeBroker{addr: ln.Addr().String(), answer: answer}
	var conns sync.WaitGroup
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				b.serve(c)
			})
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-ended
		conns.Wait() // the listener under test has hung up by now
	})
	return b
}

func (b *fakeBroker) serve(c net.Conn) {
	b.mu.Lock()
	b.connections++
	b.mu.Unlock()
	for {
		p, err := packets.ReadPacket(c)
		if err != nil {
			return
		}
		if m, ok := p.(*packets.PublishPacket); ok {
			b.mu.Lock()
			b.received = append(b.received, *m)
			b.mu.Unlock()
		}
		if !b.answer(c, p) {
			return
		}
	}
}

// publishes returns how often something was published on a topic.
func (b *fakeBroker) publishes(topic string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range b.received {
		if m.TopicName == topic {
			n++
		}
	}
	return n
}

func (b *fakeBroker) accepted() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.connections
}

// polite answers as a broker should, but never acknowledges what is published.
func polite(c net.Conn, p packets.ControlPacket) bool {
	var reply packets.ControlPacket
	switch p := p.(type) {
	case *packets.ConnectPacket:
		reply = packets.NewControlPacket(packets.Connack)
	case *packets.SubscribePacket:
		granted := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
		granted.MessageID, granted.ReturnCodes = p.MessageID, make([]byte, len(p.Topics))
		reply = granted
	case *packets.PingreqPacket:
		reply = packets.NewControlPacket(packets.Pingresp)
	default:
		return true
	}
	return reply.Write(c) == nil
}

// deliver sends a message to the device.
func deliver(c net.Conn, topic string, payload []byte, retained bool) bool {
	m := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	m.TopicName, m.Payload, m.Retain = topic, payload, retained
	return m.Write(c) == nil
}
