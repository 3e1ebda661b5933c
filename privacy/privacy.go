// Package privacy decides what may leave the device.
//
// The parties are the rules of the [privacy] section, a Filter that applies
// them, and whoever writes to disk, logs, pages or the network: those take only
// a Cleared, which only a Filter makes. The filter stands directly behind the
// poller, so what it withholds has been nowhere but in memory.
//
// What it promises:
//
//   - A reading that a drop rule matches leaves in no form, wherever the rule
//     stands in the list. Otherwise rules count in their order, and of several
//     that cover a field the first one transforms it.
//   - It fails closed. A reading is dropped and counted when an action cannot be
//     applied to what it covers, when its key is missing, or when a rule panics.
//     A rule that cannot be understood refuses the whole config.
//   - Neither its errors nor its logs carry a value, or a name that came with one.
//
// What a rule can act on are the value and the metadata fields. A touched
// reading also loses its reason, which may quote what the sensor delivered, and
// metadata that repeats an original. Name, type, unit, tags and time travel as
// they are: where those tell too much, drop.
//
// The only file is the key of hash actions (EnsureKey), 32 random bytes made
// once and never replaced; tokens compare only while it stays. A power loss
// costs the windows of aggregate rules that were still open, and nothing else.
package privacy

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
)

// maxRules bounds the work per reading.
const maxRules = 256

// maxScopes bounds the memory for names already judged. Names beyond it, which
// only a device that invents them has, make the filter forget and start again.
const maxScopes = 1024

// Options are what a Filter needs beside its rules.
type Options struct {
	Key []byte // 32 bytes, of hash actions; nil when there is none
	Log zerolog.Logger
}

// Filter applies the rules. It is safe for concurrent use.
type Filter struct {
	enabled    bool
	rules      []*rule
	policyHash string
	keyID      string // "" without a key
	log        zerolog.Logger

	windows windows

	mu     sync.RWMutex
	scopes map[identity][]scope // of the sensors seen; at most maxScopes

	evaluated, passed, transformed, aggregated, dropped, errors atomic.Uint64
	faults                                                      atomic.Uint64 // errors that no rule stands for
}

// identity is what of a reading stays the same from one to the next.
type identity struct{ sensor, sensorType, ingest string }

// New compiles the rules, also when they are not enabled. Its error is a
// *config.Error that names every rule it refuses and says why.
func New(c config.Privacy, o Options) (*Filter, error) {
	f := &Filter{enabled: c.Enabled, policyHash: policyHash(c), log: o.Log, scopes: map[identity][]scope{}}
	if o.Key != nil {
		if len(o.Key) != KeySize {
			return nil, fmt.Errorf("privacy key has %d bytes instead of %d", len(o.Key), KeySize)
		}
		f.keyID = KeyID(o.Key)
	}
	if len(c.Rules) > maxRules {
		return nil, &config.Error{Problems: []config.Problem{{
			Key: "privacy.rules", Message: fmt.Sprintf("%d rules, the most is %d", len(c.Rules), maxRules),
		}}}
	}
	var problems []config.Problem
	for i, spec := range c.Rules {
		key := fmt.Sprintf("privacy.rules[%d]", i)
		r, err := compileRule(key, spec, o.Key)
		if err != nil {
			problems = append(problems, config.Under(key, err))
			continue
		}
		f.rules = append(f.rules, r)
	}
	if problems != nil {
		return nil, &config.Error{Problems: problems}
	}
	return f, nil
}

// Clear applies the rules to r and appends what may leave to dst: nothing, r in
// the form the rules gave it, or windows of aggregate rules that are over.
func (f *Filter) Clear(dst []Cleared, r sensors.Reading) (out []Cleared) {
	f.evaluated.Add(1)
	if !f.enabled || len(f.rules) == 0 {
		f.passed.Add(1)
		return append(dst, Cleared{reading: r, ok: true})
	}
	defer func() {
		if p := recover(); p != nil {
			// The panic's text may quote a value; its type cannot.
			f.failed(nil, fmt.Errorf("the filter panicked (%T)", p))
			out = dst
		}
	}()
	scopes, err := f.scopesOf(&r)
	if err != nil {
		f.failed(nil, err)
		return dst
	}
	d := decide(scopes, &r)
	switch {
	case d.drop != nil:
		d.drop.hits.Add(1)
		f.dropped.Add(1)
		return dst
	case d.value != nil && d.value.spec.Action == actAggregate:
		return f.aggregate(dst, d.value, &r)
	case d.value == nil && d.fields == nil:
		f.passed.Add(1)
		return append(dst, Cleared{reading: r, ok: true})
	}
	r, culprit, err := apply(d, r)
	if err != nil {
		f.failed(culprit, err)
		return dst
	}
	d.countHits()
	f.transformed.Add(1)
	return append(dst, Cleared{reading: r, ok: true})
}

func (f *Filter) aggregate(dst []Cleared, rule *rule, r *sensors.Reading) []Cleared {
	dst, err := f.windows.absorb(dst, rule, r)
	if err != nil {
		f.failed(rule, err)
		return dst
	}
	rule.hits.Add(1)
	f.aggregated.Add(1)
	return dst
}

func (d *decision) countHits() {
	if d.value != nil {
		d.value.hits.Add(1)
	}
	for _, r := range d.fields {
		r.hits.Add(1)
	}
}

// scopesOf returns the rules that may act on r, judging its names only once.
func (f *Filter) scopesOf(r *sensors.Reading) ([]scope, error) {
	if err := checkNames(r); err != nil {
		return nil, err
	}
	id := identity{r.Sensor, r.Type, r.Ingest}
	f.mu.RLock()
	scopes, ok := f.scopes[id]
	f.mu.RUnlock()
	if ok {
		return scopes, nil
	}
	for _, rule := range f.rules {
		if s, ok := rule.scope(id); ok {
			scopes = append(scopes, s)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.scopes) >= maxScopes {
		clear(f.scopes)
	}
	f.scopes[id] = scopes
	return scopes, nil
}

var errLongName = errors.New("a name of the reading is too long to be judged")

func checkNames(r *sensors.Reading) error {
	if len(r.Sensor) > maxNameBytes || len(r.Type) > maxNameBytes || len(r.Ingest) > maxNameBytes {
		return errLongName
	}
	for k, v := range r.Tags {
		if len(k)+len(v) > maxNameBytes {
			return errLongName
		}
	}
	for k := range r.Meta {
		if len(k) > maxNameBytes {
			return errLongName
		}
	}
	return nil
}

// failed counts a reading that was dropped because it could not be judged or
// changed as a rule demands. It logs the 1st, 2nd, 4th, 8th … of a rule, which
// tells of a lasting fault without filling the log.
func (f *Filter) failed(rule *rule, err error) {
	f.errors.Add(1)
	key, count := "", &f.faults
	if rule != nil {
		key, count = rule.key, &rule.errors
	}
	n := count.Add(1)
	if n&(n-1) == 0 {
		f.log.Warn().Str("rule", key).Uint64("count", n).Err(err).Msg("reading dropped: its privacy rule could not be applied")
	}
}
