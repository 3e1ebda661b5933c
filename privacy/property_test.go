package privacy

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/rs/zerolog"
	"pgregory.net/rapid"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

var (
	someNames    = rapid.SampledFrom([]string{"email", "user_Email", "room/password", "temp", "temp.raw", "ip", "x"})
	somePatterns = rapid.SampledFrom([]string{"", "*", "*email*", "EMAIL", "temp*", "*pass*", "?", "i?", "*/*", "nobody"})
)

func drawRule(t *rapid.T) config.Rule {
	return newRule(func(r *config.Rule) {
		r.SensorPattern = somePatterns.Draw(t, "sensor_pattern")
		r.SensorType = rapid.SampledFrom([]string{"", "", "TE*", "power"}).Draw(t, "sensor_type")
		r.Tag = rapid.SampledFrom([]string{"", "", "site=*", "*=munich"}).Draw(t, "tag")
		r.Action = rapid.SampledFrom([]string{
			actDrop, actDropField, actRedact, actHash, actMask, actTruncate, actRound, actAggregate, actEncrypt,
		}).Draw(t, "action")
		if r.Action != actAggregate {
			r.Field = somePatterns.Draw(t, "field")
		}
		switch r.Action {
		case actMask:
			r.KeepLast = rapid.IntRange(0, 4).Draw(t, "keep_last")
		case actTruncate:
			r.Decimals = ptr(rapid.IntRange(0, 2).Draw(t, "decimals"))
		case actRound:
			r.Step = rapid.SampledFrom([]float64{0.5, 10}).Draw(t, "step")
		case actAggregate:
			r.WindowMinutes = 5
		case actEncrypt:
			r.Recipient = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
		}
	})
}

// drawSecret returns a value whose text form can be found again: no other
// value, name or token contains it.
func drawSecret(t *rapid.T, serial int) wire.Value {
	switch rapid.IntRange(0, 3).Draw(t, "kind") {
	case 0:
		return number(float64(rapid.IntRange(-180, 180).Draw(t, "whole")) + 0.1234003 + float64(serial)*0.0010101)
	case 1:
		return text(fmt.Sprintf("203.0.113.%d", 101+serial))
	case 2:
		return wire.Value{}
	}
	return text(fmt.Sprintf("secret~%d~%s", serial, rapid.StringMatching(`[a-zäß"\\]{0,9}`).Draw(t, "text")))
}

func drawReading(t *rapid.T) sensors.Reading {
	r := sensors.Reading{
		Sensor: someNames.Draw(t, "sensor"), Type: "temperature", Quality: wire.Good,
		Value: drawSecret(t, 0), Meta: map[string]wire.Value{},
	}
	if rapid.Bool().Draw(t, "tagged") {
		r.Tags = map[string]string{"site": "berlin"}
	}
	quotes := []string{"failed at", r.Value.String()}
	for i, name := range rapid.SliceOfNDistinct(someNames, 0, 4, rapid.ID).Draw(t, "fields") {
		r.Meta[name] = drawSecret(t, i+1)
		quotes = append(quotes, r.Meta[name].String())
	}
	if r.Value.Kind() != wire.None && rapid.Bool().Draw(t, "copied") {
		r.Meta["copy"] = text("raw " + r.Value.String() + " end")
	}
	r.Reason = strings.Join(quotes, " ")
	return r
}

// coverage says, in its own words, what of r a rule covers: "value", and the
// names of metadata fields.
func coverage(c config.Rule, r sensors.Reading) (covered []string) {
	fits := func(pattern, name string) bool { return naiveMatch([]rune(pattern), []rune(name)) }
	if c.SensorType != "" && !fits(c.SensorType, r.Type) {
		return nil
	}
	if c.Tag != "" {
		tagged := false
		for k, v := range r.Tags {
			tagged = tagged || fits(c.Tag, k+"="+v)
		}
		if !tagged {
			return nil
		}
	}
	named := c.SensorPattern == "" || fits(c.SensorPattern, r.Sensor)
	fields := c.Field
	if c.Field == "" {
		if named {
			covered = append(covered, "value")
		}
		if fields = c.SensorPattern; fields == "*" {
			fields = ""
		}
	} else if !named {
		return nil
	}
	for name := range r.Meta {
		if fields != "" && fits(fields, name) {
			covered = append(covered, "meta."+name)
		}
	}
	return covered
}

