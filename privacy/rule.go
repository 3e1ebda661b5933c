package privacy

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
)

// maxNameBytes bounds every name that a pattern is tried on. A reading with a
// longer one is dropped rather than judged by a part of it.
const maxNameBytes = 1024

// rule is a config.Rule ready for use.
type rule struct {
	key  string // such as privacy.rules[0]
	spec config.Rule

	// The patterns, nil where the rule does not ask. fields is what metadata
	// names are held against: field if it is given, and otherwise
	// sensor_pattern, unless that is a lone star and says nothing of them.
	sensor, sensorType, ingest, tag, fields glob

	transform transform     // nil: drop, drop_field, aggregate
	window    time.Duration // of aggregate

	hits, errors atomic.Uint64
}

// compileRule returns the rule, or the config.Problem that it has; key is where
// it stands in the config.
func compileRule(key string, c config.Rule, secret []byte) (*rule, error) {
	r := &rule{key: key, spec: c, window: time.Duration(c.WindowMinutes * float64(time.Minute))}
	for _, p := range r.patterns() {
		if *p.text == "" {
			continue
		}
		g, err := compileGlob(*p.text)
		if err != nil {
			return nil, config.Problemf(p.name, "%v", err)
		}
		*p.glob = g
	}
	if c.Tag != "" && !strings.ContainsAny(c.Tag, "=*?") {
		return nil, config.Problemf("tag", "%q can match no tag: it is held against key=value, such as room=cellar or room=*", c.Tag)
	}
	if r.fields == nil && r.sensor != nil && !r.sensor.matchesAll() {
		r.fields = r.sensor
	}
	if r.matchText() == "" {
		return nil, errors.New(`the rule matches nothing in particular: give sensor_pattern = "*" to mean every sensor`)
	}
	if err := checkSettings(c); err != nil {
		return nil, err
	}
	var err error
	if r.transform, err = newTransform(c, secret); err != nil {
		return nil, err
	}
	if c.Action == actDropField && r.fields == nil {
		return nil, config.Problemf("field", "is needed by drop_field: it names the metadata fields to remove")
	}
	if c.Action == actAggregate && c.Field != "" {
		return nil, config.Problemf("field", "does not go with aggregate, which applies to a sensor's value; leave it out")
	}
	return r, nil
}

// pattern is one match key of a rule.
type pattern struct {
	name string
	text *string
	glob *glob
}

func (r *rule) patterns() []pattern {
	return []pattern{
		{"sensor_pattern", &r.spec.SensorPattern, &r.sensor},
		{"sensor_type", &r.spec.SensorType, &r.sensorType},
		{"ingest_type", &r.spec.IngestType, &r.ingest},
		{"tag", &r.spec.Tag, &r.tag},
		{"field", &r.spec.Field, &r.fields},
	}
}

// matchText returns the rule's match keys as they are written in a config.
func (r *rule) matchText() string {
	var given []string
	for _, p := range r.patterns() {
		if *p.text != "" {
			given = append(given, fmt.Sprintf("%s = %q", p.name, *p.text))
		}
	}
	return strings.Join(given, ", ")
}

// checkSettings refuses a setting that the action ignores: who wrote step
// beside hash meant another rule.
func checkSettings(c config.Rule) error {
	for _, s := range []struct {
		name, action string
		given        bool
	}{
		{"keep_last", actMask, c.KeepLast != 0},
		{"decimals", actTruncate, c.Decimals != nil},
		{"step", actRound, c.Step != 0},
		{"window_minutes", actAggregate, c.WindowMinutes != 0},
		{"recipient", actEncrypt, c.Recipient != ""},
	} {
		if s.given && c.Action != s.action {
			return config.Problemf(s.name, "belongs to action %s, and this is %q", s.action, c.Action)
		}
	}
	return nil
}

// scope is a rule that may act on the readings of one sensor, as far as the
// sensor's names tell: its tags and metadata fields are still to be looked at.
type scope struct {
	*rule
	value bool // the rule covers the value, not only metadata fields
}

// scope returns false when no reading with this name, type and ingest type can
// concern the rule.
func (r *rule) scope(id identity) (scope, bool) {
	if r.sensorType != nil && !r.sensorType.match(id.sensorType) || r.ingest != nil && !r.ingest.match(id.ingest) {
		return scope{}, false
	}
	named := r.sensor == nil || r.sensor.match(id.sensor)
	if r.spec.Field != "" {
		return scope{r, false}, named
	}
	return scope{r, named}, named || r.fields != nil
}

// tagged reports whether the rule's tag pattern, if any, matches a tag.
func (r *rule) tagged(tags map[string]string) bool {
	if r.tag == nil {
		return true
	}
	for k, v := range tags {
		if r.tag.match(k + "=" + v) {
			return true
		}
	}
	return false
}

// decision is what the rules make of one reading.
type decision struct {
	drop   *rule            // wins over everything
	value  *rule            // the first transform of the value
	fields map[string]*rule // the first of each metadata field
}

// decide finds the rules that act on r among those of its sensor, in order.
func decide(scopes []scope, r *sensors.Reading) decision {
	var d decision
	for _, s := range scopes {
		if !s.tagged(r.Tags) {
			continue
		}
		if s.value {
			// A reading without its value is none.
			if s.spec.Action == actDrop || s.spec.Action == actDropField {
				return decision{drop: s.rule}
			}
			if d.value == nil {
				d.value = s.rule
			}
		}
		if s.fields == nil {
			continue
		}
		for name := range r.Meta {
			if !s.fields.match(name) {
				continue
			}
			if s.spec.Action == actDrop {
				return decision{drop: s.rule}
			}
			if d.fields[name] == nil {
				if d.fields == nil {
					d.fields = map[string]*rule{}
				}
				d.fields[name] = s.rule
			}
		}
	}
	return d
}
