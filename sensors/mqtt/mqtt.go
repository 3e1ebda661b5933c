// Package mqtt is the ingest type "mqtt": it subscribes to topics of a broker,
// such as those of Zigbee2MQTT or Tasmota, and makes readings of the messages.
//
// The parties are Run, which holds one connection at a time and subscribes
// anew after each loss of it; the message handler, which decodes a message on
// arrival and never blocks; and Read, which takes what gathered in between.
// Everything between them is bounded: the size of a message, before memory is
// set aside for it, and the number of readings, of which the oldest are
// dropped, counted and reported by the next Read. A power cut loses what was
// not yet read; the broker's quality of service covers the link only.
package mqtt

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/sensors/internal/jsonpath"
	"github.com/pyvorin/pyvorin-edge/sensors/internal/ring"
)

// Options are the config keys of an mqtt sensor.
type Options struct {
	Broker          string            `toml:"broker" required:"true" doc:"tcp://, ssl://, ws:// or wss:// address of the broker, without user and password."`
	Topics          []string          `toml:"topics" required:"true" doc:"Topic filters to subscribe to; + and # are wildcards. Where filters overlap, brokers may deliver a message twice."`
	QoS             int               `toml:"qos" min:"0" max:"2" doc:"Quality of service of the subscriptions."`
	ClientID        string            `toml:"client_id" doc:"Must be unique at the broker; empty makes one of the device id, the sensor's name and a random end."`
	Username        string            `toml:"username" doc:"User at the broker."`
	Password        string            `toml:"password" secret:"true" doc:"Its password."`
	PasswordFile    string            `toml:"password_file" doc:"File holding the password instead; read again for every connection."`
	CAFile          string            `toml:"ca_file" pem:"authorities" doc:"ssl, wss: PEM file of the authorities to trust instead of the system's."`
	CertFile        string            `toml:"cert_file" pem:"certificate" doc:"ssl, wss: client certificate (PEM)."`
	KeyFile         string            `toml:"key_file" pem:"key" doc:"Its key (PEM)."`
	IgnoreRetained  bool              `toml:"ignore_retained" doc:"true drops messages that the broker had stored; otherwise they are uncertain, because their age is not known, unless timestamp_path tells it."`
	ChannelFrom     string            `toml:"channel_from" doc:"What of the topic becomes the channel: empty for nothing, topic for all of it, or the number of a level; 1 is the first, -1 the last."`
	JSONPath        string            `toml:"json_path" doc:"Where the value is in a JSON message, in gjson syntax. Without it and fields, the message itself is the value: a number, one of true_values or false_values, or a text."`
	Fields          map[string]string `toml:"fields" doc:"Several values of a JSON message instead: channel name to path."`
	TimestampPath   string            `toml:"timestamp_path" doc:"Where the time of measurement is: RFC 3339, or a number since 1970. Empty means the time of arrival."`
	Meta            map[string]string `toml:"meta" doc:"Metadata of a JSON message: name to path. Texts are cut to 256 bytes. The topic is always there as topic."`
	TrueValues      []string          `toml:"true_values" doc:"Messages that mean true, in any case."`
	FalseValues     []string          `toml:"false_values" doc:"Messages that mean false, in any case."`
	BufferReadings  int               `toml:"buffer_readings" min:"1" max:"100000" doc:"Readings held until they are polled; beyond that the oldest are dropped and counted."`
	MaxMessageBytes int               `toml:"max_message_bytes" min:"128" max:"67108864" doc:"A longer message breaks off the connection, topic included: MQTT has no other way to refuse it."`
}

// Type is the ingest type "mqtt".
var Type = sensors.Type{
	Name: "mqtt",
	Doc:  "Messages of an MQTT broker: Zigbee2MQTT, Tasmota, BLE bridges.",
	Options: func() any {
		return &Options{
			TrueValues: []string{"ON", "true"}, FalseValues: []string{"OFF", "false"},
			BufferReadings: 1000, MaxMessageBytes: 1 << 20,
		}
	},
	New: New,
}

// sensor is a sensors.Listener.
type sensor struct {
	o         Options
	broker    *url.URL
	secure    bool
	where     string // scheme and host, for errors
	clientID  string
	perPoll   int
	log       zerolog.Logger
	decoder   decoder
	arrived   *ring.Ring[sensors.Sample] // that were not read yet
	linkMutex sync.Mutex
	link      error // why there is no connection; nil while there is one, and before the first
}

// secureSchemes tells which schemes there are, and which of them use TLS.
var secureSchemes = map[string]bool{
	"tcp": false, "mqtt": false, "ws": false,
	"ssl": true, "tls": true, "mqtts": true, "wss": true,
}

