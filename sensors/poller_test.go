package sensors

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/wire"
)

func TestHungSensorDelaysNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good, onBus := &recorder{}, &recorder{}
		release := make(chan struct{})
		var lost atomic.Int32
		stuck := &fake{read: func(context.Context) ([]Sample, error) {
			lost.Add(1)
			<-release
			return []Sample{number(1)}, nil
		}}
		r := newRig(t, map[string]Sensor{"bus-stuck": stuck, "bus-good": onBus, "own": good})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()

		time.Sleep(time.Minute)
		synctest.Wait()
		if lost.Load() != 1 {
			t.Errorf("%d goroutines lost to one sensor", lost.Load())
		}
		if st := r.stats("bus-stuck"); st.State != Hung || st.Skipped < 58 || st.Reads != 1 || st.LastError != errHung.Error() {
			t.Errorf("stuck: %+v", st)
		}
		if n := len(r.of("bus-stuck")); n < 2 || n > 3 {
			t.Errorf("%d readings in a minute of hanging: %s", n, show(r.of("bus-stuck")))
		}
		if n := len(good.when()); n < 59 {
			t.Errorf("own bus: %d reads", n)
		}
		shared := onBus.when()
		if len(shared) < 59 {
			t.Errorf("shared bus: %d reads", len(shared))
		}
		for i := 3; i < len(shared); i++ {
			if gap := shared[i] - shared[i-1]; gap != time.Second {
				t.Errorf("shared bus: a gap of %v", gap)
			}
		}

		close(release)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if st := r.stats("bus-stuck"); st.State != OK || st.Reads < 3 || st.LastError != "" {
			t.Errorf("after its return: %+v", st)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestOneBusNeverOverlaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var inside atomic.Int32
		fakes := map[string]Sensor{}
		for i := range 5 {
			fakes[fmt.Sprint("bus-", i)] = &fake{read: func(ctx context.Context) ([]Sample, error) {
				if inside.Add(1) > 1 {
					t.Error("two reads at once on one bus")
				}
				defer inside.Add(-1)
				if i == 0 { // obeys its timeout, a little late
					<-ctx.Done()
					time.Sleep(returnGrace / 2)
					return nil, ctx.Err()
				}
				time.Sleep(50 * time.Millisecond)
				return []Sample{number(1)}, nil
			}}
		}
		r := newRig(t, fakes)
		r.runFor(30 * time.Second)
		if st := r.stats("bus-0"); st.State != Failing || st.LastError != "timed out after 0.5 s" {
			t.Errorf("late: %+v", st)
		}
		for i := 1; i < 5; i++ {
			if st := r.stats(fmt.Sprint("bus-", i)); st.Reads < 20 || st.Failures > 0 {
				t.Errorf("%+v", st)
			}
		}
	})
}

func TestPanicIsABadReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, map[string]Sensor{
			"bad":  &fake{read: func(context.Context) ([]Sample, error) { panic("the value was 21.375") }},
			"good": &fake{read: reads(1)},
		})
		r.runFor(10 * time.Second)
		if got := r.of("bad"); len(got) != 1 || got[0].Reason != "panicked" || got[0].Value.Kind() != wire.None {
			t.Errorf("got %s", show(got))
		}
		if st := r.stats("good"); st.Reads < 9 || st.State != OK {
			t.Errorf("good: %+v", st)
		}
		log := r.log.String()
		if strings.Count(log, "sensor panicked") != 1 || strings.Contains(log, "21.375") {
			t.Errorf("log: %s", log)
		}
		if !strings.Contains(log, "TestPanicIsABadReading") {
			t.Errorf("the log does not say where: %s", log)
		}
	})
}

func TestFailureAndRecovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		unplugged := errors.New("unplugged")
		var mended atomic.Bool
		r := newRig(t, map[string]Sensor{"a": &fake{read: func(context.Context) ([]Sample, error) {
			if !mended.Load() {
				return nil, unplugged
			}
			return []Sample{number(7)}, nil
		}}})
		if st := r.stats("a"); st.State != Waiting {
			t.Errorf("before: %+v", st)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if st := r.stats("a"); st.State != Failing || st.LastError != "unplugged" || st.Failures < 9 || st.Readings != 1 {
			t.Errorf("failing: %+v", st)
		}
		mended.Store(true)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if st := r.stats("a"); st.State != OK || st.LastError != "" || st.Readings < 10 || st.LastReadAt.IsZero() {
			t.Errorf("recovered: %+v", st)
		}
		cancel()
		<-done
		total := r.Stats()
		if total.Reads != uint64(len(r.observed)) || total.Readings != uint64(len(r.readings)) || total.LastReadingAt.IsZero() {
			t.Errorf("%+v; observed %d, got %d", total, len(r.observed), len(r.readings))
		}
		if !errors.Is(r.observed[0], unplugged) || r.observed[len(r.observed)-1] != nil {
			t.Errorf("observed %v", r.observed)
		}
		if log := r.log.String(); strings.Count(log, "sensor failed") != 1 || strings.Count(log, "sensor recovered") != 1 {
			t.Errorf("log: %s", log)
		}
	})
}

