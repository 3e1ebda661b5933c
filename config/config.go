// Package config loads what an operator declared: one TOML or JSON file,
// strictly checked before anything acts on it.
//
// A file is parsed into a tree whose nodes know their line and column, the
// tree is hashed (Hash), `${NAME}` references inside string values are replaced
// from the environment, and the result is decoded into Config. Unknown keys,
// wrong types and impossible values are all reported together, each with file,
// line, column, key and the nearest valid key, and with them what only the parts
// built from a config can see (Options.Check); nothing is started from a file
// that has one. Loading reads the file and the files that *_file keys name,
// and writes nothing.
//
// The structs here are plain data: names, defaults and documentation of each
// key. docs/configuration.md is generated from them.
package config

import "time"

// Config is a loaded and checked configuration.
type Config struct {
	Device  Device  `toml:"device" doc:"What this device is called in its fleet."`
	Sensors Sensors `toml:"sensors" doc:"What is read, and how often."`
	Cloud   Cloud   `toml:"cloud" doc:"The durable queue and where its readings are delivered."`
	Privacy Privacy `toml:"privacy" doc:"What may leave this device. See docs/privacy.md."`
	Logging Logging `toml:"logging" doc:"Logs go to standard error; under systemd that is the journal."`
	Health  Health  `toml:"health" doc:"The /health endpoint, its thresholds and probes."`
	OTA     OTA     `toml:"ota" doc:"How updates are fetched and tried; see docs/ota.md."`

	// Source tells where the values came from.
	Source Source `toml:"-"`

	content []byte
}

// Content returns the file as it was parsed. It may hold secrets.
func (c *Config) Content() []byte { return c.content }

// Source is what Parse knows about the file beyond its values.
type Source struct {
	Path          string
	Hash          string     // SHA-256 (hex) of the JCS form of the file as written
	EffectiveHash string     // the same after substitution, secrets as keyed digests
	Overrides     []Override // values taken from the environment
	Warnings      []string   // what is allowed and yet unwise, such as a secret file that all can read
}

// Override names a key whose value came from the environment.
type Override struct {
	Key      string // such as cloud.api_key
	Variable string // such as API_KEY
}

// Device is the [device] section.
type Device struct {
	Group  string            `toml:"group" doc:"The group whose commands and configs this device obeys."`
	Labels map[string]string `toml:"labels" doc:"Free labels by which a fleet selects devices."`
}

// Sensors is the [sensors] section.
type Sensors struct {
	PollIntervalSeconds float64  `toml:"poll_interval_seconds" min:"0.01" doc:"How often a sensor is read that does not say so itself."`
	TimeoutSeconds      float64  `toml:"timeout_seconds" min:"0.01" doc:"How long one read may take before it counts as failed."`
	BufferReadings      int      `toml:"buffer_readings" min:"1" doc:"Readings held in memory while the queue cannot take them; beyond that the oldest are dropped and counted."`
	Devices             []Sensor `toml:"devices" max_items:"1024" doc:"The sensors, each a table with the keys below and those of its ingest_type."`
}