// Whatever the rules, and whatever the reading: what a rule covers does not
// leave as it was, a matching drop lets nothing leave, and what no rule covers
// leaves untouched.
func TestNothingCoveredLeaves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rules := rapid.SliceOfN(rapid.Custom(drawRule), 0, 5).Draw(t, "rules")
		f, err := New(config.Privacy{Enabled: true, Rules: rules}, Options{Key: testKey, Log: zerolog.Nop()})
		if err != nil {
			t.Skip("refused:", err)
		}
		in := drawReading(t)
		dropped := false
		covered := map[string]bool{}
		for _, c := range rules {
			names := coverage(c, in)
			dropped = dropped || c.Action == actDrop && names != nil || c.Action == actDropField && slices.Contains(names, "value")
			for _, name := range names {
				covered[name] = true
			}
		}
		before := maps.Clone(in.Meta)
		got := f.Clear(nil, in)
		checkExplained(t, f, in, got)
		if !maps.Equal(before, in.Meta) {
			t.Fatal("the reading's own metadata was changed")
		}
		if dropped && len(got) > 0 {
			t.Fatalf("a drop rule matches, and %s left", line(got[0]))
		}
		if len(covered) == 0 {
			if len(got) != 1 || got[0].Wire().Value != in.Value || got[0].Wire().Reason != in.Reason || !maps.Equal(got[0].Wire().Meta, in.Meta) {
				t.Fatalf("no rule covers it, and %v left", got)
			}
			return
		}
		for _, c := range got {
			left := line(c)
			for name := range covered {
				original := in.Value
				if name != "value" {
					original = in.Meta[strings.TrimPrefix(name, "meta.")]
				}
				if name == "meta.copy" || original.Kind() == wire.None {
					continue
				}
				quoted, _ := json.Marshal(original.String())
				if strings.Contains(left, original.String()) || strings.Contains(left, string(quoted[1:len(quoted)-1])) {
					t.Fatalf("a rule covers %s, and %s left", name, left)
				}
			}
		}
	})
}

// checkExplained holds Explain against what Clear did with the same reading.
func checkExplained(t *rapid.T, f *Filter, in sensors.Reading, got []Cleared) {
	e, s := f.Explain(in), f.Stats()
	counts := map[Outcome]uint64{Pass: s.Passed, Transform: s.Transformed, Aggregate: s.Aggregated, Drop: s.Dropped, Failed: s.Errors}
	if s.Evaluated != 1 || counts[e.Outcome] != 1 || s.Passed+s.Transformed+s.Aggregated+s.Dropped+s.Errors != 1 {
		t.Fatalf("explained as %s, counted as %+v", e.Outcome, s)
	}
	if (e.Left != nil) != (len(got) == 1) {
		t.Fatalf("explained as %+v, cleared %v", e, got)
	}
}

func FuzzClear(f *testing.F) {
	f.Add("*email*", "", "hash", "user_email", "bob@example.com", "topic", "a/b", 21.5)
	f.Add("", "ip", "truncate", "s", "x", "ip", "192.0.2.77", 0.0)
	f.Add("*", "", "round", "s", "", "", "", 1e308)
	f.Fuzz(func(t *testing.T, pattern, field, action, sensor, value, name, meta string, step float64) {
		rule := newRule(func(r *config.Rule) { r.SensorPattern, r.Field, r.Action = pattern, field, action })
		switch action {
		case actRound:
			rule.Step = step
		case actMask:
			rule.KeepLast = 3
		case actTruncate:
			rule.Decimals = ptr(2)
		case actAggregate:
			rule.WindowMinutes = 1
		}
		filter, err := New(config.Privacy{Enabled: true, Rules: []config.Rule{rule}}, Options{Key: testKey, Log: zerolog.Nop()})
		if err != nil {
			return
		}
		for _, v := range []wire.Value{text(value), number(step), {}} {
			in := sensors.Reading{Sensor: sensor, Value: v, Meta: map[string]wire.Value{name: text(meta)}}
			e := filter.Explain(in)
			got := filter.Clear(nil, in)
			if len(got) > 1 || (len(got) == 1) != (e.Left != nil) || len(got) == 1 && !got[0].Valid() {
				t.Fatalf("explained as %+v, cleared %v", e, got)
			}
			for _, c := range got {
				if !json.Valid([]byte(line(c))) {
					t.Errorf("left %q, which is not JSON", line(c))
				}
			}
		}
		if filter.faults.Load() > 0 && len(sensor) <= maxNameBytes && len(name) <= maxNameBytes {
			t.Error("the filter panicked")
		}
	})
}
