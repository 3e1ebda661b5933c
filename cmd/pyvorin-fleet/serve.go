package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/pyvorin/pyvorin-edge/fleet"
	"github.com/pyvorin/pyvorin-edge/fleet/ingest"
	"github.com/pyvorin/pyvorin-edge/internal/buildinfo"
	"github.com/pyvorin/pyvorin-edge/internal/cli"
)

const defaultDataDir = "/var/lib/pyvorin-fleet"

func newServe() *cobra.Command {
	var o fleet.Options
	var data string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the controller",
		Long: `Run the controller: devices deliver their readings to /v1/ingest with an API
key, and the page at / shows what came. SIGHUP reads the API key file again.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if strings.Contains(o.Database, "://") {
				return cli.Usagef("--database takes the path of a SQLite file")
			}
			if o.Retention <= 0 {
				return cli.Usagef("--retention must be longer than nothing, such as 720h")
			}
			o.Database = cmp.Or(o.Database, filepath.Join(data, "fleet.db"))
			o.KeyFile = cmp.Or(o.KeyFile, filepath.Join(data, "api-keys"))
			o.Log = newLog(cmd.ErrOrStderr())
			hangup := make(chan os.Signal, 1)
			signal.Notify(hangup, syscall.SIGHUP)
			defer signal.Stop(hangup)
			o.Reload = hangup
			o.Ready = func(r fleet.Running) { printRunning(cmd.OutOrStdout(), r) }
			server, err := fleet.New(o)
			if err != nil {
				return cli.Usagef("%w", err)
			}
			return server.Run(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.Listen, "listen", ":8090", "host:port to listen on")
	flags.StringVar(&data, "data", cmp.Or(os.Getenv("PYVORIN_FLEET_DATA"), defaultDataDir), "where the controller keeps its files (PYVORIN_FLEET_DATA)")
	flags.StringVar(&o.Database, "database", "", "SQLite file (default DATA/fleet.db)")
	flags.StringVar(&o.KeyFile, "api-key-file", "", "API keys, one a line, with an optional 'name:' before each (default DATA/api-keys)")
	flags.DurationVar(&o.Retention, "retention", ingest.DefaultRetention, "how long readings are kept")
	flags.StringVar(&o.TLSCert, "tls-cert", "", "certificate chain, PEM")
	flags.StringVar(&o.TLSKey, "tls-key", "", "key of the certificate, PEM")
	return cmd
}

func printRunning(out io.Writer, r fleet.Running) {
	created := ""
	if r.KeyCreated {
		created = " (created, with one random key)"
	}
	fmt.Fprintf(out, `pyvorin-fleet %s
  page      %s
  ingest    %s
  API keys  %s%s
  database  %s
`, buildinfo.Version, r.URL, r.IngestURL, r.KeyFile, created, r.Database)
}

// newLog logs lines for people on a terminal, and JSON elsewhere.
func newLog(out io.Writer) zerolog.Logger {
	if f, ok := out.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			out = zerolog.ConsoleWriter{Out: out, TimeFormat: time.TimeOnly}
		}
	}
	return zerolog.New(out).With().Timestamp().Logger()
}
