package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/internal/human"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/sensors/all"
)

const (
	// discoverTimeout is how long the ingest types may look around; they do so
	// at the same time.
	discoverTimeout = 10 * time.Second

	// discoverGrace is what one gets to notice that its time is over.
	discoverGrace = 500 * time.Millisecond
)

func newSensorsDiscover(a *app) *cobra.Command {
	var asJSON bool
	var sysRoot string
	cmd := &cobra.Command{
		Use:   "discover",
		Short: "List what this machine offers to sensors, with the config to paste",
		Long: `List the chips, buses, lines and ports of this machine that a sensor could read,
and print a [[sensors.devices]] table for each. Only names are looked at: no
value is read, and nothing is changed. It needs neither a config nor root, and
says what this user may not open.

All of the output is valid TOML, in which the list is a comment. What the
present config reads already is named there and not printed again. The exit code
is 1 when not everything could be looked at.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			deviceID, _ := a.paths().ReadDeviceID() // none before it was provisioned
			env := sensors.Env{Log: newNotesLog(cmd.ErrOrStderr()), DeviceID: deviceID, SysRoot: sysRoot}
			offers, failures := discover(cmd.Context(), all.Types(), env)
			if err := cmd.Context().Err(); err != nil {
				return err
			}
			a.settle(offers, a.presentConfig(cmd.ErrOrStderr()))
			if err := printOffers(cmd.OutOrStdout(), offers, asJSON); err != nil {
				return err
			}
			if len(failures) > 0 {
				return fmt.Errorf("not everything was looked at: %s", strings.Join(failures, ", "))
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().StringVar(&sysRoot, "sys-root", "/", "the parent of sys, proc and dev, for tests")
	if err := cmd.Flags().MarkHidden("sys-root"); err != nil {
		panic(err) // the flag is defined one line above
	}
	return cmd
}

// foundOffer is an entry of `sensors discover --json`.
type foundOffer struct {
	IngestType string `json:"ingest_type"`
	sensors.Offer
	ConfiguredAs string `json:"configured_as"` // the sensor of the present config that reads it, or ""
}

// discover asks all types at once what there is. One that panics, or does not
// come back in time, is named in failures and stops no other.
func discover(ctx context.Context, types []sensors.Type, env sensors.Env) (offers []foundOffer, failures []string) {
	type result struct {
		offers  []sensors.Offer
		failure string
	}
	ctx, cancel := context.WithTimeout(ctx, discoverTimeout)
	defer cancel()
	results := make([]chan result, len(types))
	for i, t := range types {
		if t.Discover == nil {
			continue
		}
		results[i] = make(chan result, 1)
		go func() {
			defer func() {
				if what := recover(); what != nil {
					results[i] <- result{failure: fmt.Sprintf("%s panicked (%T)", t.Name, what)}
				}
			}()
			results[i] <- result{offers: t.Discover(ctx, env)}
		}()
	}
	late := ctx.Done()
	for i, t := range types {
		if results[i] == nil {
			continue
		}
		var r result
		select {
		case r = <-results[i]:
		case <-late:
			select {
			case r = <-results[i]:
			case <-time.After(discoverGrace):
				r.failure = fmt.Sprintf("%s was not done within %s", t.Name, human.Exact(discoverTimeout))
			}
		}
		if r.failure != "" {
			failures = append(failures, r.failure)
		}
		for _, o := range r.offers {
			offers = append(offers, foundOffer{IngestType: t.Name, Offer: o})
		}
	}
	return offers, failures
}

// presentConfig returns the config of this invocation, or nil where there is
// none or it cannot be used, which is noted.
func (a *app) presentConfig(notes io.Writer) *config.Config {
	c, err := a.loadConfig()
	var bad *config.Error
	switch {
	case err == nil:
		return c
	case errors.Is(err, fs.ErrNotExist) && a.configPath == "":
	case errors.As(err, &bad):
		fmt.Fprintln(notes, "note: the present config has errors (see 'pyvorin-edge config check'), so what it reads is not marked")
	default:
		fmt.Fprintln(notes, "note: what the present config reads is not marked:", err)
	}
	return nil
}

// nameLine is where a table that is offered names its sensor.
var nameLine = regexp.MustCompile(`(?m)^name = .*$`)

// settle marks what present reads already, and makes the names of the others
// differ from each other and from those of present, which may be nil.
func (a *app) settle(offers []foundOffer, present *config.Config) {
	var devices []config.Sensor
	if present != nil {
		devices = present.Sensors.Devices
	}
	taken := map[string]bool{}
	for _, d := range devices {
		taken[d.Name] = true
	}
	for i := range offers {
		o := &offers[i]
		if o.Config == "" {
			continue
		}
		c, err := a.checkConfig("offer.toml", []byte(o.Config))
		if err != nil || len(c.Sensors.Devices) != 1 {
			// A device that is called oddly: better no config than a broken one.
			o.Config, o.Note = "", strings.TrimPrefix(o.Note+"; its config has to be written by hand", "; ")
			continue
		}
		offered := c.Sensors.Devices[0]
		if j := slices.IndexFunc(devices, func(d config.Sensor) bool { return reads(d, offered) }); j >= 0 {
			o.ConfiguredAs = devices[j].Name
			continue
		}
		name := offered.Name
		for n := 2; taken[name]; n++ {
			name = fmt.Sprintf("%s-%d", offered.Name, n)
		}
		taken[name] = true
		if name != offered.Name {
			line := nameLine.FindStringIndex(o.Config)
			if line == nil {
				o.Config, o.Note = "", strings.TrimPrefix(o.Note+"; its name is taken", "; ")
				continue
			}
			o.Config = o.Config[:line[0]] + fmt.Sprintf("name = %q", name) + o.Config[line[1]:]
		}
	}
}

// reads reports whether d reads what offered does, or a part of it: whether it
// has every option that offered sets.
func reads(d, offered config.Sensor) bool {
	i := slices.IndexFunc(all.Types(), func(t sensors.Type) bool { return t.Name == offered.IngestType })
	if i < 0 || d.IngestType != offered.IngestType {
		return false
	}
	defaults := reflect.ValueOf(all.Types()[i].Options()).Elem()
	has, wanted := reflect.ValueOf(d.Options).Elem(), reflect.ValueOf(offered.Options).Elem()
	set := 0
	for i := range wanted.NumField() {
		want := wanted.Field(i).Interface()
		if reflect.DeepEqual(want, defaults.Field(i).Interface()) {
			continue
		}
		set++
		if !reflect.DeepEqual(has.Field(i).Interface(), want) {
			return false
		}
	}
	return set > 0
}

// nothingFound is what to say of an empty machine.
const nothingFound = `# Nothing was found: no chip that a kernel driver reads, no I2C or 1-Wire bus, no
# GPIO chip and no serial port. Check that
# - the interface is enabled (on a Raspberry Pi: raspi-config, or dtparam and
#   dtoverlay lines in /boot/firmware/config.txt; then restart),
# - its driver is loaded, and what it says: dmesg,
# - the wiring: power, ground, and the pull-ups of I2C and 1-Wire,
# - a container sees /sys and /dev of its host.
# What common devices need is in docs/sensors.md.
`

// maxDetail is how much of a detail the list shows; the rest is beside the
// config.
const maxDetail = 72

func printOffers(out io.Writer, offers []foundOffer, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(append([]foundOffer{}, offers...))
	}
	if len(offers) == 0 {
		_, err := io.WriteString(out, nothingFound)
		return err
	}
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "KIND\tNAME\tDETAIL\tNOTE")
	for _, o := range offers {
		note := o.Note
		if o.ConfiguredAs != "" {
			note = strings.TrimSuffix("configured as "+o.ConfiguredAs+"; "+note, "; ")
		}
		detail := human.Cut(human.Plain(o.Detail), maxDetail)
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", human.Plain(o.Kind), human.Plain(o.Name), dash(detail), human.Plain(note))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	var text strings.Builder
	for line := range strings.Lines(table.String()) {
		text.WriteString("# " + strings.TrimRight(line, " \n") + "\n")
	}
	for _, o := range offers {
		if o.Config == "" || o.ConfiguredAs != "" {
			continue
		}
		text.WriteByte('\n')
		for _, remark := range []string{o.Detail, o.Note} {
			if remark != "" {
				text.WriteString("# " + human.Plain(remark) + "\n")
			}
		}
		text.WriteString(strings.TrimRight(o.Config, "\n") + "\n")
	}
	_, err := io.WriteString(out, text.String())
	return err
}
