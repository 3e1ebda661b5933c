package health

import (
	"bytes"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/pyvorin/pyvorin-edge/internal/buildinfo"
	"github.com/pyvorin/pyvorin-edge/internal/promtext"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// metricsHandler answers GET /metrics from the document, so that a dashboard
// and /health never disagree.
func (s *Server) metricsHandler() http.Handler {
	var one sync.Mutex // all sensors' values are not copied for every connection at once
	write := func(b *bytes.Buffer) {
		one.Lock()
		defer one.Unlock()
		s.writeMetrics(promtext.NewWriter(b))
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := buffers.Get().(*bytes.Buffer)
		defer buffers.Put(b)
		b.Reset()
		write(b)
		w.Header().Set("Content-Type", promtext.ContentType)
		w.Header().Set("Vary", "Accept-Encoding")
		if acceptsGzip(r.Header) {
			w.Header().Set("Content-Encoding", "gzip")
			z, _ := gzip.NewWriterLevel(w, gzip.StatelessCompression) // a quarter of the size, without memory of its own
			_, _ = z.Write(b.Bytes())                                 // whoever hung up does not want it
			_ = z.Close()
			return
		}
		_, _ = w.Write(b.Bytes())
	})
}

// acceptsGzip reports whether the client named gzip and did not refuse it.
func acceptsGzip(h http.Header) bool {
	for coding := range strings.SplitSeq(strings.Join(h.Values("Accept-Encoding"), ","), ",") {
		name, q, weighed := strings.Cut(coding, ";")
		if !strings.EqualFold(strings.TrimSpace(name), "gzip") {
			continue
		}
		weight, err := strconv.ParseFloat(strings.TrimPrefix(strings.TrimSpace(q), "q="), 64)
		return !weighed || err == nil && weight > 0
	}
	return false
}

const metricPrefix = "pyvorin_edge_"

// plainMetric is one without labels that comes from the document.
type plainMetric struct {
	kind       promtext.Kind
	name, help string
	of         func(h *wire.Health) (v float64, known bool)
}

var plainMetrics = []plainMetric{
	gauge("cpu_usage_ratio", "How busy the processors are, 0 to 1.", func(h *wire.Health) (float64, bool) { return ratio(h.Metrics.CPUPercent) }),
	gauge("memory_usage_ratio", "Used memory of the machine, 0 to 1.", func(h *wire.Health) (float64, bool) { return ratio(h.Metrics.MemoryPercent) }),
	gauge("disk_usage_ratio", "Used space of the base dir's file system, 0 to 1.", func(h *wire.Health) (float64, bool) { return ratio(h.Metrics.DiskPercent) }),
	gauge("temperature_celsius", "Hottest temperature of the machine.", func(h *wire.Health) (float64, bool) { return value(h.Metrics.TemperatureCelsius) }),
	gauge("load1", "Load average of the last minute.", func(h *wire.Health) (float64, bool) { return value(h.Metrics.Load1) }),
	gauge("resident_memory_bytes", "Resident memory of the agent.", func(h *wire.Health) (float64, bool) { return float64(h.Metrics.RSSBytes), true }),
	gauge("error_ratio", "Failed share of polls, deliveries and probes in the last 5 minutes.", func(h *wire.Health) (float64, bool) { return h.Metrics.ErrorRatePercent / 100, true }),
	gauge("latency_p95_seconds", "95th percentile of the duration of the same.", func(h *wire.Health) (float64, bool) { return h.Metrics.LatencyP95Ms / 1000, true }),

	gauge("sensors_configured", "Sensors in the config.", func(h *wire.Health) (float64, bool) { return float64(h.Sensors.Configured), true }),
	gauge("sensors_failing", "Sensors whose last poll failed.", func(h *wire.Health) (float64, bool) { return float64(len(h.Sensors.Failing)), true }),
	counter("readings_total", "Readings taken.", func(h *wire.Health) (float64, bool) { return float64(h.Sensors.ReadingsTotal), true }),
	counter("readings_dropped_total", "Readings dropped by a bound before the queue.", func(h *wire.Health) (float64, bool) { return float64(h.Sensors.DroppedTotal), true }),
	counter("polls_skipped_total", "Polls not started because the sensor was still busy.", func(h *wire.Health) (float64, bool) { return float64(h.Sensors.SkippedTotal), true }),

	gauge("queue_depth", "Readings that wait for delivery.", func(h *wire.Health) (float64, bool) { return float64(h.Cloud.QueueDepth), true }),
	gauge("queue_bytes", "Stored size of those readings.", func(h *wire.Health) (float64, bool) { return float64(h.Cloud.QueueBytes), true }),
	counter("queue_evicted_total", "Readings evicted by the queue's bounds.", func(h *wire.Health) (float64, bool) { return float64(h.Cloud.EvictedTotal), true }),
	gauge("dead_letters", "Refused readings kept for inspection.", func(h *wire.Health) (float64, bool) { return float64(h.Cloud.DeadLetters), true }),
	gauge("cloud_sent_today", "Readings acknowledged since local midnight.", func(h *wire.Health) (float64, bool) { return float64(h.Cloud.MessagesSentToday), true }),
	counter("cloud_retries_total", "Deliveries tried again.", func(h *wire.Health) (float64, bool) { return float64(h.Cloud.TotalRetries), true }),
	gauge("cloud_paused", "1 while delivery stands still until someone acts.", func(h *wire.Health) (float64, bool) { return truth(h.Cloud.Paused != ""), true }),

	counter("privacy_dropped_total", "Readings dropped by a privacy rule.", func(h *wire.Health) (float64, bool) { return float64(h.Privacy.DroppedTotal), true }),
	counter("privacy_transformed_total", "Readings changed by a privacy rule.", func(h *wire.Health) (float64, bool) { return float64(h.Privacy.TransformedTotal), true }),
	counter("privacy_errors_total", "Readings dropped because a privacy rule could not be applied.", func(h *wire.Health) (float64, bool) { return float64(h.Privacy.ErrorsTotal), true }),

	gauge("fleet_connected", "1 while the device is connected to its controller.", func(h *wire.Health) (float64, bool) { return truth(h.Fleet.Connected), true }),
	gauge("clock_synchronized", "1 while the kernel says that the clock is synchronized.", func(h *wire.Health) (float64, bool) { return truth(h.Agent.ClockSynchronized), true }),
}

