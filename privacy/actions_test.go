package privacy

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"math"
	"regexp"
	"strings"
	"testing"

	"github.com/rs/zerolog"
	"golang.org/x/crypto/nacl/box"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

var (
	number = wire.NumberValue
	text   = wire.TextValue
	truth  = wire.BoolValue
)

// testKey is the key of the golden tokens.
var testKey = func() []byte {
	key := make([]byte, KeySize)
	for i := range key {
		key[i] = byte(i)
	}
	return key
}()

// newRule returns a rule as the config decodes it: defaults first.
func newRule(set func(*config.Rule)) config.Rule {
	var r config.Rule
	r.SetDefaults()
	set(&r)
	return r
}

func onSensors(action string, set func(*config.Rule)) config.Rule {
	return newRule(func(r *config.Rule) {
		r.SensorPattern, r.Action = "*", action
		if set != nil {
			set(r)
		}
	})
}

func newFilter(t testing.TB, rules ...config.Rule) *Filter {
	t.Helper()
	f, err := New(config.Privacy{Enabled: true, Rules: rules}, Options{Key: testKey, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func ptr[T any](v T) *T { return &v }

func TestActions(t *testing.T) {
	redact := onSensors("redact", nil)
	redactOwn := onSensors("redact", func(r *config.Rule) { r.Replacement = "-" })
	hash := onSensors("hash", nil)
	mask4 := onSensors("mask", func(r *config.Rule) { r.KeepLast = 4 })
	mask0 := onSensors("mask", nil)
	truncate := onSensors("truncate", nil)
	geo2 := onSensors("truncate", func(r *config.Rule) { r.Decimals = ptr(2) })
	geo0 := onSensors("truncate", func(r *config.Rule) { r.Decimals = ptr(0) })
	round := func(step float64) config.Rule {
		return onSensors("round", func(r *config.Rule) { r.Step = step })
	}
	for _, tt := range []struct {
		name string
		rule config.Rule
		in   wire.Value
		want wire.Value
		drop bool // the action cannot be applied
	}{
		{name: "redact text", rule: redact, in: text("secret"), want: text("[redacted]")},
		{name: "redact number", rule: redactOwn, in: number(21.5), want: text("-")},
		{name: "redact nothing", rule: redact, in: wire.Value{}, want: wire.Value{}},

		{name: "hash text", rule: hash, in: text("bob@example.com"), want: text("h1:c79b66c4:e03ca3909975437d8c7dd0ad9ca7d7c5")},
		{name: "hash number", rule: hash, in: number(21.37), want: text("h1:c79b66c4:")},
		{name: "hash number as text", rule: hash, in: text("21.37"), want: text("h1:c79b66c4:")},
		{name: "hash zero", rule: hash, in: number(0), want: text("h1:c79b66c4:")},
		{name: "hash minus zero", rule: hash, in: number(math.Copysign(0, -1)), want: text("h1:c79b66c4:")},
		{name: "hash true", rule: hash, in: truth(true), want: text("h1:c79b66c4:")},
		{name: "hash nothing", rule: hash, in: wire.Value{}, want: wire.Value{}},

		{name: "mask long text", rule: mask4, in: text("4111111111111234"), want: text("****1234")},
		{name: "mask counts characters", rule: mask4, in: text("ääääääääö€"), want: text("****ääö€")},
		{name: "mask twice the rest", rule: mask4, in: text("12345678"), want: text("[redacted]")},
		{name: "mask one more", rule: mask4, in: text("123456789"), want: text("****6789")},
		{name: "mask short text", rule: mask4, in: text("123"), want: text("[redacted]")},
		{name: "mask all", rule: mask0, in: text("secret"), want: text("****")},
		{name: "mask empty", rule: mask0, in: text(""), want: text("[redacted]")},
		{name: "mask number", rule: mask4, in: number(4111111111111234), want: text("[redacted]")},
		{name: "mask truth value", rule: mask4, in: truth(true), want: text("[redacted]")},

		{name: "truncate IPv4", rule: truncate, in: text("192.168.17.23"), want: text("192.168.17.0")},
		{name: "truncate IPv6", rule: truncate, in: text("2001:db8:1234:5678::1"), want: text("2001:db8:1234::")},
		{name: "truncate IPv6 with zone", rule: truncate, in: text("fe80::1:2%eth0"), want: text("fe80::")},
		{name: "truncate IPv4 in IPv6", rule: truncate, in: text("::ffff:10.1.2.3"), want: text("10.1.2.0")},
		{name: "truncate address with decimals", rule: geo2, in: text(" 10.1.2.3 "), want: text("10.1.2.0")},
		{name: "truncate address and port", rule: truncate, in: text("10.1.2.3:80"), drop: true},
		{name: "truncate name", rule: geo2, in: text("Main Street 5"), drop: true},
		{name: "truncate empty", rule: geo2, in: text(""), drop: true},
		{name: "truncate coordinate", rule: geo2, in: number(52.516275), want: number(52.51)},
		{name: "truncate towards zero", rule: geo2, in: number(-13.379), want: number(-13.37)},
		{name: "truncate hides the side of zero", rule: geo2, in: number(-0.004), want: number(0)},
		{name: "truncate is decimal", rule: geo2, in: number(0.29), want: number(0.29)},
		{name: "truncate to whole", rule: geo0, in: number(52.9), want: number(52)},
		{name: "truncate pair", rule: geo2, in: text("52.516275, -0.001"), want: text("52.51,0.00")},
		{name: "truncate triple", rule: geo0, in: text("52.5,13.4,34.9"), want: text("52,13,34")},
		{name: "truncate number without decimals", rule: truncate, in: number(52.5), drop: true},
		{name: "truncate pair without decimals", rule: truncate, in: text("52.5,13.4"), drop: true},
		{name: "truncate truth value", rule: geo2, in: truth(true), drop: true},
		{name: "truncate nothing", rule: geo2, in: wire.Value{}, want: wire.Value{}},

		{name: "round half", rule: round(0.5), in: number(21.37), want: number(21.5)},
		{name: "round tenth", rule: round(0.1), in: number(21.37), want: number(21.4)},
		{name: "round ten", rule: round(10), in: number(1234), want: number(1230)},
		{name: "round hides the side of zero", rule: round(10), in: number(-3), want: number(0)},
		{name: "round overflow", rule: round(1e-300), in: number(1e300), drop: true},
		{name: "round text", rule: round(1), in: text("21.37"), drop: true},
		{name: "round truth value", rule: round(1), in: truth(true), drop: true},
		{name: "round nothing", rule: round(1), in: wire.Value{}, want: wire.Value{}},

		{name: "aggregate text", rule: onSensors("aggregate", func(r *config.Rule) { r.WindowMinutes = 1 }), in: text("x"), drop: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFilter(t, tt.rule)
			got := f.Clear(nil, sensors.Reading{Sensor: "s", Value: tt.in, Quality: wire.Good})
			if tt.drop {
				if s := f.Stats(); len(got) != 0 || s.Errors != 1 || s.PerRule[0].Errors != 1 {
					t.Fatalf("cleared %v with stats %+v, want a counted drop", got, s)
				}
				return
			}
			if len(got) != 1 || !got[0].Valid() {
				t.Fatalf("cleared %v, want one reading; %+v", got, f.Stats())
			}
			v := got[0].Wire().Value
			if want, _ := tt.want.Text(); strings.HasPrefix(want, "h1:") && strings.HasSuffix(want, ":") {
				if s, _ := v.Text(); !regexp.MustCompile("^" + want + "[0-9a-f]{32}$").MatchString(s) {
					t.Errorf("value %v, want a token %s…", v, want)
				}
			} else if v != tt.want || v.String() != tt.want.String() { // String tells -0 from 0
				t.Errorf("value %v, want %v", v, tt.want)
			}
		})
	}
}

// Tokens join data that was sent years apart: they must never change. These were
// computed by another program from the description at hashToken.
func TestHashTokensGolden(t *testing.T) {
	for _, tt := range []struct {
		field string
		v     wire.Value
		want  string
	}{
		{"value", text("bob@example.com"), "h1:c79b66c4:e03ca3909975437d8c7dd0ad9ca7d7c5"},
		{"meta.user_email", text("bob@example.com"), "h1:c79b66c4:ddbed5ebaf1c055a94bffa2d46162b92"},
		{"value", number(21.37), "h1:c79b66c4:66fb05ad5fdc231f8c789b781e44ca98"},
		{"value", text("21.37"), "h1:c79b66c4:54ab6af0f1610ec61e6fb613acca1b76"},
		{"value", number(1), "h1:c79b66c4:84bac7f2a4578c40b8a5ec568668d255"},
		{"value", truth(true), "h1:c79b66c4:dae47e2734f10fa1957cc9270413dcee"},
		{"value", text("1"), "h1:c79b66c4:a1c81f4cc9254b086317911b47ecc8f4"},
		{"value", text(""), "h1:c79b66c4:9b742042cf8673f9307b22889c90635c"},
	} {
		got, err := hashToken(testKey, KeyID(testKey), tt.field, tt.v)
		if s, _ := got.Text(); err != nil || s != tt.want {
			t.Errorf("%s %v: token %s (%v), want %s", tt.field, tt.v, s, err, tt.want)
		}
	}
	zero, _ := hashToken(testKey, "", "value", number(0))
	minus, _ := hashToken(testKey, "", "value", number(math.Copysign(0, -1)))
	if zero != minus {
		t.Error("0 and -0 are equal and have different tokens")
	}
	if _, err := hashToken(nil, "", "value", text("x")); err == nil {
		t.Error("hashed without a key")
	}
}

func TestEncryptOpensForTheRecipient(t *testing.T) {
	public, private, err := box.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f := newFilter(t, onSensors("encrypt", func(r *config.Rule) { r.Recipient = hex.EncodeToString(public[:]) }))
	seen := map[string]bool{}
	for _, v := range []wire.Value{text("bob@example.com"), number(21.37), truth(false), truth(false)} {
		got := f.Clear(nil, sensors.Reading{Sensor: "s", Value: v})
		if len(got) != 1 {
			t.Fatalf("%v was dropped", v)
		}
		s, _ := got[0].Wire().Value.Text()
		if seen[s] {
			t.Error("equal values have equal boxes")
		}
		seen[s] = true
		encoded, ok := strings.CutPrefix(s, "e1:")
		sealed, err := base64.StdEncoding.DecodeString(encoded)
		if !ok || err != nil {
			t.Fatalf("value %q is no box: %v", s, err)
		}
		if n := len(sealed) - box.AnonymousOverhead; n != sealedBlock {
			t.Errorf("the box of %v holds %d bytes: its length tells that of the value", v, n)
		}
		plain, ok := box.OpenAnonymous(nil, sealed, public, private)
		if !ok {
			t.Fatalf("the recipient cannot open %q", s)
		}
		var back wire.Value
		if err := json.Unmarshal(plain, &back); err != nil || back != v {
			t.Errorf("opened %q (%v), want %v", plain, err, v)
		}
	}
}

func TestNewRefusesRules(t *testing.T) {
	for name, tt := range map[string]struct {
		rule config.Rule
		want string
	}{
		"unknown action":         {onSensors("scramble", nil), `.action: "scramble" is unknown`},
		"no action":              {onSensors("", nil), `.action: "" is unknown`},
		"matches nothing given":  {newRule(func(r *config.Rule) { r.Action = "drop" }), ": the rule matches nothing"},
		"bad pattern":            {onSensors("drop", func(r *config.Rule) { r.Tag = "\xff" }), ".tag: the pattern"},
		"round without step":     {onSensors("round", nil), ".step: "},
		"round NaN":              {onSensors("round", func(r *config.Rule) { r.Step = math.NaN() }), ".step: "},
		"round Inf":              {onSensors("round", func(r *config.Rule) { r.Step = math.Inf(1) }), ".step: "},
		"negative step":          {onSensors("round", func(r *config.Rule) { r.Step = -1 }), ".step: "},
		"negative keep_last":     {onSensors("mask", func(r *config.Rule) { r.KeepLast = -1 }), ".keep_last: "},
		"too many decimals":      {onSensors("truncate", func(r *config.Rule) { r.Decimals = ptr(7) }), ".decimals: "},
		"aggregate no window":    {onSensors("aggregate", nil), ".window_minutes: "},
		"aggregate short window": {onSensors("aggregate", func(r *config.Rule) { r.WindowMinutes = 1e-9 }), ".window_minutes: "},
		"aggregate long window":  {onSensors("aggregate", func(r *config.Rule) { r.WindowMinutes = 1e9 }), ".window_minutes: "},
		"aggregate statistic":    {onSensors("aggregate", func(r *config.Rule) { r.WindowMinutes, r.Statistic = 5, "median" }), `.statistic: "median"`},
		"aggregate of a field":   {onSensors("aggregate", func(r *config.Rule) { r.WindowMinutes, r.Field = 5, "x" }), ".field: "},
		"drop_field of values":   {onSensors("drop_field", nil), ".field: "},
		"encrypt no recipient":   {onSensors("encrypt", nil), ".recipient: must"},
		"encrypt short":          {onSensors("encrypt", func(r *config.Rule) { r.Recipient = "abcd" }), ".recipient: must"},
		"encrypt to everybody":   {onSensors("encrypt", func(r *config.Rule) { r.Recipient = strings.Repeat("0", 64) }), ".recipient: is not"},
		"tag that is no pair":    {newRule(func(r *config.Rule) { r.Action, r.Tag = "drop", "cellar" }), `.tag: "cellar" can match no tag`},
		"another's setting":      {onSensors("hash", func(r *config.Rule) { r.Step = 0.5 }), ".step: belongs to action round"},
	} {
		t.Run(name, func(t *testing.T) {
			// A good rule first: the error must name the second. Not enabled,
			// because turning privacy on must not be what breaks a config.
			c := config.Privacy{Rules: []config.Rule{onSensors("drop", nil), tt.rule}}
			_, err := New(c, Options{Key: testKey, Log: zerolog.Nop()})
			bad, ok := err.(*config.Error)
			if !ok {
				t.Fatalf("New: %v, want a *config.Error", err)
			}
			if p := bad.Problems; len(p) != 1 || !strings.HasPrefix(p[0].String(), "privacy.rules[1]"+tt.want) {
				t.Errorf("problems %+v, want one that begins privacy.rules[1]%s", p, tt.want)
			}
		})
	}
}

func TestNewRefusesTheRest(t *testing.T) {
	if _, err := New(config.Privacy{}, Options{Key: []byte("short")}); err == nil {
		t.Error("took a short key")
	}
	many := make([]config.Rule, maxRules+1)
	for i := range many {
		many[i] = onSensors("drop", nil)
	}
	if _, err := New(config.Privacy{Rules: many}, Options{}); err == nil {
		t.Error("took too many rules")
	}
}
