package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pyvorin/pyvorin-edge/internal/human"
	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/wire"
)

var errUnhealthy = errors.New("the device is unhealthy")

func newStatus(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say how the running agent is",
		Long: `Ask the agent of this base dir, over its unix socket, for its /health document.
Exit code 1 when no agent runs or the device is unhealthy.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			doc, err := a.agentHealth(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				err = json.NewEncoder(cmd.OutOrStdout()).Encode(doc)
			} else {
				err = printStatus(cmd.OutOrStdout(), doc, time.Now())
			}
			if err == nil && doc.Status == wire.Unhealthy {
				err = errUnhealthy
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the /health document")
	return cmd
}

func printStatus(out io.Writer, d wire.Health, now time.Time) error {
	fmt.Fprintf(out, "%s is %s\n", d.DeviceID, d.Status)
	for _, w := range d.Warnings {
		fmt.Fprintf(out, "  ! %s\n", human.Plain(w))
	}
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	row("version", "%s%s, up %s", d.Version, slotText(d.Agent.Slot), (time.Duration(d.UptimeSeconds) * time.Second).String())
	row("sensors", "%d of %d ok, %d readings%s", d.Sensors.OK, d.Sensors.Configured, d.Sensors.ReadingsTotal, listText(", failing: ", d.Sensors.Failing))
	row("queue", "%d readings, %s%s", d.Cloud.QueueDepth, human.Bytes(d.Cloud.QueueBytes), agoText(", oldest ", d.Cloud.OldestItemTimestamp, now))
	label := "cloud"
	switch c := d.Cloud; {
	case !c.Enabled:
		row(label, "disabled")
	case c.Paused != "":
		row(label, "paused: %s", human.Plain(c.Paused))
		label = ""
	case c.LastError != nil:
		row(label, "failing: %s; retried", human.Plain(*c.LastError))
		label = ""
	}
	if c := d.Cloud; c.Enabled {
		row(label, "%d sent today, %d retries, %d dead letters%s", c.MessagesSentToday, c.TotalRetries, c.DeadLetters, agoText(", last delivery ", c.LastFlushTime, now))
	}
	row("privacy", "%d rules, %d dropped, %d transformed, %d errors", d.Privacy.Rules, d.Privacy.DroppedTotal, d.Privacy.TransformedTotal, d.Privacy.ErrorsTotal)
	var checks []string
	for _, name := range slices.Sorted(maps.Keys(d.Checks)) {
		if d.Checks[name] != wire.CheckOK {
			name += "=" + string(d.Checks[name])
		}
		checks = append(checks, name)
	}
	row("checks", "%s", strings.Join(checks, " "))
	row("config", "%s", d.Agent.ConfigHash)
	if text := updateText(d.OTA); text != "" {
		row("update", "%s", text)
	}
	return w.Flush()
}

// updateText says how the device's last update stands, "" when it never had one.
func updateText(o wire.OTAHealth) string {
	switch {
	case o.State != "" && !ota.Phase(o.State).AtRest():
		return fmt.Sprintf("%s (see 'pyvorin-edge ota status')", o.State)
	case o.LastOutcome != nil:
		return human.Plain(*o.LastOutcome)
	}
	return ""
}

func slotText(slot string) string {
	if slot == "" {
		return ""
	}
	return " in slot " + slot
}

func listText(prefix string, items []string) string {
	if len(items) == 0 {
		return ""
	}
	return prefix + strings.Join(items, ", ")
}

func agoText(prefix string, t *time.Time, now time.Time) string {
	if t == nil {
		return ""
	}
	return prefix + human.Ago(*t, now)
}
