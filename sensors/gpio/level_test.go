package gpio

import (
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

func TestLevelFollowsTheLine(t *testing.T) {
	k := board()
	k.chips[0].high[1] = true
	s := makeSensor(t, k, Options{Line: "GPIO17"})
	for _, level := range []bool{true, false, false, true} {
		if l := k.chips[0].line(1); l != nil {
			l.edge(level)
		}
		got, err := s.Read(t.Context())
		if err != nil || len(got) != 1 || got[0].Value != wire.BoolValue(level) || got[0].Channel != "" {
			t.Fatalf("%+v, %v, want %v", got, err, level)
		}
	}
	if n := len(k.chips[0].wants); n != 1 {
		t.Errorf("the line was taken %d times", n)
	}
}

// A failed read gives the line back, so that the next one finds what is there.
func TestLevelTakesTheLineAnewAfterAFailure(t *testing.T) {
	k := board()
	s := makeSensor(t, k, Options{Line: "GPIO17"})
	if _, err := s.Read(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.chips[0].line(1).fail(unix.EIO)
	_, err := s.Read(t.Context())
	wantError(t, "a failing chip", err, "line GPIO17 of pinctrl-bcm2711", "input/output error")
	if k.chips[0].line(1) != nil {
		t.Error("the line is still held")
	}
	if _, err := s.Read(t.Context()); err != nil {
		t.Error(err)
	}
	if err := s.(sensors.Closer).Close(); err != nil || k.chips[0].line(1) != nil {
		t.Errorf("still held after Close: %v", err)
	}
}

// A USB expander is unplugged and comes back, in each of the modes.
func TestReplug(t *testing.T) {
	for _, mode := range []string{"level", "edge", "count"} {
		t.Run(mode, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := &fakeKernel{}
				r := poll(t, k, Options{Line: "2", Chip: "cp2102", Mode: mode})
				defer r.stop()
				expect := func(what string, quality wire.Quality) {
					t.Helper()
					rs := r.taken()
					if len(rs) == 0 || rs[len(rs)-1].Quality != quality {
						t.Fatalf("%s: %+v", what, rs)
					}
				}
				time.Sleep(20 * time.Second)
				expect("before it was plugged in", wire.Bad)
				for range 2 {
					c := fakeChipOf("cp2102", "", "", "", "")
					k.plug(c)
					time.Sleep(2 * time.Minute)
					expect("plugged in", wire.Good)
					k.unplug(c)
					time.Sleep(20 * time.Second)
					expect("unplugged", wire.Bad)
				}
			})
		})
	}
}
