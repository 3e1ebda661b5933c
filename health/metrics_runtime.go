package health

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/pyvorin/pyvorin-edge/internal/promtext"
)

// writeRuntimeMetrics writes what Prometheus' own Go client says of the runtime
// of a program, under the same names and in the same words, because common
// dashboards ask for them.
func writeRuntimeMetrics(w *promtext.Writer) {
	plain := func(name, help string, v float64) {
		w.Metric(promtext.Gauge, name, help)
		w.Value(v)
	}
	plain("go_goroutines", "Number of goroutines that currently exist.", float64(runtime.NumGoroutine()))
	threads, _ := runtime.ThreadCreateProfile(nil)
	plain("go_threads", "Number of OS threads created.", float64(threads))
	w.Metric(promtext.Gauge, "go_info", "Information about the Go environment.")
	w.Value(1, "version", runtime.Version())

	gc := debug.GCStats{PauseQuantiles: make([]time.Duration, 5)}
	debug.ReadGCStats(&gc)
	w.Metric(promtext.Summary, "go_gc_duration_seconds", "A summary of the wall-time pause (stop-the-world) duration in garbage collection cycles.")
	for i, quantile := range []string{"0", "0.25", "0.5", "0.75", "1"} {
		w.Value(gc.PauseQuantiles[i].Seconds(), "quantile", quantile)
	}
	w.Part("_sum", gc.PauseTotal.Seconds())
	w.Part("_count", float64(gc.NumGC))
	plain("go_memstats_last_gc_time_seconds", "Number of seconds since 1970 of last garbage collection.", float64(gc.LastGC.UnixNano())/1e9)

	settings := []metrics.Sample{{Name: "/gc/gogc:percent"}, {Name: "/gc/gomemlimit:bytes"}, {Name: "/sched/gomaxprocs:threads"}}
	metrics.Read(settings)
	for i, m := range settingMetrics {
		if v := settings[i].Value; v.Kind() == metrics.KindUint64 { // else this runtime no longer has it
			plain(m.name, m.help, float64(v.Uint64()))
		}
	}

	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	for _, m := range memoryMetrics {
		w.Metric(m.kind, m.name, m.help)
		w.Value(float64(m.of(&mem)))
	}
}

// settingMetrics are those of the runtime's settings.
var settingMetrics = []struct{ name, help string }{
	{"go_gc_gogc_percent", "Heap size target percentage configured by the user, otherwise 100. This value is set by the GOGC environment variable, and the runtime/debug.SetGCPercent function. Sourced from /gc/gogc:percent."},
	{"go_gc_gomemlimit_bytes", "Go runtime memory limit configured by the user, otherwise math.MaxInt64. This value is set by the GOMEMLIMIT environment variable, and the runtime/debug.SetMemoryLimit function. Sourced from /gc/gomemlimit:bytes."},
	{"go_sched_gomaxprocs_threads", "The current runtime.GOMAXPROCS setting, or the number of operating system threads that can execute user-level Go code simultaneously. Sourced from /sched/gomaxprocs:threads."},
}

