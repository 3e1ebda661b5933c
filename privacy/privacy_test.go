package privacy

import (
	"bytes"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// seedRules are those of the fleet guide's config template.
func seedRules() []config.Rule {
	return []config.Rule{
		newRule(func(r *config.Rule) { r.SensorPattern, r.Action = "*password*", "drop" }),
		newRule(func(r *config.Rule) { r.SensorPattern, r.Action = "*email*", "hash" }),
	}
}

func line(c Cleared) string {
	w := c.Wire()
	return string(w.AppendJSON(nil))
}

func TestSeedRules(t *testing.T) {
	const mail = "bob@example.com"
	for _, tt := range []struct {
		name     string
		in       sensors.Reading
		outcome  Outcome
		wantHash bool // of the value; else of meta.User_Email
	}{
		{name: "other", in: sensors.Reading{Sensor: "temp-01", Value: number(21.5)}, outcome: Pass},
		{name: "name has password", in: sensors.Reading{Sensor: "room/Password.1", Value: text("x")}, outcome: Drop},
		{name: "meta has password", in: sensors.Reading{Sensor: "door", Value: number(1), Meta: map[string]wire.Value{"wifi_PASSWORD": text("x")}}, outcome: Drop},
		{name: "both", in: sensors.Reading{Sensor: "email-password", Value: text(mail)}, outcome: Drop},
		{name: "name has email", in: sensors.Reading{Sensor: "Visitor/E-Mail.email", Value: text(mail)}, outcome: Transform, wantHash: true},
		{name: "meta has email", in: sensors.Reading{Sensor: "door", Value: number(1), Meta: map[string]wire.Value{"User_Email": text(mail), "n": number(7)}}, outcome: Transform},
		{name: "type does not count", in: sensors.Reading{Sensor: "x", Type: "email", Value: number(1)}, outcome: Pass},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFilter(t, seedRules()...)
			got := f.Clear(nil, tt.in)
			if e := f.Explain(tt.in); e.Outcome != tt.outcome {
				t.Errorf("Explain: %s, want %s", e.Outcome, tt.outcome)
			}
			if tt.outcome == Drop {
				if s := f.Stats(); len(got) != 0 || s.Dropped != 1 || s.PerRule[0].Hits != 1 || s.PerRule[1].Hits != 0 {
					t.Errorf("cleared %v, stats %+v", got, s)
				}
				return
			}
			if len(got) != 1 {
				t.Fatal("nothing left")
			}
			if tt.outcome == Pass {
				if diff := cmp.Diff(tt.in.Meta, got[0].Wire().Meta, cmp.AllowUnexported(wire.Value{})); diff != "" || got[0].Wire().Value != tt.in.Value {
					t.Errorf("changed: %s", diff)
				}
				return
			}
			w := got[0].Wire()
			hashed, kept := w.Meta["User_Email"], w.Value
			if tt.wantHash {
				hashed, kept = w.Value, tt.in.Value
			}
			if s, _ := hashed.Text(); !strings.HasPrefix(s, "h1:"+KeyID(testKey)+":") || strings.Contains(line(got[0]), mail) {
				t.Errorf("left %s, want a token and no address", line(got[0]))
			}
			if kept != tt.in.Value {
				t.Errorf("the value became %v", kept)
			}
		})
	}
}

func TestEveryGivenKeyMustMatch(t *testing.T) {
	in := sensors.Reading{
		Sensor: "hall.power", Type: "power", Ingest: "modbus", Value: number(1),
		Tags: map[string]string{"site": "berlin", "floor": "2"},
		Meta: map[string]wire.Value{"owner": text("bob")},
	}
	full := config.Rule{SensorPattern: "HALL*", SensorType: "pow*", IngestType: "mod?us", Tag: "SITE=b*", Field: "own*", Action: "drop"}
	drops := func(r config.Rule) bool { return len(newFilter(t, r).Clear(nil, in)) == 0 }
	if !drops(full) {
		t.Error("all keys match, and the reading passed")
	}
	for key, miss := range map[string]func(*config.Rule){
		"sensor_pattern": func(r *config.Rule) { r.SensorPattern = "kitchen*" },
		// With field, the pattern is about the sensor's name only.
		"sensor_pattern of a field": func(r *config.Rule) { r.SensorPattern = "owner" },
		"sensor_type":               func(r *config.Rule) { r.SensorType = "p" },
		"ingest_type":               func(r *config.Rule) { r.IngestType = "mod?" },
		"tag":                       func(r *config.Rule) { r.Tag = "site=munich" },
		"tag across tags":           func(r *config.Rule) { r.Tag = "site=2" },
		"field":                     func(r *config.Rule) { r.Field = "address" },
	} {
		r := full
		miss(&r)
		if drops(r) {
			t.Errorf("%s does not match, and the reading was dropped", key)
		}
	}
	for _, r := range []config.Rule{
		{SensorType: "POWER", Action: "drop"}, {IngestType: "modbus", Action: "drop"},
		{Tag: "*=berlin", Action: "drop"}, {Field: "*", Action: "drop"}, {SensorPattern: "owner", Action: "drop"},
	} {
		if !drops(r) {
			t.Errorf("%+v does not match alone", r)
		}
	}
}