func gauge(name, help string, of func(*wire.Health) (float64, bool)) plainMetric {
	return plainMetric{promtext.Gauge, metricPrefix + name, help, of}
}

func counter(name, help string, of func(*wire.Health) (float64, bool)) plainMetric {
	return plainMetric{promtext.Counter, metricPrefix + name, help, of}
}

func value(p *float64) (float64, bool) {
	if p == nil {
		return 0, false
	}
	return *p, true
}

func ratio(percent *float64) (float64, bool) {
	v, known := value(percent)
	return v / 100, known
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// writeMetrics writes the document as metrics, and those of the Go runtime.
func (s *Server) writeMetrics(w *promtext.Writer) {
	writeRuntimeMetrics(w)

	h, now := s.Document(), time.Now()
	begin := func(kind promtext.Kind, name, help string) { w.Metric(kind, metricPrefix+name, help) }
	begin(promtext.Gauge, "build_info", "Always 1; the labels say which build this is.")
	build := buildinfo.Get()
	w.Value(1, "commit", build.Commit, "goversion", build.Go, "version", build.Version)
	begin(promtext.Gauge, "uptime_seconds", "Time since the agent started.")
	w.Value(float64(h.UptimeSeconds))
	begin(promtext.Gauge, "status", "1 for the verdict that holds, 0 for the others.")
	for _, status := range []wire.Status{wire.Healthy, wire.Degraded, wire.Unhealthy} {
		w.Value(truth(h.Status == status), "status", string(status))
	}
	begin(promtext.Gauge, "check_state", "0 ok, 1 warning, 2 critical.")
	for _, name := range slices.Sorted(maps.Keys(h.Checks)) {
		severity := map[wire.CheckState]float64{wire.CheckOK: 0, wire.CheckWarning: 1, wire.CheckCritical: 2}[h.Checks[name]]
		w.Value(severity, "check", name)
	}
	begin(promtext.Gauge, "sensor_alerts", "Values that are beyond a limit of their sensor, by level.")
	w.Value(float64(h.Sensors.AlertsWarning), "level", string(wire.AlertWarning))
	w.Value(float64(h.Sensors.AlertsCritical), "level", string(wire.AlertCritical))
	for _, m := range plainMetrics {
		if v, known := m.of(&h); known {
			w.Metric(m.kind, m.name, m.help)
			w.Value(v)
		}
	}
	begin(promtext.Gauge, "queue_oldest_age_seconds", "Age of the oldest reading that waits for delivery; 0 when none does.")
	oldest := 0.0
	if t := h.Cloud.OldestItemTimestamp; t != nil {
		oldest = max(now.Sub(*t).Seconds(), 0)
	}
	w.Value(oldest)
	begin(promtext.Counter, "http_denied_total", "Requests refused for want of a right.")
	w.Value(float64(s.denied.Load()))

	readings, omitted := s.o.Live.Snapshot()
	begin(promtext.Counter, "live_omitted_total", "Readings not shown here and on the page because there are too many sensors.")
	w.Value(float64(omitted))
	begin(promtext.Gauge, "sensor_age_seconds", "Age of a sensor's latest reading, whatever its quality.")
	for i := range readings {
		w.Value(max(now.Sub(readings[i].Timestamp).Seconds(), 0), "sensor", readings[i].Sensor)
	}
	begin(promtext.Gauge, "sensor_value", "Latest good or uncertain value of a sensor, after the privacy rules.")
	for i := range readings {
		if v, ok := readings[i].number(); ok {
			w.Value(v, "sensor", readings[i].Sensor, "type", readings[i].Type, "unit", readings[i].Unit)
		}
	}
}