// memoryMetrics are those of the runtime's memory.
var memoryMetrics = []struct {
	kind       promtext.Kind
	name, help string
	of         func(*runtime.MemStats) uint64
}{
	{promtext.Gauge, "go_memstats_alloc_bytes", "Number of bytes allocated in heap and currently in use. Equals to /memory/classes/heap/objects:bytes.", func(m *runtime.MemStats) uint64 { return m.Alloc }},
	{promtext.Counter, "go_memstats_alloc_bytes_total", "Total number of bytes allocated in heap until now, even if released already. Equals to /gc/heap/allocs:bytes.", func(m *runtime.MemStats) uint64 { return m.TotalAlloc }},
	{promtext.Gauge, "go_memstats_sys_bytes", "Number of bytes obtained from system. Equals to /memory/classes/total:byte.", func(m *runtime.MemStats) uint64 { return m.Sys }},
	{promtext.Counter, "go_memstats_mallocs_total", "Total number of heap objects allocated, both live and gc-ed. Semantically a counter version for go_memstats_heap_objects gauge. Equals to /gc/heap/allocs:objects + /gc/heap/tiny/allocs:objects.", func(m *runtime.MemStats) uint64 { return m.Mallocs }},
	{promtext.Counter, "go_memstats_frees_total", "Total number of heap objects frees. Equals to /gc/heap/frees:objects + /gc/heap/tiny/allocs:objects.", func(m *runtime.MemStats) uint64 { return m.Frees }},
	{promtext.Gauge, "go_memstats_heap_alloc_bytes", "Number of heap bytes allocated and currently in use, same as go_memstats_alloc_bytes. Equals to /memory/classes/heap/objects:bytes.", func(m *runtime.MemStats) uint64 { return m.HeapAlloc }},
	{promtext.Gauge, "go_memstats_heap_sys_bytes", "Number of heap bytes obtained from system. Equals to /memory/classes/heap/objects:bytes + /memory/classes/heap/unused:bytes + /memory/classes/heap/released:bytes + /memory/classes/heap/free:bytes.", func(m *runtime.MemStats) uint64 { return m.HeapSys }},
	{promtext.Gauge, "go_memstats_heap_idle_bytes", "Number of heap bytes waiting to be used. Equals to /memory/classes/heap/released:bytes + /memory/classes/heap/free:bytes.", func(m *runtime.MemStats) uint64 { return m.HeapIdle }},
	{promtext.Gauge, "go_memstats_heap_inuse_bytes", "Number of heap bytes that are in use. Equals to /memory/classes/heap/objects:bytes + /memory/classes/heap/unused:bytes", func(m *runtime.MemStats) uint64 { return m.HeapInuse }},
	{promtext.Gauge, "go_memstats_heap_released_bytes", "Number of heap bytes released to OS. Equals to /memory/classes/heap/released:bytes.", func(m *runtime.MemStats) uint64 { return m.HeapReleased }},
	{promtext.Gauge, "go_memstats_heap_objects", "Number of currently allocated objects. Equals to /gc/heap/objects:objects.", func(m *runtime.MemStats) uint64 { return m.HeapObjects }},
	{promtext.Gauge, "go_memstats_stack_inuse_bytes", "Number of bytes obtained from system for stack allocator in non-CGO environments. Equals to /memory/classes/heap/stacks:bytes.", func(m *runtime.MemStats) uint64 { return m.StackInuse }},
	{promtext.Gauge, "go_memstats_stack_sys_bytes", "Number of bytes obtained from system for stack allocator. Equals to /memory/classes/heap/stacks:bytes + /memory/classes/os-stacks:bytes.", func(m *runtime.MemStats) uint64 { return m.StackSys }},
	{promtext.Gauge, "go_memstats_mspan_inuse_bytes", "Number of bytes in use by mspan structures. Equals to /memory/classes/metadata/mspan/inuse:bytes.", func(m *runtime.MemStats) uint64 { return m.MSpanInuse }},
	{promtext.Gauge, "go_memstats_mspan_sys_bytes", "Number of bytes used for mspan structures obtained from system. Equals to /memory/classes/metadata/mspan/inuse:bytes + /memory/classes/metadata/mspan/free:bytes.", func(m *runtime.MemStats) uint64 { return m.MSpanSys }},
	{promtext.Gauge, "go_memstats_mcache_inuse_bytes", "Number of bytes in use by mcache structures. Equals to /memory/classes/metadata/mcache/inuse:bytes.", func(m *runtime.MemStats) uint64 { return m.MCacheInuse }},
	{promtext.Gauge, "go_memstats_mcache_sys_bytes", "Number of bytes used for mcache structures obtained from system. Equals to /memory/classes/metadata/mcache/inuse:bytes + /memory/classes/metadata/mcache/free:bytes.", func(m *runtime.MemStats) uint64 { return m.MCacheSys }},
	{promtext.Gauge, "go_memstats_buck_hash_sys_bytes", "Number of bytes used by the profiling bucket hash table. Equals to /memory/classes/profiling/buckets:bytes.", func(m *runtime.MemStats) uint64 { return m.BuckHashSys }},
	{promtext.Gauge, "go_memstats_gc_sys_bytes", "Number of bytes used for garbage collection system metadata. Equals to /memory/classes/metadata/other:bytes.", func(m *runtime.MemStats) uint64 { return m.GCSys }},
	{promtext.Gauge, "go_memstats_other_sys_bytes", "Number of bytes used for other system allocations. Equals to /memory/classes/other:bytes.", func(m *runtime.MemStats) uint64 { return m.OtherSys }},
	{promtext.Gauge, "go_memstats_next_gc_bytes", "Number of heap bytes when next garbage collection will take place. Equals to /gc/heap/goal:bytes.", func(m *runtime.MemStats) uint64 { return m.NextGC }},
}
