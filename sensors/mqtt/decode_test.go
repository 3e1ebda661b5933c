package mqtt

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

var (
	arrival = time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)
	equal   = cmp.Comparer(func(a, b wire.Value) bool { return a == b })
)

func decoderOf(t *testing.T, change func(*Options)) decoder {
	t.Helper()
	o := Type.Options().(*Options)
	change(o)
	d, err := newDecoder(*o, 10)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestRawMessages(t *testing.T) {
	tests := []struct {
		payload string
		value   wire.Value
		reason  string
	}{
		{" 21.5\n", wire.NumberValue(21.5), ""},
		{"-1e3", wire.NumberValue(-1000), ""},
		{"on", wire.BoolValue(true), ""},
		{"OFF", wire.BoolValue(false), ""},
		{"open", wire.TextValue("open"), ""},
		{`{"t":1}`, wire.TextValue(`{"t":1}`), ""},
		{strings.Repeat("é", 50), wire.TextValue("ééééééé"), ""},
		{"", wire.Value{}, "empty message"},
		{"NaN", wire.Value{}, "not a finite number"},
		{"-Inf", wire.Value{}, "not a finite number"},
		{"\xff\xfe", wire.Value{}, "neither a number nor a text"},
	}
	d := decoderOf(t, func(*Options) {})
	for _, tt := range tests {
		want := sensors.Sample{Value: tt.value, Time: arrival, Meta: map[string]wire.Value{"topic": wire.TextValue("a/b")}}
		if tt.reason != "" {
			want.Quality, want.Reason = wire.Bad, "message is "+tt.reason
			if tt.payload == "" {
				want.Reason = tt.reason
			}
		}
		if diff := cmp.Diff([]sensors.Sample{want}, d.decode("a/b", []byte(tt.payload), false, arrival), equal); diff != "" {
			t.Errorf("%q:\n%s", tt.payload, diff)
		}
	}
}

func TestChannels(t *testing.T) {
	tests := []struct {
		from, topic, want string
		bad               bool
	}{
		{"", "home/kitchen/t", "x", false},
		{"topic", "home/kitchen/t", "home/kitchen/t.x", false},
		{"2", "home/kitchen/t", "kitchen.x", false},
		{"-1", "home/kitchen/t", "t.x", false},
		{"-3", "home/kitchen/t", "home.x", false},
		{"4", "home/kitchen/t", "", true},
		{"-4", "home/kitchen/t", "", true},
		{"1", "/kitchen", "", true},
		{"topic", strings.Repeat("t", 300), "", true},
	}
	for _, tt := range tests {
		d := decoderOf(t, func(o *Options) { o.ChannelFrom, o.Fields = tt.from, map[string]string{"x": "x"} })
		got := d.decode(tt.topic, []byte(`{"x":1}`), false, arrival)
		if len(got) != 1 || got[0].Channel != tt.want || (got[0].Quality == wire.Bad) != tt.bad {
			t.Errorf("%q of %q: %+v", tt.from, tt.topic, got)
		}
	}
}

func TestRetained(t *testing.T) {
	at := func(o *Options) { o.JSONPath, o.TimestampPath = "v", "at" }
	const dated = `{"v":1,"at":"2026-01-01T00:00:00Z"}`
	if got := decoderOf(t, func(o *Options) { o.IgnoreRetained = true }).decode("a", []byte("1"), true, arrival); got != nil {
		t.Errorf("%+v", got)
	}
	if got := decoderOf(t, func(*Options) {}).decode("a", []byte("1"), true, arrival); got[0].Quality != wire.Uncertain || got[0].Reason == "" {
		t.Errorf("%+v", got)
	}
	if got := decoderOf(t, at).decode("a", []byte(dated), true, arrival); got[0].Quality != "" || got[0].Time.Month() != time.January {
		t.Errorf("%+v", got)
	}
}

func TestBadJSONIsABadSample(t *testing.T) {
	d := decoderOf(t, func(o *Options) { o.JSONPath, o.ChannelFrom = "v", "1" })
	for _, payload := range []string{"", "{", `{"w":1}`, strings.Repeat("[", 100000)} {
		got := d.decode("a", []byte(payload), false, arrival)
		if len(got) != 1 || got[0].Quality != wire.Bad || got[0].Channel != "a" || got[0].Reason == "" {
			t.Errorf("%.10q: %+v", payload, got)
		}
	}
}

func TestDecodeTakesAnything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := Type.Options().(*Options)
		o.JSONPath = rapid.SampledFrom([]string{"", "a", "a.#.b", "@flatten", "#(a>1)#"}).Draw(t, "path")
		o.ChannelFrom = rapid.SampledFrom([]string{"", "topic", "1", "-2"}).Draw(t, "from")
		d, err := newDecoder(*o, 10)
		if err != nil {
			t.Fatal(err)
		}
		got := d.decode(rapid.String().Draw(t, "topic"), rapid.SliceOf(rapid.Byte()).Draw(t, "payload"), rapid.Bool().Draw(t, "retained"), arrival)
		for _, s := range got {
			if s.Quality == wire.Bad && s.Reason == "" || s.Quality == "" && s.Value.Kind() == wire.None {
				t.Fatalf("%+v", s)
			}
			if text, _ := s.Value.Text(); len(text) > 10+utf8.UTFMax {
				t.Fatalf("%d bytes of text", len(text))
			}
		}
	})
}

func TestFollowFindsPacketBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const limit = 20000
		var stream []byte
		tooLong := false
		for _, size := range rapid.SliceOfN(rapid.OneOf(rapid.IntRange(0, 300), rapid.IntRange(0, 30000)), 0, 6).Draw(t, "sizes") {
			tooLong = tooLong || size > limit
			stream = append(stream, 0x30)
			for n := size; ; n >>= 7 {
				if n < 0x80 {
					stream = append(stream, byte(n))
					break
				}
				stream = append(stream, byte(n)|0x80)
			}
			stream = append(stream, make([]byte, size)...)
		}
		c := boundedConn{limit: limit}
		var err error
		for len(stream) > 0 && err == nil {
			n := min(len(stream), rapid.IntRange(1, 5000).Draw(t, "read"))
			err = c.follow(stream[:n])
			stream = stream[n:]
		}
		if (err != nil) != tooLong {
			t.Fatalf("error %v, too long %v", err, tooLong)
		}
		if err == nil && (c.body != 0 || c.inSize) {
			t.Fatalf("out of step: %+v", c)
		}
	})
	c := boundedConn{limit: 1 << 30}
	if err := c.follow([]byte{0x30, 0x80, 0x80, 0x80, 0x80}); err == nil {
		t.Error("a length of five bytes passed")
	}
}
