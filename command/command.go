// Package command is the device's side of its fleet: it hears commands and
// configs over MQTT, obeys those that it may, and tells the controller what came
// of them.
//
// The parties are the broker, and whoever can publish on it, which are believed
// in nothing; the keys of the trust anchor, which sign what is to be obeyed; the
// handlers, which the agent registers and which act; and the Ledger, which is
// the memory.
//
//	broker ─▶ session ─▶ inbox ─▶ worker ─▶ Handler
//	  ▲                             │ signature, target, time, nonce
//	  │                             ▼
//	  └── reports, presence ◀── Ledger (state.db, state.mark)
//	      heartbeat ◀── Options.Health
//
// # What is obeyed
//
// An envelope that keys of the command role signed, for this device or its
// group, on the topic of its name, neither expired nor from the future, whose
// nonce the ledger does not know. The order of the checks is the order of trust:
// the payload is not parsed before its signatures hold, and nothing is written
// before it is known who signed it, so that strangers cannot wear out the flash.
// Every refusal is counted by its Reason. One of a command that was signed is
// also reported, once for each nonce; it is no outcome, and does not use up the
// nonce: what was refused because the clock was wrong is obeyed when it comes
// again and the clock is right. With AllowUnsigned the bare JSON of the first
// controllers is taken too, for rollback and config only.
//
// Config pushes have no nonce. Of them the newest timestamp counts, and so it
// does of the desired document; hearing one again does nothing.
//
// # Once
//
// The nonce and the intent are on disk before a handler acts, the outcome and
// its report, in one transaction, after. A power cut between the two leaves an
// intent: at the next start a handler that is idempotent is run again, at most
// three times in all, and for any other the command is reported as failed
// ("interrupted"). So a retained rollback acts once, however often the broker
// hands it out, and a command that kills the agent cannot do so for ever.
//
// A nonce is forgotten when its command has expired, by a clock that is
// disciplined, or when there are too many; the latest expiry among the forgotten
// is kept, and what expires before it is refused from then on. So forgetting
// never makes a replay possible, whatever the clock did meanwhile.
//
// # Files
//
// state.db is the ledger and the outbox. A damaged one is set aside and a new
// one begun; reports that waited in it are lost, which the controller sees as a
// gap in their numbers. state.mark, a small file, keeps what must survive that:
// bounds for the epoch and for the number of the next report, which never go
// back, and when the newest command that was ever obeyed was issued. The new
// ledger refuses commands that are not younger than that, because it cannot know
// them.
//
// # Reports
//
// A report is durable when Ledger.Report returns, and is sent, in order, until
// the controller's own acknowledgement arrives: the broker's is not enough. The
// outbox is bounded; beyond that the oldest go, the outcomes of commands and
// updates last, and are counted.
//
// # The connection
//
// Each one is made from scratch: new client, clean session, all subscriptions,
// certificates and password read anew. Before the next one a random part of the
// reconnect window passes, so that a fleet does not come back all at once. What
// is retained comes with each subscription, which is how a device that was away
// catches up. Presence carries an epoch that grows with each connection, so that
// a last will that the broker publishes late is recognized as one of the past.
package command

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/internal/mqttconn"
	"github.com/pyvorin/pyvorin-edge/trust"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// Options are what a Listener needs.
type Options struct {
	URL      string // tcp://, ssl://, ws:// or wss:// address of the broker, without user and password
	Prefix   string // of the topics; "" is wire.DefaultPrefix
	DeviceID string // also the client id
	Group    string // may be ""

	CAFile, CertFile, KeyFile string // PEM, with ssl and wss; read for every connection

	Username string
	Password func() (string, error) // called for every connection; may be nil

	Heartbeat       time.Duration // 0 is a minute
	ReconnectWindow time.Duration // over which a fleet comes back after its broker was away; 0 is 30 seconds

	// AllowUnsigned takes the seed's bare JSON for rollback and config.
	AllowUnsigned bool

	// Anchor returns the keys to believe, nil while there are none. It is called
	// for each message and must not block.
	Anchor func() *trust.Anchor

	// Health returns the /health document: the heartbeat, and the answer to the
	// command report. It must not block.
	Health func() wire.Health

	// SetLogLevel obeys the command log_level; nil leaves that unknown.
	SetLogLevel func(level string) error

	// Handlers obey the other commands, by name; that of "config" gets config
	// pushes.
	Handlers map[string]Entry

	Ledger *Ledger
	Log    zerolog.Logger
}

// Defaults of Options.
const (
	defaultHeartbeat = time.Minute
	defaultWindow    = 30 * time.Second
)

// Listener holds the connection to the fleet.
type Listener struct {
	o       Options
	log     zerolog.Logger
	broker  *url.URL
	secure  bool
	where   string // scheme and host, for people
	topics  wire.Topics
	rules   rules
	ledger  *Ledger
	entries map[string]*entry

	inbox    inbox
	refusals refusals
	running  sync.WaitGroup // handlers
	acks     acks
	owedMu   sync.Mutex
	owed     []outcome     // to be recorded
	again    chan struct{} // something retained was missed, and has to be heard again
	reheard  int           // how often it was

	statsMu sync.Mutex
	stats   Stats

	timing timing
}

