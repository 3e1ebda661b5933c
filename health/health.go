// Package health says how the device is, to whoever asks and in one verdict.
//
// The parties are the agent, which hands over what it knows (Facts) whenever
// it is asked; the machine, whose figures are sampled in the background; the
// probes, which ask the other applications on the device; and Evaluate, a pure
// function that turns all of that into the document of /health. The same
// document is the heartbeat, the page and the metrics, and the watchdog judges
// a trial by it, so there is nothing that one of them knows and another does
// not.
//
// The Server offers it on a unix socket, always, and on host:port when
// [health] is enabled. Who may see what:
//
//	                      /health /livez /readyz /metrics   / and /api/*   POST /config/reload
//	unix socket                        yes                      yes              yes
//	loopback, Host is local            yes                      yes (1)          token
//	anyone else                        yes                     token             token
//
// (1) what changes something must prove that no foreign web page sent it.
//
// Another config is taken in place (Server.SetConfig): connections stay open
// unless what is listened on changed.
//
// What it promises: a request reads memory only, so /health answers while the
// disk hangs; every connection, body, probe and table has a bound; a port or a
// socket that cannot be served is retried, and reported on the other; nothing but
// readings that the privacy rules cleared is shown. It writes no file but the
// socket, so a power cut costs it nothing.
package health

import (
	"time"

	"github.com/pyvorin/pyvorin-edge/wire"
)

// Facts are what the agent knows at one instant.
type Facts struct {
	// Health holds identity, uptime, Agent, Sensors, Cloud, Privacy, Fleet and
	// OTA. Status, Metrics, Checks and Warnings are Evaluate's. A sensor counts
	// as OK or Failing once it was polled for the first time.
	Health wire.Health

	SensorReasons     map[string]string // failing sensor → why
	Alerts            []Alert           // in no order
	QueueMaxBytes     int64
	QueueOpening      bool      // the queue is not open yet, as for a moment at every start and reload
	QueueFault        string    // why the queue cannot accept readings now; "" when it can
	CloudFailingSince time.Time // first failed delivery since the last good one; zero while deliveries work
	ClockSet          bool      // the wall clock can be right
	FleetEnabled      bool
	FleetDownSince    time.Time // when the link to the controller was lost; zero while it works
	BaseDir           string    // for people; the Server fills it in
	Faults            []Fault   // components of the agent that are being restarted
	Stalled           []string  // loops of the agent that no longer turn
	ConfigRefusal     *Refusal  // of the config file, if no config was applied since
	Warnings          []string  // whole sentences that change no check, such as that privacy is disabled
}

// Alert is a value of a sensor that is beyond a limit, as far as the privacy
// rules let it be known.
type Alert struct {
	wire.Alert
	LimitValue float64    // where that limit lies; 0 when Limit is not known
	Value      wire.Value // that raised it; none when a rule withheld it
	Unit       string     // of both
}

// Fault is a component of the agent that failed and is being restarted.
type Fault struct {
	Check     string // the check that it belongs to: "sensors", "queue", "cloud", "fleet" or "agent"
	Component string // such as "poller"
	Reason    string
}

// Refusal is a config file that a reload did not take.
type Refusal struct {
	At     time.Time
	Reason string // in one line
}

// The names of the checks that do not come from probes. All but the last are
// always in the document; checkAgent appears when a part of the agent fails.
const (
	checkSensors     = "sensors"
	checkQueue       = "queue"
	checkCloud       = "cloud"
	checkDisk        = "disk_space"
	checkMemory      = "memory"
	checkTemperature = "temperature"
	checkFleet       = "fleet"
	checkClock       = "clock"
	checkAgent       = "agent"
)

// ownChecks are those names in the order in which people see them.
var ownChecks = []string{
	checkSensors, checkQueue, checkCloud, checkDisk, checkMemory, checkTemperature, checkFleet, checkClock, checkAgent,
}