func TestSensorsAreClosedOnceAfterTheirLastRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var closes [3]atomic.Int32
		release := make(chan struct{})
		var reading atomic.Bool
		r := newRig(t, map[string]Sensor{
			"quick": &fake{read: reads(1), close: func() error { closes[0].Add(1); return nil }},
			"hung": &fake{
				read: func(context.Context) ([]Sample, error) {
					reading.Store(true)
					<-release
					reading.Store(false)
					return nil, nil
				},
				close: func() error {
					if reading.Load() {
						t.Error("closed while being read")
					}
					closes[1].Add(1)
					return nil
				},
			},
			"panics": &fake{read: reads(1), close: func() error { closes[2].Add(1); panic("x") }},
		})
		begin := time.Now()
		r.runFor(10 * time.Second)
		if took := time.Since(begin); took > 10*time.Second+stopTimeout+time.Second {
			t.Errorf("stopping took until %v", took)
		}
		if closes[0].Load() != 1 || closes[1].Load() != 0 || closes[2].Load() != 1 {
			t.Errorf("closed %d, %d, %d times", closes[0].Load(), closes[1].Load(), closes[2].Load())
		}
		close(release)
		synctest.Wait()
		if closes[1].Load() != 1 {
			t.Error("the hung sensor was not closed when it returned")
		}
	})
}

func TestStoppingMakesNoFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, map[string]Sensor{"a": &fake{read: func(ctx context.Context) ([]Sample, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}}, func(o *Options) { o.Defaults.TimeoutSeconds, o.Defaults.PollIntervalSeconds = 60, 60 })
		r.runFor(5 * time.Second)
		if len(r.readings) != 0 || len(r.observed) != 0 {
			t.Errorf("got %s, %v", show(r.readings), r.observed)
		}
	})
}

func TestStoppingKeepsWhatWasRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, map[string]Sensor{"a": &fake{read: func(ctx context.Context) ([]Sample, error) {
			<-ctx.Done()
			return []Sample{number(1)}, nil
		}}}, func(o *Options) { o.Defaults.TimeoutSeconds, o.Defaults.PollIntervalSeconds = 60, 60 })
		r.runFor(5 * time.Second)
		if got := r.of("a"); len(got) != 1 || got[0].Quality != wire.Good {
			t.Errorf("got %s", show(got))
		}
	})
}

func TestNewPollerNamesWhatIsWrong(t *testing.T) {
	devices := []config.Sensor{
		testSensor(func(d *config.Sensor) { d.Name = "fine" }),
		testSensor(func(d *config.Sensor) { d.Name = "twice" }),
		testSensor(func(d *config.Sensor) { d.Name = "twice" }),
		testSensor(func(d *config.Sensor) { d.Name = "odd"; d.IngestType = "telepathy" }),
		testSensor(func(d *config.Sensor) { d.Name = "refused" }),
		testSensor(func(d *config.Sensor) { d.Name = "hasty"; d.PollIntervalSeconds = 0.001 }),
		testSensor(func(d *config.Sensor) { d.Name = "endless"; d.Reduce = "mean" }),
		testSensor(func(d *config.Sensor) { d.Name = "off"; d.Enabled = false; d.IngestType = "telepathy" }),
	}
	_, err := NewPoller(Options{
		Defaults: config.Sensors{PollIntervalSeconds: 1, TimeoutSeconds: 5, Devices: devices},
		Types: []Type{{Name: "fake", New: func(d config.Sensor, _ Env) (Sensor, error) {
			if d.Name == "refused" {
				return nil, config.Problemf("url", "is missing")
			}
			if d.PollIntervalSeconds != 1 || d.TimeoutSeconds != 1 {
				t.Errorf("%s was not told its interval and timeout: %+v", d.Name, d)
			}
			return &fake{}, nil
		}}},
	})
	var bad *config.Error
	if !errors.As(err, &bad) {
		t.Fatalf("got %v", err)
	}
	var got []string
	for _, p := range bad.Problems {
		got = append(got, p.String())
	}
	want := []string{
		`sensors.devices[2].name: another`, `sensors.devices[3].ingest_type: "telepathy" is unknown`,
		`sensors.devices[4].url: is missing`, `sensors.devices[5].poll_interval_seconds: is less than 0.01`, `sensors.devices[6].reduce: needs`,
	}
	if len(got) != len(want) {
		t.Fatalf("got %q", got)
	}
	for i := range want {
		if !strings.Contains(got[i], want[i]) {
			t.Errorf("got %s, want %s", got[i], want[i])
		}
	}
}

func TestFlappingSensorDoesNotFillTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int32
		r := newRig(t, map[string]Sensor{"a": &fake{read: func(context.Context) ([]Sample, error) {
			if n.Add(1)%2 == 0 {
				return nil, errors.New("loose contact")
			}
			return []Sample{number(1)}, nil
		}}})
		r.runFor(150 * time.Second)
		if n := strings.Count(r.log.String(), "sensor failed"); n != 3 {
			t.Errorf("%d failures were logged in two and a half minutes", n)
		}
		if st := r.stats("a"); st.Failures < 70 {
			t.Errorf("%+v", st)
		}
	})
}

func TestTheLogOfASensorNamesIt(t *testing.T) {
	r := newRig(t, map[string]Sensor{"one": &recorder{}}, func(o *Options) {
		made := o.Types[0].New
		o.Types[0].New = func(d config.Sensor, env Env) (Sensor, error) {
			env.Log.Info().Msg("made")
			return made(d, env)
		}
	})
	if got := r.log.String(); !strings.Contains(got, `"sensor":"one"`) {
		t.Errorf("the log is %s", got)
	}
}
