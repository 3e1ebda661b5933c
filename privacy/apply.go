package privacy

import (
	"errors"
	"maps"
	"strings"
	"unicode/utf8"

	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// withheldReason replaces the reason of a reading that a rule touched: a
// sensor's error may quote what the rule hides.
const withheldReason = "withheld by a privacy rule"

// apply returns r in the form that d's transforms give it; r's own maps stay as
// they are. On an error, which names the rule that could not be applied,
// nothing of r may leave.
func apply(d decision, r sensors.Reading) (_ sensors.Reading, culprit *rule, err error) {
	if r.Reason != "" {
		r.Reason = withheldReason
	}
	var originals []wire.Value
	if d.value != nil {
		originals = append(originals, r.Value)
		if r.Value, err = d.value.change("value", r.Value); err != nil {
			return sensors.Reading{}, d.value, err
		}
	}
	if len(r.Meta) == 0 {
		return r, nil, nil
	}
	meta := maps.Clone(r.Meta)
	for name, rule := range d.fields {
		originals = append(originals, meta[name])
		if rule.spec.Action == actDropField {
			delete(meta, name)
			continue
		}
		if meta[name], err = rule.change("meta."+name, meta[name]); err != nil {
			return sensors.Reading{}, rule, err
		}
	}
	for name, v := range meta {
		if d.fields[name] == nil && repeatsAny(v, originals) {
			delete(meta, name)
		}
	}
	r.Meta = meta
	return r, nil, nil
}

var errOneValue = errors.New("the action does not apply to a single field")

// change applies the rule's transform to one value. Where there is none there
// is nothing to hide, and a failed read stays one.
func (r *rule) change(field string, v wire.Value) (wire.Value, error) {
	if v.Kind() == wire.None {
		return v, nil
	}
	if r.transform == nil {
		return wire.Value{}, errOneValue
	}
	return r.transform(field, v)
}

// The least lengths of an original for which finding it elsewhere means a copy
// and not a coincidence: as the whole of another field, and inside a text.
const (
	minCopyRunes     = 4
	minContainedRune = 6
)

// repeatsAny reports whether the metadata value v repeats one of the originals
// that rules cover, such as the raw line from which a value was taken.
func repeatsAny(v wire.Value, originals []wire.Value) bool {
	text := strings.ToLower(v.String())
	for _, original := range originals {
		if original.Kind() != wire.Text && original.Kind() != wire.Number {
			continue
		}
		sought := strings.ToLower(original.String())
		n := utf8.RuneCountInString(sought)
		if n >= minCopyRunes && text == sought || n >= minContainedRune && strings.Contains(text, sought) {
			return true
		}
	}
	return false
}