func TestOrder(t *testing.T) {
	rule := func(pattern, field, action string) config.Rule {
		return newRule(func(r *config.Rule) {
			r.SensorPattern, r.Field, r.Action = pattern, field, action
			if action == "round" {
				r.Step = 10
			}
		})
	}
	in := sensors.Reading{Sensor: "s", Value: number(23), Meta: map[string]wire.Value{"a": number(31), "b": text("bee")}}
	for _, tt := range []struct {
		name  string
		rules []config.Rule
		want  string // value, then metadata
	}{
		{"first transform of the value", []config.Rule{rule("s", "", "round"), rule("s", "", "redact")}, `20 {"a":31,"b":"bee"}`},
		{"the other way round", []config.Rule{rule("s", "", "redact"), rule("s", "", "round")}, `"[redacted]" {"a":31,"b":"bee"}`},
		{"one per field", []config.Rule{rule("", "a", "round"), rule("", "*", "redact"), rule("s", "", "round")}, `20 {"a":30,"b":"[redacted]"}`},
		{"drop_field first", []config.Rule{rule("", "b", "drop_field"), rule("", "*", "redact")}, `23 {"a":"[redacted]"}`},
		{"drop_field behind", []config.Rule{rule("", "*", "redact"), rule("", "b", "drop_field")}, `23 {"a":"[redacted]","b":"[redacted]"}`},
		{"drop_field by name of the field", []config.Rule{rule("b", "", "drop_field")}, `23 {"a":31}`},
		{"drop_field of the value", []config.Rule{rule("", "a", "round"), rule("s", "", "drop_field")}, ``},
		{"drop behind", []config.Rule{rule("s", "", "redact"), rule("", "b", "drop")}, ``},
		{"a star says nothing of fields", []config.Rule{rule("*", "", "round")}, `20 {"a":31,"b":"bee"}`},
		{"a field's rule that fails", []config.Rule{rule("", "b", "round")}, ``},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := maps.Clone(in.Meta)
			f := newFilter(t, tt.rules...)
			got := ""
			for _, c := range f.Clear(nil, in) {
				w := wire.Reading{Meta: c.Wire().Meta}
				_, meta, _ := strings.Cut(string(w.AppendJSON(nil)), `"meta":`)
				got = string(c.Wire().Value.AppendJSON(nil)) + " " + strings.TrimSuffix(meta, "}")
			}
			if got != tt.want {
				t.Errorf("left %s, want %s", got, tt.want)
			}
			if !maps.Equal(before, in.Meta) {
				t.Error("the reading's own metadata was changed")
			}
		})
	}
}

// A pattern that fits the name and a field covers both: whoever protects
// *email* means the field of an email sensor too.
func TestPatternCoversNameAndFields(t *testing.T) {
	f := newFilter(t, seedRules()...)
	got := f.Clear(nil, sensors.Reading{Sensor: "email-gate", Value: text("login"), Meta: map[string]wire.Value{"email": text("bob@example.com")}})
	if len(got) != 1 || strings.Contains(line(got[0]), "login") || strings.Contains(line(got[0]), "bob") {
		t.Errorf("left %v", got)
	}
}

