package system

import (
	"context"
	"errors"
	"math"
	"path"
	"time"

	"github.com/shirou/gopsutil/v3/cpu"
	"github.com/shirou/gopsutil/v3/disk"
	"github.com/shirou/gopsutil/v3/host"
	"github.com/shirou/gopsutil/v3/load"
	"github.com/shirou/gopsutil/v3/mem"
	"github.com/shirou/gopsutil/v3/net"
	"github.com/shirou/gopsutil/v3/process"

	"github.com/pyvorin/pyvorin-edge/sensors/sysfs"
)

var errNotThere = errors.New("the kernel does not tell")

// cpuTimes are seconds since boot.
type cpuTimes struct{ busy, idle float64 }

func (r *reading) cpu(ctx context.Context) {
	if !r.wants("cpu_percent") {
		return
	}
	all, err := cpu.TimesWithContext(ctx, false)
	if err == nil && len(all) == 0 {
		err = errNotThere
	}
	if err != nil {
		r.fail("cpu_percent", err)
		return
	}
	t := all[0]
	now := cpuTimes{
		// Guests are part of user and nice.
		busy: t.User + t.Nice + t.System + t.Irq + t.Softirq + t.Steal,
		idle: t.Idle + t.Iowait,
	}
	before := r.lastCPU
	r.lastCPU = now
	busy, idle := now.busy-before.busy, max(0, now.idle-before.idle) // iowait may decrease
	if before != (cpuTimes{}) && busy >= 0 && busy+idle > 0 {
		r.give("cpu_percent", rounded(100*busy/(busy+idle)))
	}
}

func (r *reading) memory(ctx context.Context) {
	if !r.wants("memory_percent", "memory_used_bytes") {
		return
	}
	m, err := mem.VirtualMemoryWithContext(ctx)
	if err == nil && m.Total == 0 {
		err = errNotThere
	}
	if err != nil {
		r.fail("memory", err)
		return
	}
	// What programs could still have counts as free: caches are not in use.
	used := m.Total - min(m.Available, m.Total)
	r.give("memory_percent", rounded(100*float64(used)/float64(m.Total)))
	r.give("memory_used_bytes", float64(used))
}

func (r *reading) disk(ctx context.Context) {
	if !r.wants("disk_percent") {
		return
	}
	u, err := disk.UsageWithContext(ctx, r.o.Path)
	if err != nil {
		r.fail("disk_percent of "+r.o.Path, err)
		return
	}
	r.give("disk_percent", rounded(u.UsedPercent))
}

func (r *reading) load(ctx context.Context) {
	if !r.wants("load1", "load5", "load15") {
		return
	}
	l, err := load.AvgWithContext(ctx)
	if err != nil {
		r.fail("load", err)
		return
	}
	r.give("load1", l.Load1)
	r.give("load5", l.Load5)
	r.give("load15", l.Load15)
}

// traffic is what an interface has received and sent, in bytes.
type traffic struct{ rx, tx uint64 }

func (r *reading) traffic(ctx context.Context) {
	if !r.wants("net_rx_bytes_per_second", "net_tx_bytes_per_second") {
		return
	}
	all, err := net.IOCountersWithContext(ctx, true)
	if err != nil {
		r.fail("network", err)
		return
	}
	now, before := time.Now(), r.lastTraffic
	elapsed := now.Sub(r.lastAt).Seconds()
	r.lastTraffic, r.lastAt = make(map[string]traffic, len(all)), now
	var rx, tx uint64
	counted := false
	for _, i := range all {
		if !r.counts(i.Name) {
			continue
		}
		t := traffic{rx: i.BytesRecv, tx: i.BytesSent}
		r.lastTraffic[i.Name] = t
		// An interface that is new, or began again, tells nothing yet.
		if b, ok := before[i.Name]; ok && t.rx >= b.rx && t.tx >= b.tx {
			rx, tx, counted = rx+t.rx-b.rx, tx+t.tx-b.tx, true
		}
	}
	if counted && elapsed > 0 {
		r.give("net_rx_bytes_per_second", math.Round(float64(rx)/elapsed))
		r.give("net_tx_bytes_per_second", math.Round(float64(tx)/elapsed))
	}
}

func (s *sensor) counts(name string) bool {
	for _, pattern := range s.o.Interfaces {
		if ok, _ := path.Match(pattern, name); ok {
			return true
		}
	}
	return len(s.o.Interfaces) == 0 && name != "lo"
}

func (r *reading) temperature() {
	if !r.wants("temperature_celsius") {
		return
	}
	// Not gopsutil's: that waits for ever for a driver that has no value now.
	hottest := math.Inf(-1)
	for _, celsius := range sysfs.Temperatures(r.root) {
		if plausible(celsius) {
			hottest = max(hottest, celsius)
		}
	}
	if !math.IsInf(hottest, -1) {
		r.give("temperature_celsius", rounded(hottest))
	}
}

// plausible rules out what chips give for a zone that is switched off.
func plausible(celsius float64) bool { return celsius > -60 && celsius < 200 }

func (r *reading) uptime(ctx context.Context) {
	if !r.wants("uptime_seconds") {
		return
	}
	up, err := host.UptimeWithContext(ctx)
	if err != nil {
		r.fail("uptime_seconds", err)
		return
	}
	r.give("uptime_seconds", float64(up))
}

func (r *reading) rss(ctx context.Context) {
	if !r.wants("rss_bytes") {
		return
	}
	own := process.Process{Pid: r.pid}
	m, err := own.MemoryInfoWithContext(ctx)
	if err != nil {
		r.fail("rss_bytes", err)
		return
	}
	r.give("rss_bytes", float64(m.RSS))
}

// rounded keeps two decimals: more would be noise that costs bytes.
func rounded(v float64) float64 { return math.Round(v*100) / 100 }
