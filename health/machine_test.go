package health

import (
	"context"
	"testing"
	"time"
)

func newTestMachine(t *testing.T, root, dir string) *machine {
	t.Helper()
	m, err := newMachine(root, dir)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMachineFigures(t *testing.T) {
	m := newTestMachine(t, "/", t.TempDir())
	if got := m.metrics(); got.CPUPercent != nil || got.DiskPercent != nil {
		t.Errorf("figures before the first sample: %+v", got)
	}
	m.first(t.Context())
	got := m.metrics()
	for name, p := range map[string]*float64{"cpu": got.CPUPercent, "memory": got.MemoryPercent, "disk": got.DiskPercent} {
		if p == nil || *p < 0 || *p > 100 || *p != round1(*p) {
			t.Errorf("%s: %v", name, p)
		}
	}
	if got.Load1 == nil || got.RSSBytes < 1<<20 {
		t.Errorf("%+v", got)
	}
}

// TestMachineAbsent hides /proc and /sys, as a sandbox may: what is not known
// is absent and never 0.
func TestMachineAbsent(t *testing.T) {
	m := newTestMachine(t, t.TempDir(), "/no/such/dir")
	m.first(t.Context())
	if got := m.metrics(); got.CPUPercent != nil || got.MemoryPercent != nil || got.DiskPercent != nil || got.TemperatureCelsius != nil {
		t.Errorf("%+v", got)
	}
}

func TestMachineFirstEndsEarly(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	begin := time.Now()
	newTestMachine(t, "/", t.TempDir()).first(ctx)
	if took := time.Since(begin); took > firstCPUSpan {
		t.Errorf("it took %v", took)
	}
}
