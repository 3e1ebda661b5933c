package sensors

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/wire"
)

func TestBounds(t *testing.T) {
	t.Run("samples of a read", func(t *testing.T) {
		p := newTestProcessor(t, func(d *config.Sensor) { d.MaxReadingsPerPoll = 3 })
		got, err := p.finished(nil, make([]Sample, 10), nil, at(0))
		if p.dropped != 7 || err == nil || len(got) != 1 { // equal empty values are told once
			t.Errorf("dropped %d, %v, %s", p.dropped, err, show(got))
		}
	})
	t.Run("samples that the sensor itself dropped", func(t *testing.T) {
		p := newTestProcessor(t, nil)
		for range 2 {
			p.finished(nil, nil, errors.Join(errors.New("offline"), fmt.Errorf("%w: poll more often", Dropped(5))), at(0))
		}
		if p.dropped != 10 {
			t.Errorf("dropped %d", p.dropped)
		}
	})
	t.Run("a year that has no form", func(t *testing.T) {
		p := newTestProcessor(t, nil)
		late := time.Date(9999, 12, 31, 23, 59, 59, 0, time.FixedZone("", -3600))
		got, _ := p.finished(nil, []Sample{{Value: wire.NumberValue(1), Time: late}}, nil, at(0))
		if r := got[0]; r.Quality != wire.Uncertain || !r.Time.Equal(at(0).wall) {
			t.Errorf("%s at %v", show(got), r.Time)
		}
	})
	t.Run("channels", func(t *testing.T) {
		p := newTestProcessor(t, nil)
		for i := range maxChannels + 5 {
			p.finished(nil, []Sample{{Channel: fmt.Sprint("c", i), Value: wire.NumberValue(1)}}, nil, at(float64(i)))
		}
		p.finished(nil, []Sample{{Channel: strings.Repeat("x", maxChannelBytes+1)}, {Channel: "\xff"}}, nil, at(999))
		if len(p.channels) != maxChannels || p.dropped != 7 {
			t.Errorf("%d channels, dropped %d", len(p.channels), p.dropped)
		}
	})
	t.Run("metadata", func(t *testing.T) {
		meta := map[string]wire.Value{"a": wire.NumberValue(1), "b": wire.TextValue(strings.Repeat("x", maxMetaBytes)), "c": wire.TextValue("\xff"), "d": wire.BoolValue(true)}
		for i := range maxMetaKeys {
			meta[fmt.Sprintf("e%02d", i)] = wire.NumberValue(1)
		}
		p := newTestProcessor(t, nil)
		got, _ := p.finished(nil, []Sample{{Value: wire.NumberValue(1), Meta: meta}}, nil, at(0))
		r := got[0]
		if r.Quality != wire.Uncertain || r.Reason != "metadata cut" || len(r.Meta) != maxMetaKeys {
			t.Errorf("%s with %d fields", show(got), len(r.Meta))
		}
		for key, want := range map[string]bool{"a": true, "b": false, "c": false, "d": true} {
			if _, ok := r.Meta[key]; ok != want {
				t.Errorf("%s kept: %t", key, ok)
			}
		}
	})
	t.Run("labels and reasons", func(t *testing.T) {
		p := newTestProcessor(t, nil)
		long := strings.Repeat("é", 1000)
		got, _ := p.finished(nil, []Sample{{Value: wire.NumberValue(1), Type: long, Unit: long, Quality: wire.Bad, Reason: long}}, errors.New(long), at(0))
		if r := got[0]; len(r.Type) > maxLabelBytes || len(r.Unit) > maxLabelBytes || len(r.Reason) > maxReasonBytes || len(got[1].Reason) > maxReasonBytes {
			t.Errorf("got %+v", got)
		}
	})
}

func TestCutKeepsTextsValid(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := string(rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "bytes"))
		if rapid.Bool().Draw(t, "valid") {
			s = rapid.StringN(0, 20, 40).Draw(t, "text")
		}
		limit := rapid.IntRange(1, 40).Draw(t, "limit")
		got, shortened, repaired := cut(s, limit)
		if len(got) > limit || !utf8.ValidString(got) {
			t.Fatalf("cut(%q, %d) = %q", s, limit, got)
		}
		if utf8.ValidString(s) && (repaired || !strings.HasPrefix(s, got) || shortened != (len(s) > limit) || len(s)-len(got) > max(0, len(s)-limit)+3) {
			t.Fatalf("cut(%q, %d) = %q, %t, %t", s, limit, got, shortened, repaired)
		}
	})
}
