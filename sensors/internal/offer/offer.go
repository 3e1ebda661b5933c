// Package offer writes the config that the ingest types offer for what they
// discover.
package offer

import (
	"fmt"
	"regexp"
	"strings"
)

// plain matches what can stand in a config and be typed by people.
var plain = regexp.MustCompile(`^[A-Za-z0-9 ._:@,+()/-]{1,100}$`)

// Plain reports whether text, which some device calls itself, is fit for a
// config as it stands.
func Plain(text string) bool { return plain.MatchString(text) }

// unnamable matches what does not go into the name of a sensor: the dot is what
// separates it from a channel.
var unnamable = regexp.MustCompile(`[^a-z0-9_-]+`)

// Name makes the name of a sensor of what devices call themselves, or "sensor"
// where nothing is left of that.
func Name(parts ...string) string {
	name := unnamable.ReplaceAllString(strings.ToLower(strings.Join(parts, "-")), "-")
	if name = strings.Trim(name, "-"); name == "" {
		return "sensor"
	}
	return name
}

// Key is one line of a table.
type Key struct {
	Name  string
	Value any // a string, a number or a bool
}

// Table returns a [[sensors.devices]] table. Whoever prints several of them
// makes their names differ.
func Table(name, ingestType string, keys ...Key) string {
	var b strings.Builder
	b.WriteString("[[sensors.devices]]\n")
	for _, k := range append([]Key{{"name", name}, {"ingest_type", ingestType}}, keys...) {
		if text, ok := k.Value.(string); ok {
			fmt.Fprintf(&b, "%s = %q\n", k.Name, text)
		} else {
			fmt.Fprintf(&b, "%s = %v\n", k.Name, k.Value)
		}
	}
	return b.String()
}
