package main

import (
	"io"
	stdlog "log"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/pyvorin/pyvorin-edge/agent"
	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/internal/buildinfo"
	"github.com/pyvorin/pyvorin-edge/internal/clock"
	"github.com/pyvorin/pyvorin-edge/privacy"
	"github.com/pyvorin/pyvorin-edge/sensors/all"
)

func newRun(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "run",
		Short: "Run the agent until SIGTERM or Ctrl-C",
		Long: `Run the agent: read the sensors, apply the privacy rules, queue what may leave
and deliver it. SIGHUP reads the config file again. A second SIGTERM or Ctrl-C
ends the process without waiting for deliveries; nothing queued is lost.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// From the first moment to the last: unheeded, SIGHUP would kill.
			hangups := make(chan os.Signal, 1)
			signal.Notify(hangups, syscall.SIGHUP)
			cfg, err := a.loadConfig()
			if err != nil {
				return a.paths().HintLastGood(err)
			}
			if a.digestKey() == nil {
				// First start: the key that effective_config_hash is taken with
				// is made now, and a device that cannot keep one does without.
				if _, err := privacy.EnsureKey(a.paths().PrivacyKey); err == nil {
					if cfg, err = a.loadConfig(); err != nil {
						return err
					}
				}
			}
			log := newLogger(cfg.Logging, cmd.ErrOrStderr())
			stdlog.SetFlags(0)
			stdlog.SetOutput(log) // what libraries say
			ag, err := agent.New(agent.Options{
				Paths:    a.paths(),
				Config:   cfg,
				Load:     a.checkConfig,
				Types:    all.Types(),
				Clock:    clock.System(buildinfo.Time()),
				Log:      log,
				OnConfig: func(c *config.Config) { setLevel(c.Logging.Level) },
			})
			if err != nil {
				return err
			}
			go func() {
				for range hangups {
					if err := ag.Reload(cmd.Context()); err != nil && cmd.Context().Err() == nil {
						log.Error().Err(err).Msg("config not applied, going on with the one before")
					}
				}
			}()
			return ag.Run(cmd.Context())
		},
	}
}

// newLogger returns the logger of the whole process.
func newLogger(c config.Logging, w io.Writer) zerolog.Logger {
	zerolog.TimeFieldFormat = time.RFC3339Nano
	setLevel(c.Level)
	if c.Format == "console" {
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: time.TimeOnly, NoColor: os.Getenv("NO_COLOR") != "" || !isTerminal(w)}
	}
	return zerolog.New(w).With().Timestamp().Logger()
}

// setLevel sets the level of every logger of the process; config has checked it.
func setLevel(level string) {
	if l, err := zerolog.ParseLevel(strings.ToLower(level)); err == nil {
		zerolog.SetGlobalLevel(l)
	}
}

// isTerminal reports whether w is a terminal, for colours.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
