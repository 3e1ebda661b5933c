package command

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pyvorin/pyvorin-edge/wire"
)

// withHandler gives rollback another handler.
func withHandler(e Entry) func(*Options) {
	return func(o *Options) { o.Handlers = map[string]Entry{wire.CommandRollback: e} }
}

func TestOutcomes(t *testing.T) {
	for _, tt := range []struct {
		name   string
		entry  Entry
		want   []string
		reason string
	}{
		{"done", Entry{Handler: HandlerFunc(func(context.Context, Order) (map[string]any, error) { return nil, nil })},
			[]string{"command nonce-1234 done"}, ""},
		{"begun", Entry{Begins: true, Handler: HandlerFunc(func(context.Context, Order) (map[string]any, error) { return nil, nil })},
			[]string{"command nonce-1234 accepted"}, ""},
		{"failed", Entry{Begins: true, Handler: HandlerFunc(func(context.Context, Order) (map[string]any, error) { return nil, errors.New("no such release") })},
			[]string{"command nonce-1234 failed"}, "no such release"},
		{"panic", Entry{Handler: HandlerFunc(func(context.Context, Order) (map[string]any, error) { panic("oh") })},
			[]string{"command nonce-1234 failed"}, "internal error"},
		{"timeout", Entry{Timeout: time.Millisecond, Handler: HandlerFunc(func(ctx context.Context, _ Order) (map[string]any, error) { <-ctx.Done(); return nil, ctx.Err() })},
			[]string{"command nonce-1234 failed"}, "not done within 1ms"},
		{"background", Entry{Background: true, Handler: HandlerFunc(func(context.Context, Order) (map[string]any, error) { return nil, nil })},
			[]string{"command nonce-1234 accepted", "command nonce-1234 done"}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, withHandler(tt.entry))
			r.hear(t, ownRollback, signed(t, rollback("nonce-1234")))
			r.running.Wait()
			reports := r.reports(t)
			if diff := cmp.Diff(tt.want, outcomes(reports)); diff != "" {
				t.Fatal(diff)
			}
			last := reports[len(reports)-1]
			if !strings.Contains(last.Reason, tt.reason) || tt.reason == "" && last.Reason != "" || last.Detail["command"] != wire.CommandRollback || !last.At.Equal(today) {
				t.Errorf("%+v", last)
			}
			r.hear(t, ownRollback, signed(t, rollback("nonce-1234")))
			if r.Stats().Refused[ReasonDuplicate] != 1 {
				t.Errorf("%v", r.Stats().Refused)
			}
		})
	}
}

// A handler that hangs has its command reported, and holds up only its own kind.
func TestHungHandler(t *testing.T) {
	free := make(chan struct{})
	r := newRig(t, func(o *Options) {
		o.Handlers[wire.CommandRollback] = Entry{Timeout: time.Millisecond, Handler: HandlerFunc(func(context.Context, Order) (map[string]any, error) { <-free; return nil, nil })}
	})
	r.timing.grace = time.Millisecond
	r.hear(t, ownRollback, signed(t, rollback("nonce-hung")))
	r.hear(t, ownRollback, signed(t, rollback("nonce-busy")))
	r.hear(t, topics.FleetCommand("restart"), signed(t, command("restart", "nonce-other")))
	want := []string{"command nonce-hung failed", "command nonce-busy refused", "command nonce-other done"}
	if diff := cmp.Diff(want, outcomes(r.reports(t))); diff != "" {
		t.Error(diff)
	}
	close(free)
	r.running.Wait()
	r.hear(t, ownRollback, signed(t, rollback("nonce-busy"))) // it was refused only for then
	if diff := cmp.Diff(append(want, "command nonce-busy done"), outcomes(r.reports(t))); diff != "" {
		t.Error(diff)
	}
}

