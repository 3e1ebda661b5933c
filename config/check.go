package config

import (
	"encoding/hex"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// builtinChecks are the names in /health that no probe may take.
var builtinChecks = []string{"sensors", "queue", "cloud", "disk_space", "memory", "temperature", "fleet", "clock"}

// reservedName begins the names of the readings that the agent makes itself. A
// sensor of that name could make the same ones with its channels.
const reservedName = "pyvorin"

// check records the values that are right one by one and impossible together.
func check(d *document, c *Config) {
	root := place{d: d, n: d.root}
	checkSensors(root.key("sensors").key("devices"), c.Sensors.Devices)
	checkCloud(root.key("cloud"), &c.Cloud)
	rules := root.key("privacy").key("rules")
	for i := range c.Privacy.Rules {
		checkRule(rules.item(i), &c.Privacy.Rules[i])
	}
	health := root.key("health")
	checkAddress(health.key("address"), c.Health.Address)
	checkThresholds(health.key("thresholds"), &c.Health.Thresholds)
	checkProbes(health.key("probes"), c.Health.Probes)
	checkOTA(root.key("ota"), &c.OTA)
}

// place is a key of the file, which need not be there: then it is where the
// table around it is.
type place struct {
	d     *document
	n     *node
	path  string
	given bool // the key itself is in the file
}

func (p place) key(name string) place {
	next := place{d: p.d, n: &node{at: p.n.at}, path: join(p.path, name)}
	if child := p.n.table[name]; child != nil {
		next.n, next.given = child, true
	}
	return next
}

func (p place) item(i int) place {
	next := place{d: p.d, n: &node{at: p.n.at}, path: index(p.path, i)}
	if i < len(p.n.list) {
		next.n, next.given = p.n.list[i], true
	}
	return next
}

// either returns the first of the keys that the file has, or the first.
func (p place) either(names ...string) place {
	for _, name := range names {
		if k := p.key(name); k.given {
			return k
		}
	}
	return p.key(names[0])
}

func (p place) bad(format string, args ...any) { p.d.fail(p.n.at, p.path, format, args...) }

func checkSensors(list place, sensors []Sensor) {
	seen := make(map[string]int)
	for i := range sensors {
		s, at := &sensors[i], list.item(i)
		checkName(at.key("name"), s.Name)
		if s.Name == reservedName || strings.HasPrefix(s.Name, reservedName+".") {
			at.key("name").bad("is reserved: the readings of %s are the agent's own, such as the announcement of a loss; choose another", reservedName)
		}
		if first, ok := seen[s.Name]; ok && s.Name != "" {
			at.key("name").bad("%s has this name already; names must be unique", index(list.path, first))
		} else {
			seen[s.Name] = i
		}
		if s.ValidMin != nil && s.ValidMax != nil && *s.ValidMin > *s.ValidMax {
			at.key("valid_min").bad("is above valid_max, so that no reading would be valid")
		}
		if s.Scale == 0 {
			at.key("scale").bad("0 would make every value the same; leave it out for 1")
		}
		switch {
		case s.Reduce != "none" && s.WindowSeconds == 0:
			at.key("reduce").bad("needs window_seconds, the length of its window")
		case s.Reduce == "none" && s.WindowSeconds > 0:
			at.key("window_seconds").bad("needs reduce, which says what is sent of a window")
		}
		if s.MaxSilenceSeconds > 0 && s.Deadband == 0 && s.StaleAfterSeconds == 0 {
			at.key("max_silence_seconds").bad("needs deadband or stale_after_seconds; without either it has no effect")
		}
	}
}

// checkName refuses names that would break lines, topics or labels made of them.
func checkName(at place, name string) {
	const longest = 128
	switch {
	case len(name) > longest:
		at.bad("is longer than %d bytes", longest)
	case strings.ContainsFunc(name, unicode.IsControl):
		at.bad("has a control character in it")
	}
}

func checkCloud(at place, c *Cloud) {
	switch {
	case c.Enabled && c.Endpoint == "":
		at.key("endpoint").bad("is missing; an enabled cloud needs the URL to deliver to")
	case c.Endpoint != "" && !isHTTP(c.Endpoint):
		at.key("endpoint").bad("must be a URL such as https://api.example.com/v1/ingest")
	case hasUser(c.Endpoint):
		at.key("endpoint").bad("must not hold a user or password; use api_key")
	}
	checkKeyPair(at, c.CertFile, c.KeyFile)
	if c.RetryMinSeconds > c.RetryMaxSeconds {
		at.either("retry_min_seconds", "retry_max_seconds").bad("retry_min_seconds (%g) is above retry_max_seconds (%g)", c.RetryMinSeconds, c.RetryMaxSeconds)
	}
}

func isHTTP(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != ""
}

func hasUser(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.User != nil
}

// hostName matches a name that can be resolved; one that ends in a number would
// be a mistaken address.
var hostName = regexp.MustCompile(`^([A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?\.)*[A-Za-z_]([A-Za-z0-9_-]*[A-Za-z0-9_])?\.?$`)

func checkAddress(at place, address string) {
	const longest = 253
	if _, err := netip.ParseAddr(address); err == nil || address == "" || len(address) <= longest && hostName.MatchString(address) {
		return
	}
	at.bad("must be an IP address such as 127.0.0.1, or a host name; the port goes into health.port")
}

func checkRule(at place, r *Rule) {
	if r.SensorPattern == "" && r.SensorType == "" && r.IngestType == "" && r.Tag == "" && r.Field == "" {
		at.bad("matches nothing; give sensor_pattern, sensor_type, ingest_type, tag or field (* matches all)")
	}
	switch r.Action {
	case "round":
		if r.Step <= 0 {
			at.key("step").bad("must be above 0 for the action round")
		}
	case "aggregate":
		if r.WindowMinutes <= 0 {
			at.key("window_minutes").bad("must be above 0 for the action aggregate")
		}
	case "encrypt":
		if key, err := hex.DecodeString(r.Recipient); err != nil || len(key) != 32 {
			at.key("recipient").bad("must be a public key of 64 hex digits for the action encrypt")
		}
	}
}

func checkThresholds(at place, t *Thresholds) {
	for _, pair := range []struct {
		name, unit        string
		warning, critical float64
	}{
		{"disk", "percent", t.DiskWarningPercent, t.DiskCriticalPercent},
		{"memory", "percent", t.MemoryWarningPercent, t.MemoryCriticalPercent},
		{"temperature", "celsius", t.TemperatureWarningCelsius, t.TemperatureCriticalCelsius},
	} {
		if pair.critical > 0 && pair.warning > pair.critical {
			warning, critical := pair.name+"_warning_"+pair.unit, pair.name+"_critical_"+pair.unit
			at.either(warning, critical).bad("%s (%g) is above %s (%g)", warning, pair.warning, critical, pair.critical)
		}
	}
}

func checkProbes(list place, probes []Probe) {
	seen := make(map[string]int)
	for i := range probes {
		p, at := &probes[i], list.item(i)
		checkName(at.key("name"), p.Name)
		if first, ok := seen[p.Name]; ok && p.Name != "" {
			at.key("name").bad("%s has this name already; names must be unique", index(list.path, first))
		} else {
			seen[p.Name] = i
		}
		if slices.Contains(builtinChecks, p.Name) {
			at.key("name").bad("is the name of a built-in check; choose another")
		}
		checkProbeKind(at, p)
	}
}

func checkProbeKind(at place, p *Probe) {
	target := at.key("target")
	switch p.Type {
	case "http":
		if !isHTTP(p.Target) {
			target.bad("must be a URL such as http://localhost:9000/health for the type http")
		}
	case "tcp":
		if _, port, err := net.SplitHostPort(p.Target); err != nil || port == "" {
			target.bad("must be host:port for the type tcp")
		}
	case "exec":
		if len(p.Command) == 0 || p.Command[0] == "" {
			at.key("command").bad("must name a program for the type exec")
		}
	case "systemd":
		if p.Target == "" {
			target.bad("must name a unit for the type systemd")
		}
	case "file_age":
		if p.Target == "" {
			target.bad("must name a file for the type file_age")
		}
		if p.MaxAgeSeconds <= 0 {
			at.key("max_age_seconds").bad("must be above 0 for the type file_age")
		}
	}
}
