package agent

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/health"
)

func TestAQueueThatDoesNotOpenIsAFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config.Default()
		g := &generation{cfg: &cfg}
		g.setQueue(nil)
		var f health.Facts
		if g.cloudFacts(&f); !f.QueueOpening || f.QueueFault != "" {
			t.Errorf("at the start: opening %v, fault %q", f.QueueOpening, f.QueueFault)
		}
		time.Sleep(openPatience)
		f = health.Facts{}
		if g.cloudFacts(&f); f.QueueOpening || f.QueueFault == "" {
			t.Errorf("after %s: opening %v, fault %q", openPatience, f.QueueOpening, f.QueueFault)
		}
	})
}
