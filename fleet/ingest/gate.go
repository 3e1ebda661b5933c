package ingest

import "sync"

// gate bounds how many are inside, all together and of one client.
type gate struct {
	total, each int

	mu     sync.Mutex
	inside int
	by     map[string]int
}

func newGate(total, each int) *gate { return &gate{total: total, each: each, by: map[string]int{}} }

// enter returns the function to leave with, or nil when there is no room.
func (g *gate) enter(client string) (leave func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inside >= g.total || g.by[client] >= g.each {
		return nil
	}
	g.inside++
	g.by[client]++
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.inside--
		if g.by[client]--; g.by[client] == 0 {
			delete(g.by, client)
		}
	}
}
