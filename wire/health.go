package wire

import "time"

// Status is the verdict on a device as a whole.
type Status string

// The verdicts. Degraded still serves: GET /health answers 200 for it.
const (
	Healthy   Status = "healthy"
	Degraded  Status = "degraded"
	Unhealthy Status = "unhealthy"
)

// CheckState is the outcome of one check.
type CheckState string

// The outcomes of a check.
const (
	CheckOK       CheckState = "ok"
	CheckWarning  CheckState = "warning"
	CheckCritical CheckState = "critical"
)

// AlertLevel says how far the value of a sensor is beyond the limits that its
// config sets.
type AlertLevel string

// The alert levels.
const (
	AlertOK       AlertLevel = "ok"
	AlertWarning  AlertLevel = "warning"
	AlertCritical AlertLevel = "critical"
)

// The metadata fields of a reading that tells its sensor's alert level: the
// level, and the config key of the limit that it comes from.
const (
	MetaAlert      = "alert"
	MetaAlertLimit = "alert_limit"
)

// Health is the document behind GET /health, which is also the heartbeat.
type Health struct {
	Status        Status                `json:"status"`
	Version       string                `json:"version"`
	UptimeSeconds int64                 `json:"uptime_seconds"`
	DeviceID      string                `json:"device_id"`
	Group         string                `json:"group"`
	BootID        string                `json:"boot_id"`
	Agent         AgentHealth           `json:"agent"`
	Metrics       Metrics               `json:"metrics"`
	Sensors       SensorsHealth         `json:"sensors"`
	Cloud         CloudHealth           `json:"cloud"`
	Privacy       PrivacyHealth         `json:"privacy"`
	Fleet         FleetHealth           `json:"fleet"`
	OTA           OTAHealth             `json:"ota"`
	Checks        map[string]CheckState `json:"checks"`
	Warnings      []string              `json:"warnings"`
}

// AgentHealth is the agent's own part of the document.
type AgentHealth struct {
	Running             bool   `json:"running"`
	Slot                string `json:"slot"` // "a", "b", or "" when not run from a slot
	Restarts5m          int    `json:"restarts_5m"`
	ConfigVersion       string `json:"config_version"`
	ConfigHash          string `json:"config_hash"`
	EffectiveConfigHash string `json:"effective_config_hash"`
	ClockSynchronized   bool   `json:"clock_synchronized"`
}

// Metrics are the machine's and the agent's figures. A figure that this
// machine cannot give is absent rather than 0.
type Metrics struct {
	CPUPercent         *float64 `json:"cpu_percent,omitempty"`
	MemoryPercent      *float64 `json:"memory_percent,omitempty"`
	DiskPercent        *float64 `json:"disk_percent,omitempty"`
	TemperatureCelsius *float64 `json:"temperature_celsius,omitempty"`
	Load1              *float64 `json:"load1,omitempty"`
	RSSBytes           int64    `json:"rss_bytes"`
	ErrorRatePercent   float64  `json:"error_rate_percent"` // of polls, deliveries and probes in the last 5 minutes
	LatencyP95Ms       float64  `json:"latency_p95_ms"`     // of the same
}

// SensorsHealth sums up the poller.
type SensorsHealth struct {
	Configured    int        `json:"configured"`
	OK            int        `json:"ok"`
	Failing       []string   `json:"failing"` // names
	ReadingsTotal uint64     `json:"readings_total"`
	LastReadingAt *time.Time `json:"last_reading_at"`
	SkippedTotal  uint64     `json:"skipped_total"` // polls not started because the sensor was still busy
	DroppedTotal  uint64     `json:"dropped_total"` // readings dropped by a bound before the queue

	Alerts         []Alert `json:"alerts"` // the first by level, then by age; the counts are of all
	AlertsWarning  int     `json:"alerts_warning"`
	AlertsCritical int     `json:"alerts_critical"`
}

// Alert is a value that is beyond a limit. It says nothing of how the device
// is, so it changes neither the status nor a check.
type Alert struct {
	Sensor string     `json:"sensor"` // as in readings: with the channel, where there are several
	Level  AlertLevel `json:"level"`  // never AlertOK
	Since  time.Time  `json:"since"`
	Limit  string     `json:"limit"` // the config key, such as crit_above; "" when a privacy rule withheld it
}

// CloudHealth sums up the queue and its delivery.
type CloudHealth struct {
	Enabled             bool       `json:"enabled"`
	QueueDepth          int64      `json:"queue_depth"` // readings
	QueueBytes          int64      `json:"queue_bytes"`
	OldestItemTimestamp *time.Time `json:"oldest_item_timestamp"`
	LastFlushTime       *time.Time `json:"last_flush_time"`
	MessagesSentToday   int64      `json:"messages_sent_today"` // readings acknowledged since local midnight
	TotalRetries        int64      `json:"total_retries"`
	DeadLetters         int64      `json:"dead_letters"`
	EvictedTotal        int64      `json:"evicted_total"`
	Paused              string     `json:"paused,omitempty"` // why delivery stands still until someone acts
	LastError           *string    `json:"last_error"`
}

// PrivacyHealth sums up the privacy filter.
type PrivacyHealth struct {
	Enabled          bool   `json:"enabled"`
	Rules            int    `json:"rules"`
	PolicyHash       string `json:"policy_hash"`
	DroppedTotal     uint64 `json:"dropped_total"`
	TransformedTotal uint64 `json:"transformed_total"`
	ErrorsTotal      uint64 `json:"errors_total"`
}

// FleetHealth is the device's link to its controller.
type FleetHealth struct {
	Connected     bool       `json:"connected"`
	LastCommandAt *time.Time `json:"last_command_at"`
}

// OTAHealth is the state of the device's slots.
type OTAHealth struct {
	State       string  `json:"state"`
	Active      string  `json:"active"`
	Previous    string  `json:"previous"`
	LastOutcome *string `json:"last_outcome"`

	// Of what is ordered and has not ended.
	Target          string   `json:"target,omitempty"`           // version
	ProgressPercent *float64 `json:"progress_percent,omitempty"` // of the download; absent while there is none
	WaitingFor      string   `json:"waiting_for,omitempty"`
	LastError       string   `json:"last_error,omitempty"` // of the last try
}
