package gpio

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

func TestEdgesBecomeReadings(t *testing.T) {
	for _, tt := range []struct {
		edge  string
		first bool // the present state comes first
		want  []bool
	}{
		{"", true, []bool{true, false, true}},
		{"both", true, []bool{true, false, true}},
		{"rising", false, []bool{true, true}},
		{"falling", false, []bool{false}},
	} {
		synctest.Test(t, func(t *testing.T) {
			k := board()
			r := poll(t, k, Options{Line: "GPIO17", Mode: "edge", Edge: tt.edge})
			defer r.stop()
			time.Sleep(2 * time.Second)
			begin := r.taken()
			if tt.first != (len(begin) == 1) || tt.first && begin[0].Value != wire.BoolValue(false) {
				t.Errorf("%q began with %+v", tt.edge, begin)
			}
			want, l := tt.want, k.chips[0].line(1)
			var when []time.Time
			for _, level := range []bool{true, false, true} {
				if len(want) > 0 && want[0] == level {
					want, when = want[1:], append(when, time.Now())
				}
				l.edge(level)
				time.Sleep(700 * time.Microsecond)
			}
			time.Sleep(wakeTime)
			got := r.taken()
			if len(got) != len(tt.want) {
				t.Fatalf("%q: %+v, want %v", tt.edge, got, tt.want)
			}
			for i, g := range got {
				if g.Value != wire.BoolValue(tt.want[i]) || !g.Time.Equal(when[i]) || g.Quality != wire.Good {
					t.Errorf("%q: reading %d is %+v, want %v at %v", tt.edge, i, g, tt.want[i], when[i])
				}
			}
		})
	}
}

// wakeTime is more than passes between an edge and its reading.
const wakeTime = 200 * time.Millisecond

func TestTheStateIsKnownAtTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := board()
		k.chips[0].high[1] = true
		r := poll(t, k, Options{Line: "GPIO17", Mode: "edge"})
		time.Sleep(2 * time.Second)
		r.stop()
		if got := r.taken(); len(got) != 1 || got[0].Value != wire.BoolValue(true) {
			t.Errorf("%+v", got)
		}
		if k.chips[0].line(1) != nil {
			t.Error("the line is held after the end")
		}
	})
}

// A chip that goes without a word, as it does before Linux 6.6, is noticed by
// looking.
func TestASilentLossIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := board()
		s := makeSensor(t, k, Options{Line: "GPIO17", Mode: "edge"}).(*edgeSensor)
		done := make(chan error)
		go func() { done <- s.Run(t.Context(), func() {}) }()
		synctest.Wait()
		l := k.chips[0].line(1)
		l.mu.Lock()
		l.valueErr = unix.ENODEV
		l.mu.Unlock()
		began := time.Now()
		wantError(t, "Run", <-done, "line GPIO17", "the chip is gone")
		if passed := time.Since(began); passed > lookAfter {
			t.Errorf("noticed after %v", passed)
		}
	})
}

// A thousand edges a second for a minute, through the poller: none is missing,
// few calls are made, and what is held stays small.
func TestAThousandEdgesASecond(t *testing.T) {
	const seconds, perSecond = 60, 1000
	synctest.Test(t, func(t *testing.T) {
		k := board()
		r := poll(t, k, Options{Line: "GPIO17", Mode: "edge"})
		defer r.stop()
		time.Sleep(2 * time.Second)
		r.taken()
		l := k.chips[0].line(1)
		began, _ := l.seen()
		total, last, next := 0, time.Time{}, true
		for range seconds {
			for range perSecond / 2 {
				l.edge(true)
				time.Sleep(time.Second / perSecond)
				l.edge(false)
				time.Sleep(time.Second / perSecond)
			}
			for _, g := range r.taken() {
				if v, ok := g.Value.Bool(); !ok || v != next || !g.Time.After(last) || g.Quality != wire.Good {
					t.Fatalf("reading %d is %+v after %v", total, g, last)
				}
				total, last, next = total+1, g.Time, !next
			}
		}
		time.Sleep(wakeTime)
		total += len(r.taken())
		if st := r.Stats(); total != seconds*perSecond || st.Dropped != 0 || st.Failures != 0 {
			t.Errorf("%d readings of %d edges: %+v", total, seconds*perSecond, st)
		}
		if calls, _ := l.seen(); calls-began > 2*seconds*int(time.Second/gather)+100 {
			t.Errorf("%d calls for %d edges", calls-began, seconds*perSecond)
		}
	})
}

func TestLostEdgesAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := board()
		s := makeSensor(t, k, Options{Line: "GPIO17", Mode: "edge", Edge: "rising", BufferReadings: 100}).(*edgeSensor)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx, func() {}) }()
		synctest.Wait()
		l := k.chips[0].line(1)
		for range 3000 { // at once, which is more than the kernel keeps
			l.edge(true)
		}
		time.Sleep(time.Second)
		got, err := s.Read(ctx)
		var dropped sensors.Dropped
		if len(got) != 100 || !errors.As(err, &dropped) || dropped != 2900 {
			t.Errorf("%d samples, %v, %d dropped", len(got), err, dropped)
		}
		if got, err := s.Read(ctx); len(got) != 0 || err != nil {
			t.Errorf("told again: %+v, %v", got, err)
		}
		l.edge(true)
		time.Sleep(wakeTime)
		if got, err := s.Read(ctx); len(got) != 1 || err != nil {
			t.Errorf("after the flood: %+v, %v", got, err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Edges, reads and the end of Run at the same time, for the race detector: the
// line is given back when Run returns, and each edge is read once or counted.
func TestTheEndOfRunAmidEdges(t *testing.T) {
	for range 10 {
		k := board()
		s := makeSensor(t, k, Options{Line: "GPIO17", Mode: "edge", BufferReadings: 50}).(*edgeSensor)
		ctx, cancel := context.WithCancel(context.Background())
		woken := make(chan struct{}, 1)
		done := make(chan error)
		go func() {
			done <- s.Run(ctx, func() {
				select {
				case woken <- struct{}{}:
				default:
				}
			})
		}()
		<-woken
		l := k.chips[0].line(1)
		stop := make(chan struct{})
		var busy sync.WaitGroup
		busy.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					l.edge(i%2 == 0)
				}
			}
		})
		for read := 0; read < 3; {
			<-woken
			if got, _ := s.Read(ctx); len(got) > 0 { // or the read before took them
				read++
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if k.chips[0].line(1) != nil || l.closings != 1 {
			t.Error("the line was not given back, or more than once")
		}
		close(stop)
		busy.Wait()
		if _, err := s.Read(ctx); err != nil && !errors.As(err, new(sensors.Dropped)) {
			t.Error(err)
		}
	}
}

// A driver that refuses the time is debounced for.
func TestDebouncingTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := board()
		k.chips[0].refuse = func(r request) error {
			if r.debounce > 255*time.Millisecond {
				return unix.EINVAL
			}
			return nil
		}
		r := poll(t, k, Options{Line: "GPIO17", Mode: "edge", Edge: "rising", DebounceSeconds: 0.5})
		defer r.stop()
		time.Sleep(2 * time.Second)
		l := k.chips[0].line(1)
		var lasting []time.Time
		var got []sensors.Reading
		for range 3 {
			for range 10 { // bounces
				l.edge(true)
				time.Sleep(20 * time.Millisecond)
				l.edge(false)
				time.Sleep(20 * time.Millisecond)
			}
			l.edge(true)
			lasting = append(lasting, time.Now().Add(500*time.Millisecond))
			time.Sleep(500*time.Millisecond + wakeTime)
			got = append(got, r.taken()...)
			if len(got) != len(lasting) {
				t.Fatalf("%d readings of %d edges, none of which waits for the next", len(got), len(lasting))
			}
			l.edge(false)
			time.Sleep(time.Second)
		}
		got = append(got, r.taken()...)
		if len(got) != len(lasting) {
			t.Fatalf("%d readings of %d edges: %+v", len(got), len(lasting), got)
		}
		for i, g := range got {
			if !g.Time.Equal(lasting[i]) || g.Value != wire.BoolValue(true) {
				t.Errorf("reading %d is %+v, want true at %v", i, g, lasting[i])
			}
		}
	})
}

func TestOneReadTakesWhatThePollerTakes(t *testing.T) {
	k := board()
	d := config.Sensor{MaxReadingsPerPoll: 7, Options: filled(Options{Line: "GPIO17", Mode: "edge"})}
	made, err := newSensor(d, sensors.Env{}, k)
	if err != nil {
		t.Fatal(err)
	}
	s := made.(*edgeSensor)
	s.edges.Add(make([]event, 10)...)
	for _, want := range []int{7, 3, 0} {
		if got, err := s.Read(t.Context()); len(got) != want || err != nil {
			t.Errorf("%d samples, %v, want %d", len(got), err, want)
		}
	}
}