// timing are waits that tests shorten.
type timing struct {
	write       time.Duration // for a packet to leave, also after the connection is lost
	puback      time.Duration // for the broker's acknowledgement
	resend      time.Duration // for the controller's, at first; it doubles
	resendMax   time.Duration
	again       time.Duration // before a connection is made anew because something was missed; it doubles
	grace       time.Duration // for a handler to end after its context did
	maintenance time.Duration
}

var usualTiming = timing{
	write:       10 * time.Second,
	puback:      20 * time.Second,
	resend:      30 * time.Second,
	resendMax:   time.Hour,
	again:       time.Minute,
	grace:       5 * time.Second,
	maintenance: time.Hour,
}

// New checks the options. Errors name the key of [fleet] that is wrong.
func New(o Options) (*Listener, error) {
	if o.Prefix == "" {
		o.Prefix = wire.DefaultPrefix
	}
	if o.Heartbeat <= 0 {
		o.Heartbeat = defaultHeartbeat
	}
	if o.ReconnectWindow <= 0 {
		o.ReconnectWindow = defaultWindow
	}
	// The parse error would show the address, which may hold a password.
	u, err := url.Parse(o.URL)
	if err != nil || u.Hostname() == "" {
		return nil, errors.New("mqtt_url: must be an address such as ssl://fleet.example.com:8883")
	}
	secure, known := mqttconn.Schemes[u.Scheme]
	switch {
	case !known:
		return nil, errors.New("mqtt_url: must begin with ssl://, tcp://, wss:// or ws://")
	case u.User != nil:
		return nil, errors.New("mqtt_url: must not hold a user; use username and password_file")
	case !secure && o.CAFile+o.CertFile+o.KeyFile != "":
		return nil, errors.New("mqtt_url: must begin with ssl:// or wss:// for ca_file, cert_file and key_file")
	case (o.CertFile == "") != (o.KeyFile == ""):
		return nil, errors.New("cert_file: belongs together with key_file: set both or none")
	case o.Username == "" && o.Password != nil:
		return nil, errors.New("username: is needed with a password")
	case !validPrefix(o.Prefix):
		return nil, errors.New("topic_prefix: must be 1 to 128 bytes, levels with something in them, without wildcards")
	case !wire.TopicLevel(o.DeviceID):
		return nil, errors.New("internal error: the device id is no level of a topic")
	case o.Group != "" && !wire.TopicLevel(o.Group):
		return nil, errors.New("device.group: must not contain /, + or #, nor begin with $")
	case o.Anchor == nil || o.Health == nil || o.Ledger == nil:
		return nil, errors.New("internal error: command options lack anchor, health or ledger")
	}
	if u.Port() == "" && u.Scheme != "ws" && u.Scheme != "wss" {
		u.Host += map[bool]string{false: ":1883", true: ":8883"}[secure]
	}
	l := &Listener{
		o: o, broker: u, secure: secure, where: u.Scheme + "://" + u.Host,
		log:    o.Log.With().Str("component", "command").Logger(),
		topics: wire.Topics{Prefix: o.Prefix},
		ledger: o.Ledger,
		again:  make(chan struct{}, 1),
		timing: usualTiming,
	}
	l.rules = rules{topics: l.topics, deviceID: o.DeviceID, group: o.Group, anchor: o.Anchor, allowUnsigned: o.AllowUnsigned}
	l.inbox = newInbox()
	l.acks.changed = make(chan struct{}, 1)
	l.refusals.log = l.log
	l.stats.Since = time.Now()
	return l, l.register()
}

func validPrefix(p string) bool {
	if len(p) > 128 {
		return false
	}
	for level := range strings.SplitSeq(p, "/") {
		if !wire.TopicLevel(level) {
			return false
		}
	}
	return true
}

// Run takes up what was interrupted, then listens and obeys until ctx ends.
// Handlers get a moment to end with it; one that does not is left behind, and
// its command taken up at the next start. One Listener may run on a ledger.
func (l *Listener) Run(ctx context.Context) error {
	var parts sync.WaitGroup
	parts.Go(func() { l.work(ctx) })
	parts.Go(func() { l.maintain(ctx) })
	l.connect(ctx)
	parts.Wait()
	l.setLink(false, 0, errStopped)
	return nil
}

var errStopped = errors.New("stopped")

// maintain keeps the ledger's memory of the time fresh, and tries to open it
// when it could not be.
func (l *Listener) maintain(ctx context.Context) {
	tick := time.NewTicker(l.timing.maintenance)
	defer tick.Stop()
	for {
		if err := l.ledger.maintain(); err != nil {
			l.log.Error().Err(err).Msg("ledger cannot be used")
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// rehear has the connection made anew before long, so that what is retained
// comes again.
func (l *Listener) rehear() {
	select {
	case l.again <- struct{}{}:
	default:
	}
}
