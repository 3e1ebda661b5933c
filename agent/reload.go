package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/health"
	"github.com/pyvorin/pyvorin-edge/internal/atomicfile"
)

// reload asks the agent's loop to go on with another config.
type reload struct {
	content []byte     // what becomes the config file; nil reads the file again
	done    chan error // capacity 1
}

// Reload reads the config file again and applies it. On an error the agent
// goes on with the config it has, and /health says so.
func (a *Agent) Reload(ctx context.Context) error {
	return a.ask(ctx, nil)
}

// ReloadContent checks content, makes it the config file and applies it. name
// is the file name the sender gave, or "". The config that ran before is kept
// beside it; a power cut at any instant leaves one of the two in place, whole. A
// failed check (*config.Error) changes nothing.
func (a *Agent) ReloadContent(ctx context.Context, name string, content []byte) error {
	path := a.o.Paths.Config
	if ext := filepath.Ext(name); ext != "" && !strings.EqualFold(ext, filepath.Ext(path)) {
		return &config.Error{Problems: []config.Problem{{
			Path:    name,
			Message: fmt.Sprintf("this device's config is %s: send a %s file", filepath.Base(path), filepath.Ext(path)),
		}}}
	}
	return a.ask(ctx, content)
}

// ask hands a config to the agent's loop and waits for the outcome. The loop
// takes one at a time and reads, writes and applies it without another in
// between, so that the file is always what runs. When ctx ends before the loop
// took it, nothing changes.
func (a *Agent) ask(ctx context.Context, content []byte) error {
	r := reload{content: content, done: make(chan error, 1)}
	select {
	case a.reloads <- r:
	case <-ctx.Done():
		return fmt.Errorf("another config is being applied: %w", ctx.Err())
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("the config is still being applied: %w", ctx.Err())
	}
}

// apply replaces the running parts by those of the config in pushed, or in the
// file when pushed is nil. It returns once the queue is open again, so that who
// asks for /health next does not hear of a gap. When ctx ends meanwhile, the new
// parts are not started.
func (a *Agent) apply(ctx context.Context, pushed []byte) error {
	a.notifyReloading()
	defer func() {
		if ctx.Err() == nil {
			a.o.Notify(daemon.SdNotifyReady)
		}
	}()
	next, err := a.prepare(pushed)
	if err != nil {
		if pushed == nil {
			a.refusal.Store(&health.Refusal{At: a.o.Clock.Now(), Reason: firstProblem(err)})
		}
		return err
	}
	old := a.generation()
	if err := a.keepConfig(old, next, pushed); err != nil {
		return err
	}
	old.stop()
	if ctx.Err() != nil {
		return nil
	}
	next.before = old.totals()
	if !reflect.DeepEqual(old.cfg.Privacy, next.cfg.Privacy) || !reflect.DeepEqual(old.cfg.Sensors, next.cfg.Sensors) {
		a.live.Clear() // may hold what the new rules would not let through
	}
	a.setGeneration(next)
	a.refusal.Store(nil)
	next.start()
	a.o.OnConfig(next.cfg)
	next.awaitQueue(ctx, func() {}, openPatience)
	// Last, because another port ends the connection that this was asked on.
	if err := a.server.Load().SetConfig(next.cfg.Health); err != nil {
		return fmt.Errorf("apply [health]: %w", err)
	}
	a.log.Info().Str("config_hash", next.cfg.Source.Hash).Msg("config applied")
	return nil
}

// prepare checks the config in content, or in the file when content is nil, and
// builds its parts.
func (a *Agent) prepare(content []byte) (*generation, error) {
	cfg, err := a.o.Load(a.o.Paths.Config, content)
	if err != nil {
		return nil, err
	}
	return a.build(cfg)
}

// keepConfig keeps the config that runs until now, if next is another one, and
// makes pushed the config file, unless it is nil. What is kept did run: the file
// may have been changed since.
func (a *Agent) keepConfig(now, next *generation, pushed []byte) error {
	if now.cfg.Source.Hash != next.cfg.Source.Hash {
		err := atomicfile.Write(a.o.Paths.LastGoodConfig(), now.cfg.Content(), 0o640)
		switch {
		case err == nil:
		case pushed == nil: // the next start takes the file in any case
			a.log.Warn().Err(err).Msg("the config before was not kept")
		default:
			return fmt.Errorf("keep the config before: %w", err)
		}
	}
	if pushed == nil {
		return nil
	}
	return atomicfile.Write(a.o.Paths.Config, pushed, 0o640)
}

// firstProblem is err in one line.
func firstProblem(err error) string {
	line := err.Error()
	var bad *config.Error
	if errors.As(err, &bad) && len(bad.Problems) > 0 {
		line = bad.Problems[0].String()
		if more := len(bad.Problems) + bad.Omitted - 1; more > 0 {
			line += fmt.Sprintf(" (and %d more)", more)
		}
	}
	line, _, _ = strings.Cut(line, "\n")
	return line
}
