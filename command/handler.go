package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/pyvorin/pyvorin-edge/wire"
)

// ConfigName is the name under which the handler of config pushes is
// registered. No command has it.
const ConfigName = "config"

// Order is what a handler is to do.
type Order struct {
	// Command is what was signed. Of a config push it holds the name, ConfigName,
	// and the timestamp as IssuedAt.
	wire.Command

	// Config is the push; nil for commands.
	Config *Config

	// Envelope is the message as it arrived, for those who verify again. It is
	// bare JSON when it was not signed.
	Envelope []byte
	Signed   bool

	// Desired says that the command is the device's desired document.
	Desired bool

	// Again says that this was begun before and interrupted, perhaps after all of
	// it was done.
	Again bool
}

// Config is a config push whose checksum fits.
type Config struct {
	wire.ConfigPush
	File []byte // its content
}

// Handler does what one kind of command says. That it was done already, such as
// a rollback to the version that runs, is success. The detail goes into the
// report, and so does the error, which therefore must hold no secret. Handle ends
// soon after ctx does. With an error and a ctx that ended because the agent
// stops, the order is taken up again at the next start.
//
// One call per name is under way at a time.
type Handler interface {
	Handle(ctx context.Context, o Order) (detail map[string]any, err error)
}

// HandlerFunc is a function as a Handler.
type HandlerFunc func(ctx context.Context, o Order) (map[string]any, error)

// Handle calls f.
func (f HandlerFunc) Handle(ctx context.Context, o Order) (map[string]any, error) { return f(ctx, o) }

// Entry is a handler and how it may be used.
type Entry struct {
	Handler Handler

	// Idempotent says that an order which was interrupted may be run again.
	Idempotent bool

	// Begins says that success means only that it has begun: "accepted" is
	// reported, and whoever goes on with it reports the end.
	Begins bool

	// Background says that other commands need not wait for this one, which is
	// reported as accepted at once, and again when it has ended.
	Background bool

	Timeout time.Duration // 0 is a minute
}

const defaultTimeout = time.Minute

// entry is a registered Entry.
type entry struct {
	Entry
	busy atomic.Bool
}

func (l *Listener) register() error {
	l.entries = map[string]*entry{}
	add := func(name string, e Entry) error {
		if e.Handler == nil || !wire.TopicLevel(name) || l.entries[name] != nil {
			return fmt.Errorf("internal error: the handler of %q is nil, or the second, or no level of a topic", name)
		}
		if e.Timeout <= 0 {
			e.Timeout = defaultTimeout
		}
		l.entries[name] = &entry{Entry: e}
		return nil
	}
	err := add(wire.CommandReport, Entry{Handler: HandlerFunc(l.handleReport), Idempotent: true})
	if l.o.SetLogLevel != nil {
		err = errors.Join(err, add(wire.CommandLogLevel, Entry{Handler: HandlerFunc(l.handleLogLevel), Idempotent: true}))
	}
	for name, e := range l.o.Handlers {
		err = errors.Join(err, add(name, e))
	}
	return err
}

func (l *Listener) handleReport(context.Context, Order) (map[string]any, error) {
	data, err := json.Marshal(l.o.Health())
	if err != nil {
		return nil, err
	}
	var detail map[string]any
	return detail, json.Unmarshal(data, &detail)
}

func (l *Listener) handleLogLevel(_ context.Context, o Order) (map[string]any, error) {
	if err := l.o.SetLogLevel(o.Level); err != nil {
		return nil, err
	}
	l.log.Info().Str("level", o.Level).Msg("log level set")
	return map[string]any{"level": o.Level}, nil
}
