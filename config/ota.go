package config

import (
	"net"
	"path/filepath"
	"regexp"
	"strings"
)

// OTA is the [ota] section.
type OTA struct {
	Enabled bool `toml:"enabled" doc:"false fetches and asks for no updates; what the watchdog does of itself is not touched."`

	DownloadWindow    string `toml:"download_window" doc:"When bundles are fetched: a cron expression of five fields whose minutes are the window, such as * 2-4 * * * for 02:00 to 04:59; empty is always. See docs/ota.md."`
	InstallWindow     string `toml:"install_window" doc:"When updates are begun, in the same form. Rollbacks do not wait for it."`
	TimeZone          string `toml:"time_zone" doc:"IANA name of the time zone of the windows, such as Europe/Berlin; empty is the device's own."`
	MaxBandwidthBytes int64  `toml:"max_bandwidth_bytes_per_second" min:"0" doc:"Cap on fetching; 0 is none, else at least 1024."`
	Delta             bool   `toml:"delta" doc:"Look for a delta against an installed release before the full bundle."`
	ReserveBytes      int64  `toml:"reserve_bytes" min:"33554432" doc:"Free space that updates leave alone."`

	MinHealthySeconds float64 `toml:"min_healthy_seconds" min:"0" max:"86400" doc:"How long a new release must be well without a break before it is kept; a bundle may ask for longer."`
	DeadlineSeconds   float64 `toml:"deadline_seconds" min:"0" max:"86400" doc:"By when it must have been; a bundle may ask for longer."`

	CAFile   string `toml:"ca_file" pem:"authorities" doc:"PEM file of the authorities to trust for downloads instead of the system's."`
	CertFile string `toml:"cert_file" pem:"certificate" doc:"Client certificate (PEM)."`
	KeyFile  string `toml:"key_file" pem:"key" doc:"Its key (PEM)."`

	Components []Component `toml:"components" max_items:"16" doc:"Other applications on this device that are updated in the same way, in two slots each. For now they are only checked: no watchdog manages them yet."`
}

// Component is one entry of ota.components.
type Component struct {
	Name     string   `toml:"name" required:"true" doc:"Name that bundles and commands carry: lower case letters, digits and dashes."`
	Root     string   `toml:"root" required:"true" doc:"Absolute path of the folder with its slots; what runs is in active below it."`
	Unit     string   `toml:"unit" doc:"systemd unit that runs it from there. Either this or command."`
	Command  []string `toml:"command" doc:"Program and arguments that run it, where there is no systemd; a relative program is meant from its slot."`
	User     string   `toml:"user" doc:"Whom command and selftest run as; empty is the agent's user."`
	Probe    string   `toml:"probe" doc:"How it is asked whether it is well: an http URL that answers 2xx, or host:port that accepts connections. Empty asks only whether it runs."`
	Selftest []string `toml:"selftest" doc:"Program and arguments that must succeed in a new slot before it is tried; a relative program is meant from the slot."`
}

const (
	// agentComponent is the component that needs no entry.
	agentComponent = "pyvorin-edge"

	minBandwidth = 1024
)

var (
	componentName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
	unitName      = regexp.MustCompile(`^[A-Za-z0-9:_.@\\-]{1,240}\.service$`)
	userName      = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,31}$`)
)

func checkOTA(at place, o *OTA) {
	if o.MaxBandwidthBytes > 0 && o.MaxBandwidthBytes < minBandwidth {
		at.key("max_bandwidth_bytes_per_second").bad("must be 0 for no cap, or at least %d", minBandwidth)
	}
	if o.MinHealthySeconds > o.DeadlineSeconds {
		at.either("min_healthy_seconds", "deadline_seconds").bad("min_healthy_seconds (%g) is above deadline_seconds (%g), so that no update could pass", o.MinHealthySeconds, o.DeadlineSeconds)
	}
	checkKeyPair(at, o.CertFile, o.KeyFile)
	list := at.key("components")
	for i := range o.Components {
		checkComponent(list.item(i), o.Components, i, list.path)
	}
}

// checkKeyPair wants both files or none.
func checkKeyPair(at place, certificate, key string) {
	if certificate != "" && key == "" {
		at.key("cert_file").bad("needs key_file, the certificate's key")
	}
	if key != "" && certificate == "" {
		at.key("key_file").bad("needs cert_file, the certificate of this key")
	}
}

func checkComponent(at place, all []Component, i int, list string) {
	c := &all[i]
	switch {
	case c.Name == "":
	case !componentName.MatchString(c.Name):
		at.key("name").bad("must be 1 to 63 lower case letters, digits and dashes, and begin with none of the latter")
	case c.Name == agentComponent:
		at.key("name").bad("is the agent itself, which needs no entry; choose another")
	}
	for j := range all[:i] {
		if all[j].Name == c.Name && c.Name != "" {
			at.key("name").bad("%s has this name already; names must be unique", index(list, j))
		}
		if c.Root != "" && all[j].Root != "" && nested(c.Root, all[j].Root) {
			at.key("root").bad("is within that of %s, or the reverse; each component needs a folder of its own", index(list, j))
		}
	}
	if c.Root != "" && (!filepath.IsAbs(c.Root) || filepath.Clean(c.Root) != c.Root || c.Root == "/") {
		at.key("root").bad("must be the absolute path of a folder, such as /opt/camera")
	}
	switch {
	case c.Unit == "" && len(c.Command) == 0:
		at.bad("needs unit, the systemd unit that runs it, or command")
	case c.Unit != "" && len(c.Command) > 0:
		at.key("command").bad("is given, and unit too; keep one of them")
	case c.Unit != "" && !unitName.MatchString(c.Unit):
		at.key("unit").bad("must be the name of a systemd unit such as camera.service")
	}
	for key, program := range map[string][]string{"command": c.Command, "selftest": c.Selftest} {
		if len(program) > 0 && !runnable(program[0]) {
			at.key(key).bad("must begin with a program: an absolute path, or one that does not lead out of the slot")
		}
	}
	if c.User != "" && !userName.MatchString(c.User) {
		at.key("user").bad("must be the name of a user")
	}
	if _, port, err := net.SplitHostPort(c.Probe); c.Probe != "" && !isHTTP(c.Probe) && (err != nil || port == "") {
		at.key("probe").bad("must be a URL such as http://localhost:9000/health, or host:port")
	}
}

// runnable reports whether program is an absolute path, or one within a slot.
func runnable(program string) bool {
	return program != "" && (filepath.IsAbs(program) || filepath.IsLocal(program))
}

// nested reports whether one of two folders is the other, or within it.
func nested(a, b string) bool {
	a, b = filepath.Clean(a)+"/", filepath.Clean(b)+"/"
	return strings.HasPrefix(a, b) || strings.HasPrefix(b, a)
}