// A handler that the end of the agent breaks off is taken up at the next start.
func TestStoppedHandler(t *testing.T) {
	dir, c := t.TempDir(), newClock()
	began := make(chan struct{})
	r := newRigIn(t, dir, c, withHandler(Entry{Idempotent: true, Handler: HandlerFunc(func(ctx context.Context, _ Order) (map[string]any, error) {
		close(began)
		<-ctx.Done()
		return nil, ctx.Err()
	})}))
	stop := r.run(t)
	r.inbox.put(message{topic: ownRollback, payload: signed(t, rollback("nonce-1234"))})
	within(t, "the handler", began)
	stop()
	if got := r.reports(t); len(got) != 0 {
		t.Errorf("reported already: %v", got)
	}
	r.ledger.Close()

	r = newRigIn(t, dir, c, func(o *Options) {
		o.Handlers = map[string]Entry{wire.CommandRollback: {Handler: o.Handlers[wire.CommandRollback].Handler, Idempotent: true}}
	})
	r.run(t)
	eventually(t, "the report", func() bool { return r.Stats().ReportsWaiting == 1 })
	if o := r.actions.last(t); !o.Again {
		t.Errorf("%+v", o)
	}
}

func TestBuiltIn(t *testing.T) {
	level := ""
	r := newRig(t, func(o *Options) {
		o.SetLogLevel = func(l string) error {
			if l != "debug" {
				return errors.New("there is no such level")
			}
			level = l
			return nil
		}
	})
	logLevel := func(nonce, l string) []byte {
		return signed(t, change(command(wire.CommandLogLevel, nonce), func(c *wire.Command) { c.Level = l }))
	}
	r.hear(t, topics.DeviceCommand(device, "report"), signed(t, command(wire.CommandReport, "nonce-report")))
	r.hear(t, topics.DeviceCommand(device, "log_level"), logLevel("nonce-debug", "debug"))
	r.hear(t, topics.DeviceCommand(device, "log_level"), logLevel("nonce-loud", "loud"))
	reports := r.reports(t)
	want := []string{"health nonce-report done", "command nonce-debug done", "command nonce-loud failed"}
	if diff := cmp.Diff(want, outcomes(reports)); diff != "" {
		t.Fatal(diff)
	}
	if reports[0].Detail["status"] != "healthy" || reports[0].Detail["device_id"] != device || level != "debug" {
		t.Errorf("%v, %q", reports[0].Detail, level)
	}
}

// The library is never held up, and what is retained goes last.
func TestInboxIsBounded(t *testing.T) {
	b := newInbox()
	b.put(message{topic: "retained", payload: []byte("x"), retained: true})
	dropped := 0
	for range 2 * maxMessages {
		dropped += len(b.put(message{topic: "live", payload: []byte("x")}))
	}
	if dropped != maxMessages+1 || len(b.messages) != maxMessages {
		t.Errorf("%d dropped, %d kept", dropped, len(b.messages))
	}
	if m, ok := b.take(); !ok || m.topic != "retained" {
		t.Errorf("%+v", m)
	}
	b = newInbox()
	for range 20 {
		b.put(message{payload: make([]byte, 1<<20), retained: true})
		if b.bytes > maxInboxBytes {
			t.Fatalf("%d bytes", b.bytes)
		}
	}
	n := 0
	for _, ok := b.take(); ok; _, ok = b.take() {
		n++
	}
	if n != maxInboxBytes>>20 || b.bytes != 0 {
		t.Errorf("%d messages, %d bytes left", n, b.bytes)
	}
}

func TestNewRefuses(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"no address":       func(o *Options) { o.URL = "" },
		"no scheme":        func(o *Options) { o.URL = "127.0.0.1" },
		"http":             func(o *Options) { o.URL = "http://x" },
		"unparsable":       func(o *Options) { o.URL = "tcp://u:" + secret + "@[::1" },
		"user in address":  func(o *Options) { o.URL = "tcp://u:" + secret + "@x" },
		"ca without tls":   func(o *Options) { o.CAFile = "x" },
		"cert alone":       func(o *Options) { o.URL, o.CertFile = "ssl://x", "y" },
		"password alone":   func(o *Options) { o.Password = func() (string, error) { return secret, nil } },
		"wildcard":         func(o *Options) { o.Prefix = "a/#" },
		"empty level":      func(o *Options) { o.Prefix = "a//b" },
		"device":           func(o *Options) { o.DeviceID = "a/b" },
		"group":            func(o *Options) { o.Group = "+" },
		"no ledger":        func(o *Options) { o.Ledger = nil },
		"no anchor":        func(o *Options) { o.Anchor = nil },
		"built-in handler": func(o *Options) { o.Handlers[wire.CommandReport] = Entry{Handler: &actions{}} },
		"nil handler":      func(o *Options) { o.Handlers["x"] = Entry{} },
	} {
		o := newRig(t, nil).o
		change(&o)
		if _, err := New(o); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