// Sensor is one entry of sensors.devices: the keys every ingest type has.
type Sensor struct {
	Name       string            `toml:"name" required:"true" doc:"Unique name; readings carry it."`
	IngestType string            `toml:"ingest_type" required:"true" doc:"How it is read; see docs/sensors.md."`
	SensorType string            `toml:"sensor_type" doc:"What it measures, such as temperature."`
	Unit       string            `toml:"unit" doc:"Unit of the value after scale and offset."`
	Tags       map[string]string `toml:"tags" doc:"Labels sent with every reading."`
	Enabled    bool              `toml:"enabled" doc:"false keeps the entry and reads nothing."`
	Priority   Priority          `toml:"priority" enum:"low,normal,high" doc:"high is delivered first and evicted last."`

	PollIntervalSeconds float64 `toml:"poll_interval_seconds" min:"0" doc:"Own interval; 0 takes sensors.poll_interval_seconds."`
	TimeoutSeconds      float64 `toml:"timeout_seconds" min:"0" doc:"Own timeout; 0 takes sensors.timeout_seconds, but never more than the interval."`

	Scale        float64   `toml:"scale" doc:"The value is multiplied by this first."`
	Offset       float64   `toml:"offset" doc:"Added after scale."`
	ValidMin     *float64  `toml:"valid_min" doc:"Below this a reading is bad."`
	ValidMax     *float64  `toml:"valid_max" doc:"Above this a reading is bad."`
	RejectValues []float64 `toml:"reject_values" doc:"Values the device gives when it failed, such as 85.0 of a DS18B20; such readings are bad. Compared before scale and offset."`

	Reduce             string  `toml:"reduce" enum:"none,min,max,mean,last,count" doc:"One reading per window instead of one per poll."`
	WindowSeconds      float64 `toml:"window_seconds" min:"0" doc:"Length of that window."`
	Deadband           float64 `toml:"deadband" min:"0" doc:"Readings that differ from the last sent one by no more than this are not sent."`
	MaxSilenceSeconds  float64 `toml:"max_silence_seconds" min:"0" doc:"With deadband or stale_after_seconds, send one at least this often; 0 means 300."`
	StaleAfterSeconds  float64 `toml:"stale_after_seconds" min:"0" doc:"With no good value for this long, a reading of quality stale repeats the last one; 0 is off."`
	FrozenAfterSeconds float64 `toml:"frozen_after_seconds" min:"0" doc:"A number that was read without the least change for this long is bad; 0 is off."`
	MaxReadingsPerPoll int     `toml:"max_readings_per_poll" min:"1" doc:"More samples than this from one read are dropped and counted."`
	MaxTextBytes       int     `toml:"max_text_bytes" min:"1" max:"32768" doc:"Longer text values are cut, and the reading is uncertain."`

	WarnBelow       *float64 `toml:"warn_below" doc:"Below this, after scale and offset, the alert level is warning; see docs/sensors.md."`
	WarnAbove       *float64 `toml:"warn_above" doc:"Above this the alert level is warning."`
	CritBelow       *float64 `toml:"crit_below" doc:"Below this the alert level is critical."`
	CritAbove       *float64 `toml:"crit_above" doc:"Above this the alert level is critical."`
	Hysteresis      float64  `toml:"hysteresis" min:"0" doc:"How far inside a limit the value must be again before its alert ends, in the unit of the value."`
	AlertForSeconds float64  `toml:"alert_for_seconds" min:"0" doc:"How long a limit must be exceeded before its alert is raised; 0 raises it at once."`

	// Options are the keys of the ingest type: the struct that its
	// SensorTypes entry returned, filled in.
	Options any `toml:"-"`
}

// Priority orders readings in the queue.
type Priority string

// The priorities.
const (
	PriorityLow    Priority = "low"
	PriorityNormal Priority = "normal"
	PriorityHigh   Priority = "high"
)

// Cloud is the [cloud] section.
type Cloud struct {
	Enabled              bool    `toml:"enabled" doc:"false keeps readings in the queue and delivers nothing."`
	Endpoint             string  `toml:"endpoint" doc:"URL that receives POSTs of readings; required when enabled."`
	APIKey               string  `toml:"api_key" secret:"true" doc:"Sent as Authorization: Bearer."`
	APIKeyFile           string  `toml:"api_key_file" doc:"File holding the key instead; read again when the server answers 401 or 403."`
	BatchSize            int     `toml:"batch_size" min:"1" max:"10000" doc:"Most readings in one request."`
	FlushIntervalSeconds float64 `toml:"flush_interval_seconds" min:"0.05" doc:"How often queued readings are delivered; a full batch goes at once."`
	Compression          string  `toml:"compression" enum:"zstd,gzip,none" doc:"Of stored and sent readings."`
	Format               string  `toml:"format" enum:"ndjson,json,senml" doc:"Of the request body."`

	CommitIntervalSeconds float64 `toml:"commit_interval_seconds" min:"0" max:"60" doc:"How long readings gather before one commit to flash; 0 commits each call. Longer spares flash; a power cut may take what was not yet committed."`
	MaxQueueBytes         int64   `toml:"max_queue_bytes" min:"65536" doc:"Size of stored readings beyond which the least important, then the oldest, are evicted."`
	MaxAgeSeconds         float64 `toml:"max_age_seconds" min:"0" doc:"Readings older than this are evicted; 0 keeps them."`
	MaxDeadLetters        int     `toml:"max_dead_letters" min:"1" doc:"Refused readings kept for inspection."`
	MaxBandwidthBytes     int64   `toml:"max_bandwidth_bytes_per_second" min:"0" doc:"Cap on delivery; 0 is none. Readings of now go before the backlog."`

	RequestTimeoutSeconds  float64 `toml:"request_timeout_seconds" min:"0.1" doc:"Whole request, answer included."`
	RetryMinSeconds        float64 `toml:"retry_min_seconds" min:"0.01" doc:"First upper bound of the random wait after a failure; doubles each time."`
	RetryMaxSeconds        float64 `toml:"retry_max_seconds" min:"0.01" doc:"Largest upper bound of that wait."`
	ShutdownTimeoutSeconds float64 `toml:"shutdown_timeout_seconds" min:"0" doc:"How long a stop may spend delivering what is queued."`

	CAFile   string `toml:"ca_file" pem:"authorities" doc:"PEM file of the authorities to trust instead of the system's."`
	CertFile string `toml:"cert_file" pem:"certificate" doc:"Client certificate (PEM)."`
	KeyFile  string `toml:"key_file" pem:"key" doc:"Its key (PEM)."`
}

