package health

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/pyvorin/pyvorin-edge/privacy"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

func TestLiveKeepsTheLatest(t *testing.T) {
	l := NewLive()
	for i := range livePoints + 5 {
		r := number("b", float64(i))
		if i == livePoints {
			r.Quality, r.Reason = wire.Bad, "out of range"
		}
		l.Add(cleared(t, r))
	}
	l.Add(cleared(t, number("a", 1)))
	l.Add(privacy.Cleared{}) // nobody cleared it
	readings, omitted := l.Snapshot()
	if len(readings) != 2 || omitted != 0 || readings[0].Sensor != "a" {
		t.Fatalf("%d readings, %d omitted", len(readings), omitted)
	}
	b := readings[1]
	if f, _ := b.Value.Float(); f != livePoints+4 || len(b.Recent) != livePoints {
		t.Errorf("value %v, %d recent", b.Value, len(b.Recent))
	}
	if *b.Recent[0] != 5 || *b.Recent[livePoints-1] != livePoints+4 || b.Recent[livePoints-5] != nil {
		t.Errorf("recent from %v to %v, gap %v", *b.Recent[0], *b.Recent[livePoints-1], b.Recent[livePoints-5])
	}
}

func TestLiveBounds(t *testing.T) {
	l := NewLive()
	for i := range liveSensors + 3 {
		l.Add(cleared(t, number(fmt.Sprint("s", i), 1)))
	}
	l.Add(cleared(t, number("s0", 2))) // known ones go on
	readings, omitted := l.Snapshot()
	if len(readings) != liveSensors || omitted != 3 {
		t.Errorf("%d readings, %d omitted", len(readings), omitted)
	}
	r := number("s0", 0)
	r.Value, r.Unit, r.Reason = wire.TextValue(strings.Repeat("ü", 10000)+"\xff"), "\xff", strings.Repeat("x", 10000)
	l.Add(cleared(t, r))
	readings, _ = l.Snapshot()
	text, _ := readings[0].Value.Text()
	if !utf8.ValidString(text) || !utf8.ValidString(readings[0].Unit) || len(text) > 3*liveTextRunes || len(readings[0].Reason) > 2*liveTextRunes {
		t.Errorf("text of %d bytes, unit %q, reason of %d bytes", len(text), readings[0].Unit, len(readings[0].Reason))
	}
}

func TestLiveConcurrently(t *testing.T) {
	l := NewLive()
	c := cleared(t, number("a", 1))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				l.Add(c)
				l.Snapshot()
			}
		})
	}
	wg.Wait()
}

func TestLiveForgets(t *testing.T) {
	l := NewLive()
	l.Add(cleared(t, number("a", 1)))
	l.Clear()
	if readings, _ := l.Snapshot(); len(readings) != 0 {
		t.Errorf("it still shows %+v", readings)
	}
}

// TestLiveDropsTheBareRow follows sensors whose first read fails, so that it
// has no channels yet.
func TestLiveDropsTheBareRow(t *testing.T) {
	failed := func(name string) sensors.Reading {
		r := number(name, 0)
		r.Value, r.Quality, r.Reason = wire.Value{}, wire.Bad, "connection refused"
		return r
	}
	for _, c := range []struct {
		name     string
		readings []sensors.Reading
		want     []string
	}{
		{"failed, then channels", []sensors.Reading{failed("web"), number("web.cpu", 1), number("web.load", 1)}, []string{"web.cpu", "web.load"}},
		{"failed between channels", []sensors.Reading{number("web.cpu", 1), failed("web")}, []string{"web", "web.cpu"}},
		{"and recovered again", []sensors.Reading{number("web.cpu", 1), failed("web"), number("web.cpu", 2)}, []string{"web.cpu"}},
		{"a channel with a dot", []sensors.Reading{failed("web"), number("web.a.b", 1)}, []string{"web.a.b"}},
		{"a channel that fails", []sensors.Reading{failed("web.cpu"), number("web.load", 1)}, []string{"web.cpu", "web.load"}},
		{"one value, failed later", []sensors.Reading{number("web", 1), failed("web"), number("web.cpu", 1)}, []string{"web", "web.cpu"}},
		{"a text, failed later", []sensors.Reading{{Sensor: "web", Value: wire.TextValue("up")}, failed("web"), number("web.cpu", 1)}, []string{"web", "web.cpu"}},
		{"no channel of it", []sensors.Reading{failed("web"), number("webcam.cpu", 1)}, []string{"web", "webcam.cpu"}},
	} {
		l := NewLive()
		for _, r := range c.readings {
			l.Add(cleared(t, r))
		}
		var got []string
		readings, _ := l.Snapshot()
		for _, r := range readings {
			got = append(got, r.Sensor)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
