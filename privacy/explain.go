package privacy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pyvorin/pyvorin-edge/internal/human"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// Outcome is what becomes of a reading.
type Outcome string

// The outcomes, as in Stats.
const (
	Pass      Outcome = "pass"      // leaves as it is
	Transform Outcome = "transform" // leaves in another form
	Aggregate Outcome = "aggregate" // leaves only as a part of a window
	Drop      Outcome = "drop"      // matched a drop rule
	Failed    Outcome = "error"     // dropped because a rule could not be applied
)

// Explanation is what the rules make of one reading, and why.
type Explanation struct {
	Outcome Outcome           `json:"outcome"`
	Why     string            `json:"why"`
	Rules   []RuleExplanation `json:"rules"`
	Left    *Left             `json:"left"` // null when nothing leaves
}

// RuleExplanation is one rule's part in it.
type RuleExplanation struct {
	Key     string `json:"key"`
	Match   string `json:"match"`
	Action  string `json:"action"`
	Matches bool   `json:"matches"`
	Why     string `json:"why"`
}

// Left is the part of a reading that rules can change, as it leaves.
type Left struct {
	Value  wire.Value            `json:"value"`
	Reason string                `json:"reason,omitempty"`
	Meta   map[string]wire.Value `json:"meta,omitempty"`
}

// Explain returns what Clear would make of r. It counts nothing and takes r
// into no window. Its texts name what r brought along, so it is for people who
// asked, never for logs.
func (f *Filter) Explain(r sensors.Reading) (e Explanation) {
	if !f.enabled {
		return Explanation{Outcome: Pass, Why: "privacy.enabled is false: everything passes", Left: leftOf(&r)}
	}
	defer func() {
		if p := recover(); p != nil {
			e = Explanation{Outcome: Failed, Why: "the filter panicked, so the reading is dropped", Rules: e.Rules}
		}
	}()
	if err := checkNames(&r); err != nil && len(f.rules) > 0 {
		return Explanation{Outcome: Failed, Why: err.Error()}
	}
	var scopes []scope
	for _, rule := range f.rules {
		if s, ok := rule.scope(identity{r.Sensor, r.Type, r.Ingest}); ok {
			scopes = append(scopes, s)
		}
	}
	d := decide(scopes, &r)
	for _, rule := range f.rules {
		matches, why := rule.explain(&r)
		if matches {
			why += "; " + rule.part(d)
		}
		e.Rules = append(e.Rules, RuleExplanation{rule.key, rule.matchText(), rule.spec.Action, matches, why})
	}
	switch {
	case d.drop != nil:
		e.Outcome, e.Why = Drop, "dropped by "+d.drop.key
	case d.value != nil && d.value.spec.Action == actAggregate:
		if _, err := d.value.counts(&r); err != nil {
			e.fail(d.value, err)
			break
		}
		e.Outcome = Aggregate
		e.Why = fmt.Sprintf("%s sends only the %s of each %s, with the count", d.value.key, d.value.spec.Statistic, human.Exact(d.value.window))
	case d.value == nil && d.fields == nil:
		e.Outcome, e.Why, e.Left = Pass, "no rule covers anything of it", leftOf(&r)
	default:
		e.explainApply(d, r)
	}
	return e
}

func (e *Explanation) explainApply(d decision, r sensors.Reading) {
	left, culprit, err := apply(d, r)
	if err != nil {
		e.fail(culprit, err)
		return
	}
	e.Outcome, e.Why, e.Left = Transform, "leaves in another form", leftOf(&left)
	for _, name := range slices.Sorted(maps.Keys(r.Meta)) {
		if _, ok := left.Meta[name]; !ok && d.fields[name] == nil {
			e.Why += fmt.Sprintf("; meta.%s is removed because it repeats an original", name)
		}
	}
}

func (e *Explanation) fail(culprit *rule, err error) {
	e.Outcome, e.Why = Failed, fmt.Sprintf("dropped because %s could not be applied: %v", culprit.key, err)
}

func leftOf(r *sensors.Reading) *Left {
	return &Left{Value: r.Value, Reason: r.Reason, Meta: r.Meta}
}

// explain says whether the rule matches r, and which of its keys decided that.
func (r *rule) explain(reading *sensors.Reading) (matches bool, why string) {
	for _, k := range []struct {
		key, pattern, name string
		glob               glob
	}{
		{"sensor_type", r.spec.SensorType, reading.Type, r.sensorType},
		{"ingest_type", r.spec.IngestType, reading.Ingest, r.ingest},
	} {
		if k.glob != nil && !k.glob.match(k.name) {
			return false, fmt.Sprintf("%s %q does not match %q", k.key, k.pattern, k.name)
		}
	}
	if !r.tagged(reading.Tags) {
		return false, fmt.Sprintf("tag %q matches none of its tags", r.spec.Tag)
	}
	s, ok := r.scope(identity{reading.Sensor, reading.Type, reading.Ingest})
	if !ok {
		return false, fmt.Sprintf("sensor_pattern %q does not match the name", r.spec.SensorPattern)
	}
	var covered []string
	if s.value {
		covered = append(covered, "the value")
	}
	for _, name := range slices.Sorted(maps.Keys(reading.Meta)) {
		if s.fields != nil && s.fields.match(name) {
			covered = append(covered, "meta."+name)
		}
	}
	switch {
	case covered != nil:
		return true, "covers " + strings.Join(covered, ", ")
	case r.spec.Field != "":
		return false, fmt.Sprintf("field %q matches no metadata field", r.spec.Field)
	}
	return false, fmt.Sprintf("sensor_pattern %q matches neither the name nor a metadata field", r.spec.SensorPattern)
}

// part says what a matching rule does under the decision d.
func (r *rule) part(d decision) string {
	if d.drop == r {
		return "drops the reading"
	}
	if d.drop != nil {
		return "idle, since " + d.drop.key + " drops the reading"
	}
	var acts []string
	if d.value == r {
		acts = append(acts, "the value")
	}
	for _, name := range slices.Sorted(maps.Keys(d.fields)) {
		if d.fields[name] == r {
			acts = append(acts, "meta."+name)
		}
	}
	if acts == nil {
		return "idle, since an earlier rule acts on that"
	}
	return r.spec.Action + " acts on " + strings.Join(acts, ", ")
}