// Privacy is the [privacy] section.
type Privacy struct {
	Enabled bool   `toml:"enabled" doc:"false lets every reading pass; /health warns of it."`
	KeyFile string `toml:"key_file" doc:"The key of hash actions: 64 hex digits; made when absent. Empty means secrets/privacy.key in the base dir."`
	Rules   []Rule `toml:"rules" max_items:"256" doc:"Applied in order; any matching drop wins."`
}

// Rule is one entry of privacy.rules. All the match keys that are given must
// match; patterns ignore case, and * crosses /.
type Rule struct {
	SensorPattern string `toml:"sensor_pattern" doc:"Glob on the sensor's name or on the name of one of its metadata fields."`
	SensorType    string `toml:"sensor_type" doc:"Glob on sensor_type."`
	IngestType    string `toml:"ingest_type" doc:"Glob on ingest_type."`
	Tag           string `toml:"tag" doc:"Glob on key=value of any tag, such as room=* or *=cellar."`
	Field         string `toml:"field" doc:"Glob on metadata fields: the action applies to those instead of the value."`

	Action string `toml:"action" required:"true" enum:"drop,drop_field,redact,hash,mask,truncate,round,aggregate,encrypt" doc:"What to do; see docs/privacy.md."`

	Replacement   string  `toml:"replacement" doc:"redact: the constant; default [redacted]."`
	KeepLast      int     `toml:"keep_last" min:"0" max:"64" doc:"mask: characters left readable at the end."`
	Decimals      *int    `toml:"decimals" min:"0" max:"6" doc:"truncate: decimals kept of a coordinate."`
	Step          float64 `toml:"step" min:"0" doc:"round: the step."`
	WindowMinutes float64 `toml:"window_minutes" min:"0" doc:"aggregate: the window."`
	Statistic     string  `toml:"statistic" enum:"mean,min,max,count" doc:"aggregate: what is sent of a window."`
	Recipient     string  `toml:"recipient" doc:"encrypt: X25519 public key, 64 hex digits."`
}

// Logging is the [logging] section.
type Logging struct {
	Level  string `toml:"level" enum:"DEBUG,INFO,WARN,ERROR" doc:"Least severe level that is logged."`
	Format string `toml:"format" enum:"json,console" doc:"json for machines, console for people."`
}

// Health is the [health] section.
type Health struct {
	Enabled        bool       `toml:"enabled" doc:"Serve on the network; the unix socket is always served."`
	Address        string     `toml:"address" doc:"IP address or host name to listen on, without a port; empty means all."`
	Port           int        `toml:"port" min:"0" max:"65535" doc:"Port to listen on; 0 takes any free one."`
	AdminToken     string     `toml:"admin_token" secret:"true" doc:"Bearer token for POST /config/reload, and for the status page and /api from other machines."`
	AdminTokenFile string     `toml:"admin_token_file" doc:"File holding the token instead."`
	Thresholds     Thresholds `toml:"thresholds" doc:"Where checks turn to warning and critical."`
	Probes         []Probe    `toml:"probes" max_items:"64" doc:"Checks of other applications on this device."`
}