func TestOriginalsLeaveNeitherInReasonNorInCopies(t *testing.T) {
	f := newFilter(t, onSensors("redact", nil))
	got := f.Clear(nil, sensors.Reading{
		Sensor: "s", Value: text("bob@example.com"), Quality: wire.Uncertain, Reason: `cut: "bob@example.com"`,
		Meta: map[string]wire.Value{"raw": text("<BOB@example.com>"), "topic": text("a/b"), "same": text("bob@example.com")},
	})
	if len(got) != 1 {
		t.Fatal("nothing left")
	}
	w := got[0].Wire()
	if w.Reason != withheldReason || w.Quality != wire.Uncertain || len(w.Meta) != 1 || w.Meta["topic"] != text("a/b") {
		t.Errorf("left %s", line(got[0]))
	}
	got = f.Clear(nil, sensors.Reading{
		Sensor: "s", Value: number(21.5),
		Meta: map[string]wire.Value{"raw": number(21.5), "text": text("21.5"), "n": number(2)},
	})
	if len(got) != 1 || len(got[0].Wire().Meta) != 1 {
		t.Errorf("left %v, want n alone", got)
	}
	// Too short to be told from a coincidence.
	got = f.Clear(nil, sensors.Reading{Sensor: "s", Value: number(1), Meta: map[string]wire.Value{"channel": number(1)}})
	if len(got) != 1 || len(got[0].Wire().Meta) != 1 {
		t.Errorf("left %v, want the channel", got)
	}
	// A failed read has nothing to hide but its reason, which may quote what
	// could not be understood.
	got = f.Clear(nil, sensors.Reading{Sensor: "s", Quality: wire.Bad, Reason: `not a number: "bob@example.com"`})
	if len(got) != 1 || got[0].Wire().Value.Kind() != wire.None || got[0].Wire().Reason != withheldReason {
		t.Errorf("left %v", got)
	}
	// Nobody covers this one.
	f = newFilter(t, seedRules()...)
	got = f.Clear(nil, sensors.Reading{Sensor: "s", Quality: wire.Bad, Reason: "no answer"})
	if len(got) != 1 || got[0].Wire().Reason != "no answer" {
		t.Errorf("left %v", got)
	}
}

func TestFailsClosed(t *testing.T) {
	const secret = "bob@example.com"
	reading := sensors.Reading{Sensor: "s-" + secret, Value: text(secret), Reason: secret, Meta: map[string]wire.Value{"m": text(secret)}}
	panicking := func(f *Filter) {
		f.rules[0].transform = func(_ string, v wire.Value) (wire.Value, error) { panic(v.String()) }
	}
	for name, tt := range map[string]struct {
		rule config.Rule
		key  []byte
		hurt func(*Filter)
		in   sensors.Reading
	}{
		"inapplicable":             {onSensors("round", func(r *config.Rule) { r.Step = 1 }), testKey, nil, reading},
		"no key":                   {onSensors("hash", nil), nil, nil, reading},
		"panic":                    {onSensors("redact", nil), testKey, panicking, reading},
		"panic for a field":        {newRule(func(r *config.Rule) { r.Field, r.Action = "m", "redact" }), testKey, panicking, reading},
		"panic in matching":        {onSensors("redact", nil), testKey, func(f *Filter) { f.rules[0] = nil }, reading},
		"unknown action, run time": {onSensors("redact", nil), testKey, func(f *Filter) { f.rules[0].transform = nil }, reading},
		"long name":                {onSensors("redact", nil), testKey, nil, sensors.Reading{Sensor: strings.Repeat("s", maxNameBytes+1)}},
		"long field":               {onSensors("redact", nil), testKey, nil, sensors.Reading{Meta: map[string]wire.Value{strings.Repeat("s", maxNameBytes+1): {}}}},
		"long tag":                 {onSensors("redact", nil), testKey, nil, sensors.Reading{Tags: map[string]string{"k": strings.Repeat("s", maxNameBytes)}}},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			f, err := New(config.Privacy{Enabled: true, Rules: []config.Rule{tt.rule}}, Options{Key: tt.key, Log: zerolog.New(&log)})
			if err != nil {
				t.Fatal(err)
			}
			if tt.hurt != nil {
				tt.hurt(f)
			}
			before := []Cleared{{reading: sensors.Reading{Sensor: "before"}, ok: true}}
			const times = 100
			for range times {
				if got := f.Clear(before, tt.in); len(got) != 1 || got[0].Name() != "before" {
					t.Fatalf("cleared %v, want only what was there before", got)
				}
			}
			if f.errors.Load() != times || f.evaluated.Load() != times {
				t.Errorf("%d errors of %d evaluated, want %d", f.errors.Load(), f.evaluated.Load(), times)
			}
			if lines := strings.Count(log.String(), "\n"); lines == 0 || lines > 8 {
				t.Errorf("%d lines were logged, want a few", lines)
			}
			if strings.Contains(log.String(), secret) {
				t.Errorf("the log tells the secret: %s", log.String())
			}
			if e := f.Explain(tt.in); e.Outcome != Failed || e.Left != nil {
				t.Errorf("Explain: %+v, want an error", e)
			}
		})
	}
}

