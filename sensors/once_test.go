package sensors

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pyvorin/pyvorin-edge/config"
)

func TestReadOnce(t *testing.T) {
	release := make(chan struct{})
	waits := func(ctx context.Context, _ func()) error { <-ctx.Done(); return nil }
	tests := []struct {
		name    string
		sensor  Sensor
		want    string
		wantErr string
	}{
		{name: "value", sensor: &fake{read: reads(3)}, want: "3 good"},
		{name: "error", sensor: &fake{read: func(context.Context) ([]Sample, error) { return nil, errors.New("unplugged") }}, want: "- bad(unplugged)", wantErr: "unplugged"},
		{name: "hung", sensor: &fake{read: func(context.Context) ([]Sample, error) { <-release; return nil, nil }}, want: "- bad(timed out after 0.5 s)", wantErr: "timed out"},
		{name: "refused value", sensor: &fake{read: reads(200)}, want: "200 bad(above valid_max 100)", wantErr: "above valid_max 100"},
		{
			name:   "listener",
			sensor: &fakeListener{fake: fake{read: lateReads()}, run: func(ctx context.Context, wake func()) error { wake(); <-ctx.Done(); return nil }},
			want:   "4 good",
		},
		{
			name:    "silent listener",
			sensor:  &fakeListener{fake: fake{read: func(context.Context) ([]Sample, error) { return nil, nil }}, run: waits},
			wantErr: "nothing came within 0.5 s",
		},
		{
			name:   "listener that cannot connect",
			sensor: &fakeListener{fake: fake{read: func(context.Context) ([]Sample, error) { return nil, errors.New("not connected") }}, run: waits},
			want:   "- bad(not connected)", wantErr: "not connected",
		},
		{
			name: "listener that was stopped while it connected",
			sensor: func() Sensor {
				var stopped atomic.Bool
				return &fakeListener{
					fake: fake{read: func(context.Context) ([]Sample, error) {
						if stopped.Load() {
							return nil, errors.New("not connected")
						}
						return nil, nil
					}},
					run: func(ctx context.Context, _ func()) error { <-ctx.Done(); stopped.Store(true); return nil },
				}
			}(),
			want: "- bad(not connected)", wantErr: "not connected",
		},
		{
			name:    "listener that connected late",
			sensor:  &fakeListener{fake: fake{read: lateSilence()}, run: waits},
			wantErr: "nothing came within 0.5 s",
		},
		{
			name:   "listener that ends",
			sensor: &fakeListener{fake: fake{read: func(context.Context) ([]Sample, error) { return nil, nil }}, run: func(context.Context, func()) error { return errors.New("refused") }},
			want:   "- bad(refused)", wantErr: "refused",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if test.name == "hung" {
					release = make(chan struct{})
					defer close(release)
				}
				r := newRig(t, map[string]Sensor{"s": test.sensor}, func(o *Options) {
					d := &o.Defaults.Devices[0]
					d.Enabled, d.Reduce, d.WindowSeconds, d.ValidMax = false, "mean", 60, ptr(100)
				})
				got, err := r.ReadOnce(t.Context(), "s")
				silent := errors.Is(err, ErrSilent)
				if silent != (test.want == "") || silent && got != nil {
					t.Errorf("got %s, %v", show(got), err)
				}
				if !silent && (len(got) != 1 || !strings.Contains(strings.ReplaceAll(show(got), "@"+secondsOf(got), ""), "s="+test.want)) {
					t.Errorf("got %s", show(got))
				}
				if (err == nil) != (test.wantErr == "") || err != nil && !strings.Contains(err.Error(), test.wantErr) {
					t.Errorf("error %v, want %q", err, test.wantErr)
				}
			})
		})
	}
	t.Run("unknown", func(t *testing.T) {
		r := newRig(t, nil)
		if _, err := r.ReadOnce(t.Context(), "x"); err == nil || !strings.Contains(err.Error(), `"x"`) {
			t.Errorf("got %v", err)
		}
	})
}

// lateReads is connected only at the third read.
func lateReads() func(context.Context) ([]Sample, error) {
	n := 0
	return func(context.Context) ([]Sample, error) {
		if n++; n < 3 {
			return nil, errors.New("not connected")
		}
		return []Sample{number(4)}, nil
	}
}

// lateSilence is connected only at the third read, and nothing comes.
func lateSilence() func(context.Context) ([]Sample, error) {
	n := 0
	return func(context.Context) ([]Sample, error) {
		if n++; n < 3 {
			return nil, errors.New("not connected")
		}
		return nil, nil
	}
}

// secondsOf returns the time in the first reading as show writes it.
func secondsOf(rs []Reading) string {
	if len(rs) == 0 {
		return ""
	}
	_, after, _ := strings.Cut(show(rs[:1]), "@")
	seconds, _, _ := strings.Cut(after, " ")
	return seconds
}

func TestReadOnceClosesTheSensor(t *testing.T) {
	closed := 0
	r := newRig(t, map[string]Sensor{"s": &fake{read: reads(1), close: func() error { closed++; return nil }}})
	for range 2 {
		if _, err := r.ReadOnce(t.Context(), "s"); err != nil {
			t.Error(err)
		}
	}
	if closed != 2 {
		t.Errorf("closed %d times", closed)
	}
}

func TestReadOnceEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, map[string]Sensor{"s": &fake{read: func(ctx context.Context) ([]Sample, error) { <-ctx.Done(); return nil, ctx.Err() }}},
			func(o *Options) {
				o.Defaults = config.Sensors{PollIntervalSeconds: 60, TimeoutSeconds: 60, Devices: o.Defaults.Devices}
			})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if got, err := r.ReadOnce(ctx, "s"); got != nil || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %s, %v", show(got), err)
		}
	})
}