// Thresholds is the [health.thresholds] section. A critical check makes the
// device unhealthy, a warning degrades it; 0 turns a threshold off.
type Thresholds struct {
	DiskWarningPercent         float64 `toml:"disk_warning_percent" min:"0" max:"100" doc:"Used space of the base dir's file system."`
	DiskCriticalPercent        float64 `toml:"disk_critical_percent" min:"0" max:"100" doc:"The same, critical."`
	MemoryWarningPercent       float64 `toml:"memory_warning_percent" min:"0" max:"100" doc:"Used memory of the machine."`
	MemoryCriticalPercent      float64 `toml:"memory_critical_percent" min:"0" max:"100" doc:"The same, critical."`
	TemperatureWarningCelsius  float64 `toml:"temperature_warning_celsius" min:"0" doc:"Hottest thermal zone."`
	TemperatureCriticalCelsius float64 `toml:"temperature_critical_celsius" min:"0" doc:"The same, critical."`
	QueueWarningPercent        float64 `toml:"queue_warning_percent" min:"0" max:"100" doc:"Stored bytes of max_queue_bytes."`
	CloudWarningSeconds        float64 `toml:"cloud_warning_seconds" min:"0" doc:"How long deliveries may fail before the cloud check warns. It never turns critical: offline is not failed."`
	SensorsCriticalPercent     float64 `toml:"sensors_critical_percent" min:"0" max:"100" doc:"Share of sensors that must fail for the check to be critical; any failing one warns."`
}

// Probe is one entry of health.probes.
type Probe struct {
	Name            string   `toml:"name" required:"true" doc:"Name of the check it adds, such as inference_engine."`
	Type            string   `toml:"type" required:"true" enum:"http,tcp,exec,systemd,file_age" doc:"What is probed."`
	Target          string   `toml:"target" doc:"URL, host:port, unit or path."`
	Command         []string `toml:"command" doc:"exec: program and arguments, no shell."`
	ExpectStatus    int      `toml:"expect_status" doc:"http: the status that is ok; 0 means any 2xx."`
	ExpectBody      string   `toml:"expect_body" doc:"http: text that the answer must contain."`
	MaxAgeSeconds   float64  `toml:"max_age_seconds" min:"0" doc:"file_age: older than this fails."`
	IntervalSeconds float64  `toml:"interval_seconds" min:"0.1" doc:"How often it is probed."`
	TimeoutSeconds  float64  `toml:"timeout_seconds" min:"0.01" doc:"How long one probe may take."`
	Failures        int      `toml:"failures" min:"1" doc:"Failures in a row before the check turns."`
	Severity        string   `toml:"severity" enum:"warning,critical" doc:"What the check turns to."`
}

// Default returns the configuration of an empty file.
func Default() Config {
	return Config{
		Device:  Device{Group: "default"},
		Sensors: Sensors{PollIntervalSeconds: 5, TimeoutSeconds: 5, BufferReadings: 10000},
		Cloud: Cloud{
			Enabled: false, BatchSize: 100, FlushIntervalSeconds: 60, Compression: "zstd", Format: "ndjson",
			CommitIntervalSeconds: 1, MaxQueueBytes: 256 << 20, MaxDeadLetters: 1000,
			RequestTimeoutSeconds: 30, RetryMinSeconds: 1, RetryMaxSeconds: 300, ShutdownTimeoutSeconds: 5,
		},
		Privacy: Privacy{Enabled: true},
		Logging: Logging{Level: "INFO", Format: "json"},
		Health: Health{
			Enabled: true, Port: 8080,
			Thresholds: Thresholds{
				DiskWarningPercent: 80, DiskCriticalPercent: 97,
				MemoryWarningPercent: 90, MemoryCriticalPercent: 98,
				TemperatureWarningCelsius: 80, TemperatureCriticalCelsius: 95,
				QueueWarningPercent: 80, CloudWarningSeconds: 900, SensorsCriticalPercent: 100,
			},
		},
		OTA: OTA{Enabled: true, Delta: true, ReserveBytes: 64 << 20, MinHealthySeconds: 60, DeadlineSeconds: 300},
	}
}

// SetDefaults fills in what a sensor's table leaves out.
func (s *Sensor) SetDefaults() {
	*s = Sensor{Enabled: true, Priority: PriorityNormal, Scale: 1, Reduce: "none", MaxReadingsPerPoll: 1000, MaxTextBytes: 4096}
}

// SetDefaults fills in what a rule's table leaves out.
func (r *Rule) SetDefaults() { *r = Rule{Replacement: "[redacted]", Statistic: "mean"} }

// SetDefaults fills in what a probe's table leaves out.
func (p *Probe) SetDefaults() {
	*p = Probe{IntervalSeconds: 30, TimeoutSeconds: 5, Failures: 3, Severity: "warning"}
}

// Seconds turns a *_seconds value into a Duration.
func Seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