func TestDisabled(t *testing.T) {
	f, err := New(config.Privacy{Rules: []config.Rule{onSensors("drop", nil)}}, Options{Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	in := sensors.Reading{Sensor: "s", Value: number(1)}
	if got := f.Clear(nil, in); len(got) != 1 || f.Explain(in).Outcome != Pass {
		t.Error("a filter that is not enabled dropped a reading")
	}
	if s := f.Stats(); s.Enabled || s.Rules != 1 || s.Passed != 1 {
		t.Errorf("stats %+v", s)
	}
}

func TestPolicyHash(t *testing.T) {
	hash := func(c config.Privacy) string {
		f, err := New(c, Options{Log: zerolog.Nop()})
		if err != nil {
			t.Fatal(err)
		}
		return f.Stats().PolicyHash
	}
	rules := seedRules()
	base := hash(config.Privacy{Enabled: true, Rules: rules})
	const golden = "6a86a8f24e9594e9905988800dd1376e24bcca1b9fb072c8cf185e034f380a1f"
	if base != golden {
		t.Errorf("the template's rules hash to %s, want %s", base, golden)
	}
	same := seedRules()
	same[0].Replacement, same[1].Statistic = "ignored", "max"
	if got := hash(config.Privacy{Enabled: true, Rules: same, KeyFile: "/else"}); got != base {
		t.Error("settings that the actions ignore change the hash")
	}
	for name, c := range map[string]config.Privacy{
		"order":    {Enabled: true, Rules: []config.Rule{rules[1], rules[0]}},
		"disabled": {Rules: rules},
		"fewer":    {Enabled: true, Rules: rules[:1]},
		"none":     {Enabled: true},
		"pattern":  {Enabled: true, Rules: []config.Rule{rules[0], onSensors("hash", nil)}},
	} {
		if hash(c) == base {
			t.Errorf("%s: the hash is the same", name)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	f := newFilter(t, append(seedRules(), aggregateRule("p*", "mean", 1))...)
	var wg sync.WaitGroup
	const workers, each = 8, 300
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				f.Clear(nil, sensors.Reading{Sensor: fmt.Sprint("x", i%7), Value: number(1)})
				f.Clear(nil, sensors.Reading{Sensor: "email", Value: text("a@b.example")})
				f.Clear(nil, sensors.Reading{Sensor: fmt.Sprint("p", w), Value: number(1)})
				f.Clear(nil, sensors.Reading{Sensor: fmt.Sprint("password", w, i), Value: number(1)})
				f.Stats()
			}
		})
	}
	wg.Wait()
	const n = workers * each
	s := f.Stats()
	if s.Evaluated != 4*n || s.Passed != n || s.Transformed != n || s.Aggregated != n || s.Dropped != n || s.Errors != 0 {
		t.Errorf("stats %+v, want %d of each", s, n)
	}
	if len(f.scopes) > maxScopes {
		t.Errorf("%d names are remembered, the most is %d", len(f.scopes), maxScopes)
	}
}

func TestClearAllocatesNothingWhenNothingMatches(t *testing.T) {
	f, r := benchmarkFilter(t), benchmarkReading()
	dst := f.Clear(nil, r)
	if n := testing.AllocsPerRun(100, func() { dst = f.Clear(dst[:0], r) }); n != 0 {
		t.Errorf("%v allocations per reading", n)
	}
}

func benchmarkFilter(tb testing.TB) *Filter {
	rules := append(seedRules(), newRule(func(r *config.Rule) { r.Tag, r.Action = "site=paris", "drop" }))
	for i := range 20 {
		rules = append(rules, newRule(func(r *config.Rule) { r.SensorPattern, r.Action = fmt.Sprintf("*room%d/*", i), "redact" }))
	}
	return newFilter(tb, rules...)
}

func benchmarkReading() sensors.Reading {
	return sensors.Reading{
		Sensor: "temp-01", Type: "temperature", Ingest: "mqtt", Value: number(21.5), Unit: "C", Time: time.Now(), Quality: wire.Good,
		Tags: map[string]string{"site": "berlin"}, Meta: map[string]wire.Value{"topic": text("home/temp")},
	}
}

func BenchmarkClearUnmatched(b *testing.B) {
	f, r := benchmarkFilter(b), benchmarkReading()
	dst := f.Clear(nil, r)
	b.ReportAllocs()
	for b.Loop() {
		dst = f.Clear(dst[:0], r)
	}
}

func BenchmarkClearHashed(b *testing.B) {
	f, r := benchmarkFilter(b), benchmarkReading()
	r.Sensor, r.Value = "email", text("bob@example.com")
	dst := f.Clear(nil, r)
	b.ReportAllocs()
	for b.Loop() {
		dst = f.Clear(dst[:0], r)
	}
}
