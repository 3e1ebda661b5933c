package gpio

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestDebounce(t *testing.T) {
	const period = 10
	type edge struct {
		at     int // milliseconds
		rising bool
	}
	for _, tt := range []struct {
		name  string
		level bool
		edges []edge
		until int
		want  []edge
	}{
		{"one that lasts", false, []edge{{0, true}}, 10, []edge{{10, true}}},
		{"one that may yet", false, []edge{{0, true}}, 9, nil},
		{"one that bounces back", false, []edge{{0, true}, {9, false}}, 50, nil},
		{"bounces before it lasts", false, []edge{{0, true}, {3, false}, {6, true}}, 50, []edge{{16, true}}},
		{"there and back", false, []edge{{0, true}, {20, false}}, 50, []edge{{10, true}, {30, false}}},
		{"the same again", false, []edge{{0, true}, {5, true}}, 50, []edge{{15, true}}},
		{"what it is already", true, []edge{{0, true}}, 50, nil},
	} {
		d := debouncer{period: period * time.Millisecond, rising: true, falling: true, level: tt.level}
		start := time.Now()
		ms := func(n int) time.Time { return start.Add(time.Duration(n) * time.Millisecond) }
		var in []event
		for _, e := range tt.edges {
			in = append(in, event{at: ms(e.at), rising: e.rising})
		}
		got := d.filter(in, ms(tt.until))
		var want []event
		for _, e := range tt.want {
			want = append(want, event{at: ms(e.at), rising: e.rising})
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", tt.name, got, want)
		}
	}
}

// What lasts does not depend on when one looks.
func TestDebounceIsTheSameHoweverOftenOneLooks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := time.Now()
		var in []event
		at := start
		for _, gap := range rapid.SliceOf(rapid.IntRange(0, 30)).Draw(t, "gaps") {
			at = at.Add(time.Duration(gap) * time.Millisecond)
			in = append(in, event{at: at, rising: rapid.Bool().Draw(t, "rising")})
		}
		end := at.Add(time.Second)
		one := debouncer{period: 10 * time.Millisecond, rising: true, falling: true}
		many := one
		want := slices.Clone(one.filter(in, end))
		var got []event
		for _, e := range in {
			got = append(got, many.filter(nil, e.at)...)
			got = append(got, many.filter([]event{e}, e.at)...)
		}
		got = append(got, many.filter(nil, end)...)
		if !slices.Equal(got, want) {
			t.Fatalf("%v, want %v", got, want)
		}
		for i, e := range want {
			if e.rising != (i%2 == 0) {
				t.Fatalf("%v does not alternate", want)
			}
		}
	})
}
