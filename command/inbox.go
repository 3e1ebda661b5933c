package command

import (
	"slices"
	"sync"
)

// Bounds of what waits for the worker.
const (
	maxMessages   = 256
	maxInboxBytes = 4 << 20
)

// inbox holds messages until the worker takes them. Putting one in never
// blocks: the MQTT library waits for it.
type inbox struct {
	wake chan struct{} // there is something

	mu       sync.Mutex
	messages []message
	bytes    int
}

func newInbox() inbox { return inbox{wake: make(chan struct{}, 1)} }

// put adds a message and returns those that had to go for it: the oldest, but
// what was retained last, because it says what is to be now.
func (b *inbox) put(m message) (dropped []message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.messages = append(b.messages, m)
	b.bytes += len(m.payload)
	for len(b.messages) > maxMessages || b.bytes > maxInboxBytes {
		i := max(0, slices.IndexFunc(b.messages, func(m message) bool { return !m.retained }))
		dropped = append(dropped, b.messages[i])
		b.bytes -= len(b.messages[i].payload)
		b.messages = slices.Delete(b.messages, i, i+1)
	}
	select {
	case b.wake <- struct{}{}:
	default:
	}
	return dropped
}

// take removes the oldest message.
func (b *inbox) take() (message, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.messages) == 0 {
		b.messages = nil
		return message{}, false
	}
	m := b.messages[0]
	b.messages[0] = message{} // the array outlives it
	b.messages = b.messages[1:]
	b.bytes -= len(m.payload)
	return m, true
}