// New makes a sensor; d.Options is an *Options.
func New(d config.Sensor, env sensors.Env) (sensors.Sensor, error) {
	o, ok := d.Options.(*Options)
	if !ok {
		return nil, fmt.Errorf("internal error: mqtt options are %T", d.Options)
	}
	// The parse error would show the address, which may hold a password.
	u, err := url.Parse(o.Broker)
	if err != nil || u.Hostname() == "" {
		return nil, config.Problemf("broker", "must be an address such as tcp://192.168.0.2:1883")
	}
	secure, known := secureSchemes[u.Scheme]
	switch {
	case !known:
		return nil, config.Problemf("broker", "must begin with tcp://, ssl://, ws:// or wss://")
	case u.User != nil:
		return nil, config.Problemf("broker", "must not hold a user; use username and password")
	case u.Port() == "" && u.Scheme != "ws" && u.Scheme != "wss":
		u.Host += map[bool]string{false: ":1883", true: ":8883"}[secure]
	}
	switch {
	case !secure && o.CAFile+o.CertFile+o.KeyFile != "":
		return nil, config.Problemf("broker", "must begin with ssl:// or wss:// for ca_file, cert_file and key_file")
	case (o.CertFile == "") != (o.KeyFile == ""):
		return nil, config.Problemf("cert_file", "belongs together with key_file: set both or none")
	case o.Username == "" && o.Password+o.PasswordFile != "":
		return nil, config.Problemf("username", "is needed with a password")
	case len(o.Topics) == 0:
		return nil, config.Problemf("topics", "must name at least one topic filter")
	}
	for i, filter := range o.Topics {
		if !validFilter(filter) {
			return nil, config.Problemf(fmt.Sprintf("topics[%d]", i), "%q is no topic filter; + and # stand for whole levels, and # comes last", filter)
		}
	}
	dec, err := newDecoder(*o, d.MaxTextBytes)
	if err != nil {
		return nil, err
	}
	s := &sensor{
		o: *o, broker: u, secure: secure, where: u.Scheme + "://" + u.Host,
		clientID: o.ClientID, perPoll: d.MaxReadingsPerPoll, log: env.Log, decoder: dec,
		arrived: ring.New[sensors.Sample](o.BufferReadings),
	}
	if s.clientID == "" {
		// A second client of the same id would throw out the first, and `sensors
		// read` is one beside the agent's.
		s.clientID = "pyvorin-edge-" + env.DeviceID + "-" + d.Name + "-" + rand.Text()[:6]
	}
	return s, nil
}

func newDecoder(o Options, maxTextBytes int) (decoder, error) {
	dec := decoder{
		spec:           jsonpath.Spec{Path: o.JSONPath, Fields: o.Fields, Timestamp: o.TimestampPath, Meta: o.Meta},
		trueValues:     o.TrueValues,
		falseValues:    o.FalseValues,
		ignoreRetained: o.IgnoreRetained,
		maxTextBytes:   maxTextBytes,
	}
	switch o.ChannelFrom {
	case "":
	case "topic":
		dec.wholeTopic = true
	default:
		level, err := strconv.Atoi(o.ChannelFrom)
		if err != nil || level == 0 {
			return decoder{}, config.Problemf("channel_from", `must be "topic" or the number of a level, such as "2" or "-1"`)
		}
		dec.level = level
	}
	for i, text := range o.TrueValues {
		if slices.ContainsFunc(o.FalseValues, func(f string) bool { return strings.EqualFold(f, text) }) {
			return decoder{}, config.Problemf(fmt.Sprintf("true_values[%d]", i), "%q is in false_values too", text)
		}
	}
	return dec, dec.spec.Check()
}

// validFilter follows section 4.7 of MQTT 3.1.1.
func validFilter(filter string) bool {
	if filter == "" || len(filter) > 65535 || strings.ContainsRune(filter, 0) {
		return false
	}
	levels := strings.Split(filter, "/")
	for i, level := range levels {
		if level == "#" && i == len(levels)-1 || level == "+" {
			continue
		}
		if strings.ContainsAny(level, "#+") {
			return false
		}
	}
	return true
}

// Read takes what arrived since the last one. No message is no error; no
// connection is one, and so are dropped readings.
func (s *sensor) Read(context.Context) ([]sensors.Sample, error) {
	samples, dropped := s.arrived.Take(s.perPoll)
	var problems []error
	s.linkMutex.Lock()
	if s.link != nil {
		problems = append(problems, fmt.Errorf("broker %s: %w", s.where, s.link))
	}
	s.linkMutex.Unlock()
	if dropped > 0 {
		problems = append(problems, fmt.Errorf("%w: buffer_readings was reached; poll more often or raise it", dropped))
	}
	return samples, errors.Join(problems...)
}

func (s *sensor) setLink(err error) {
	s.linkMutex.Lock()
	s.link = err
	s.linkMutex.Unlock()
}
