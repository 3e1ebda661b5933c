package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/internal/buildinfo"
	"github.com/pyvorin/pyvorin-edge/internal/cli"
	"github.com/pyvorin/pyvorin-edge/provision"
)

// provisionFlags are the flags of provision that are not ready to be used.
type provisionFlags struct {
	template, anchor, envFile, user string
	set, force                      []string
}

func newProvision(a *app) *cobra.Command {
	var (
		flags  provisionFlags
		o      provision.Options
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "provision",
		Short: "Give this device its identity, the keys that it obeys and its config",
		Long: `Give this device its identity, the keys that it obeys and its first config.

The device id is the fleet's prefix and a part of the hash of the board's serial
number. The template is a config in which ${DEVICE_ID}, the variables of --set and
--env-file, and ${NAME:-default} are filled in; $${NAME} is left to the agent's
environment. A pyvorin-edge.toml on the boot partition takes the template's place,
and is removed when it was imported.

What is missing on the command line stays as it is, and what was done before is
not done again: run it as often as you like. What was changed since, and an
identity or keys that are others than those given, are only replaced with
--force. A running agent takes a new config on SIGHUP, all else when restarted.

Exits with 78 when the template cannot be filled in or the result is no config
that the agent would load. docs/operations.md has the whole story.`,
		Example: `  pyvorin-edge provision --fleet-prefix PLANT --template fleet.toml --trust-anchor trust_anchor.json --set API_KEY
  pyvorin-edge provision --template fleet.toml --env-file /etc/pyvorin-edge/provision.env --dry-run`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			set, err := a.completeProvision(cmd, &o, flags)
			if err != nil {
				return err
			}
			r, err := provision.Run(cmd.Context(), o)
			if err != nil {
				return err
			}
			for _, name := range r.Unused {
				if set[name] {
					r.Warnings = append(r.Warnings, fmt.Sprintf("the template does not refer to %s, which --set gives", name))
				}
			}
			if asJSON {
				r.Warnings = append([]string{}, r.Warnings...)
				return json.NewEncoder(cmd.OutOrStdout()).Encode(r)
			}
			return printProvisioned(cmd.OutOrStdout(), cmd.ErrOrStderr(), r)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Prefix, "fleet-prefix", "", "what the device id begins with (default the one that it has, or "+provision.DefaultPrefix+")")
	f.StringVar(&flags.template, "template", "", "config file with references to variables")
	f.StringVar(&flags.anchor, "trust-anchor", "", "file with the trust anchor, or a public key of 64 hex digits")
	f.StringArrayVar(&flags.set, "set", nil, "a variable, as NAME=VALUE, or NAME to take it from the environment; may be repeated")
	f.StringVar(&flags.envFile, "env-file", "", "file with variables, NAME=VALUE a line; --set goes before")
	f.StringVar(&flags.user, "user", agentUser, "whom the agent runs as, and gets its files; without root owners are left alone")
	f.StringSliceVar(&flags.force, "force", nil, "replace what must not get lost by accident: identity, anchor, config (default all of them)")
	f.Lookup("force").NoOptDefVal = strings.Join(forceable, ",")
	f.BoolVar(&o.DryRun, "dry-run", false, "say what would be done, and change nothing")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	f.StringVar(&o.Root, "root", "/", "the parent of proc, sys and boot, for tests")
	if err := f.MarkHidden("root"); err != nil {
		panic(err) // the flag is defined one line above
	}
	return cmd
}

// forceable is what --force may name.
var forceable = []string{"identity", "anchor", "config"}

// completeProvision fills in o from the flags and the files that they name, and
// returns the names of the variables that --set gives.
func (a *app) completeProvision(cmd *cobra.Command, o *provision.Options, flags provisionFlags) (set map[string]bool, err error) {
	for _, what := range flags.force {
		if !slices.Contains(forceable, what) {
			return nil, cli.Usagef("--force takes %s, not %q", strings.Join(forceable, ", "), what)
		}
	}
	o.Force = provision.Force{
		Identity: slices.Contains(flags.force, "identity"),
		Anchor:   slices.Contains(flags.force, "anchor"),
		Config:   slices.Contains(flags.force, "config"),
	}
	if o.Vars, set, err = provisionVars(flags.envFile, flags.set); err != nil {
		return nil, err
	}
	if flags.template != "" {
		text, err := config.ReadFile(flags.template)
		if err != nil {
			return nil, fmt.Errorf("read template: %w", errors.Unwrap(err))
		}
		o.Template = &provision.Template{Name: flags.template, Text: text}
	}
	if flags.anchor != "" {
		if o.Anchor, err = provision.ReadAnchor(flags.anchor); err != nil {
			return nil, err
		}
	}
	if os.Geteuid() == 0 && flags.user != "" {
		as, err := lookUser(flags.user)
		switch {
		case err == nil:
			o.Agent = &provision.Owner{UID: int(as.UID), GID: int(as.GID)}
		case errors.As(err, new(user.UnknownUserError)) && !cmd.Flags().Changed("user"):
			fmt.Fprintf(cmd.ErrOrStderr(), "note: there is no user %s, so all files are root's\n", flags.user)
		default:
			return nil, err
		}
	}
	paths := a.paths()
	o.BaseDir, o.Config = paths.Base, paths.Config
	if _, err := os.Stat(o.Config); err != nil && a.configPath == "" && strings.EqualFold(filepath.Ext(flags.template), ".json") {
		o.Config = filepath.Join(paths.Base, "config.json")
	}
	o.Now = time.Now()
	if built := buildinfo.Time(); o.Now.Before(built) {
		o.Now = built
	}
	o.Check = func(path string, content []byte) ([]string, error) {
		c, err := a.checkConfig(path, append([]byte{}, content...))
		if err != nil {
			return nil, err
		}
		return c.Source.Warnings, nil
	}
	return set, nil
}

// provisionVars returns the variables of a file and of --set, and the names of
// the latter.
func provisionVars(envFile string, flags []string) (vars map[string]string, set map[string]bool, err error) {
	vars, set = map[string]string{}, map[string]bool{}
	if envFile != "" {
		if vars, err = provision.ReadEnv(envFile); err != nil {
			return nil, nil, err
		}
	}
	for _, flag := range flags {
		name, value, found := strings.Cut(flag, "=")
		if err := provision.CheckVariable(name, value); err != nil {
			return nil, nil, cli.Usagef("--set: %w", err)
		}
		if !found {
			if value, found = os.LookupEnv(name); !found {
				return nil, nil, cli.Usagef("--set %s: there is no such variable in the environment, and no value is given", name)
			}
			if err := provision.CheckVariable(name, value); err != nil {
				return nil, nil, cli.Usagef("--set: %w", err)
			}
		}
		vars[name], set[name] = value, true
	}
	return vars, set, nil
}

func printProvisioned(out, notes io.Writer, r *provision.Report) error {
	for _, warning := range r.Warnings {
		fmt.Fprintln(notes, "warning:", warning)
	}
	switch {
	case !r.Changed:
		fmt.Fprintf(out, "%s is provisioned: nothing to do\n", r.DeviceID)
	case r.DryRun:
		fmt.Fprintf(out, "%s: this is what would be done\n", r.DeviceID)
	default:
		fmt.Fprintf(out, "%s is provisioned\n", r.DeviceID)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, s := range r.Steps {
		fmt.Fprintf(w, "  %s\t%s\t%s\n", s.File, s.Outcome, cmp.Or(s.Detail, "-"))
	}
	return w.Flush()
}
