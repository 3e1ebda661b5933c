package health

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/pyvorin/pyvorin-edge/internal/buildinfo"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// metricsHandler answers GET /metrics from the document, so that a dashboard
// and /health never disagree. The registry is the Server's own.
func (s *Server) metricsHandler() http.Handler {
	return promhttp.HandlerFor(s.registry(), promhttp.HandlerOpts{
		ErrorLog:            debugPrinter{s},
		ErrorHandling:       promhttp.HTTPErrorOnError,
		MaxRequestsInFlight: 4,
	})
}

func (s *Server) registry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), documentCollector{s})
	return r
}

// debugPrinter is promhttp's idea of a logger.
type debugPrinter struct{ s *Server }

func (p debugPrinter) Println(v ...any) {
	p.s.o.Log.Error().Interface("error", v).Msg("metrics not collected")
}

// described makes the description of one metric.
func described(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("pyvorin_edge_"+name, help, labels, nil)
}

var (
	descBuild       = described("build_info", "Always 1; the labels say which build this is.", "version", "commit", "goversion")
	descUptime      = described("uptime_seconds", "Time since the agent started.")
	descStatus      = described("status", "1 for the verdict that holds, 0 for the others.", "status")
	descCheck       = described("check_state", "0 ok, 1 warning, 2 critical.", "check")
	descSensorValue = described("sensor_value", "Latest good or uncertain value of a sensor, after the privacy rules.", "sensor", "type", "unit")
	descOldest      = described("queue_oldest_age_seconds", "Age of the oldest reading that waits for delivery; 0 when none does.")
	descDenied      = described("http_denied_total", "Requests refused for want of a right.")
	descOmitted     = described("live_omitted_total", "Readings not shown here and on the page because there are too many sensors.")
	descSensorAge   = described("sensor_age_seconds", "Age of a sensor's latest reading, whatever its quality.", "sensor")
)

// plainMetric is one without labels that comes from the document.
type plainMetric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	of   func(h *wire.Health) (v float64, known bool)
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
	return plainMetric{described(name, help), prometheus.GaugeValue, of}
}

func counter(name, help string, of func(*wire.Health) (float64, bool)) plainMetric {
	return plainMetric{described(name, help), prometheus.CounterValue, of}
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

// documentCollector makes metrics of one document per scrape.
type documentCollector struct{ s *Server }

// Describe implements prometheus.Collector.
func (c documentCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descBuild, descUptime, descStatus, descCheck, descSensorValue, descSensorAge, descOldest, descDenied, descOmitted} {
		ch <- d
	}
	for _, f := range plainMetrics {
		ch <- f.desc
	}
}

// Collect implements prometheus.Collector.
func (c documentCollector) Collect(ch chan<- prometheus.Metric) {
	emit := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	h, now := c.s.Document(), time.Now()
	build := buildinfo.Get()
	emit(descBuild, prometheus.GaugeValue, 1, build.Version, build.Commit, build.Go)
	emit(descUptime, prometheus.GaugeValue, float64(h.UptimeSeconds))
	for _, status := range []wire.Status{wire.Healthy, wire.Degraded, wire.Unhealthy} {
		emit(descStatus, prometheus.GaugeValue, truth(h.Status == status), string(status))
	}
	for name, state := range h.Checks {
		severity := map[wire.CheckState]float64{wire.CheckOK: 0, wire.CheckWarning: 1, wire.CheckCritical: 2}[state]
		emit(descCheck, prometheus.GaugeValue, severity, name)
	}
	for _, f := range plainMetrics {
		if v, known := f.of(&h); known {
			emit(f.desc, f.kind, v)
		}
	}
	oldest := 0.0
	if t := h.Cloud.OldestItemTimestamp; t != nil {
		oldest = max(now.Sub(*t).Seconds(), 0)
	}
	emit(descOldest, prometheus.GaugeValue, oldest)
	emit(descDenied, prometheus.CounterValue, float64(c.s.denied.Load()))

	readings, omitted := c.s.o.Live.Snapshot()
	emit(descOmitted, prometheus.CounterValue, float64(omitted))
	for i := range readings {
		r := &readings[i]
		emit(descSensorAge, prometheus.GaugeValue, max(now.Sub(r.Timestamp).Seconds(), 0), r.Sensor)
		if v, ok := r.number(); ok {
			emit(descSensorValue, prometheus.GaugeValue, v, r.Sensor, r.Type, r.Unit)
		}
	}
}
