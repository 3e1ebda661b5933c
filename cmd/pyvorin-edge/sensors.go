package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/internal/human"
	"github.com/pyvorin/pyvorin-edge/privacy"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/sensors/all"
	"github.com/pyvorin/pyvorin-edge/wire"
)

func newSensors(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sensors",
		Short: "List the sensors of the config, read them, and find what else there is",
	}
	cmd.AddCommand(newSensorsList(a), newSensorsRead(a), newSensorsDiscover(a))
	return cmd
}

// sensorEntry is a sensor in `sensors list --json`.
type sensorEntry struct {
	Name            string  `json:"name"`
	IngestType      string  `json:"ingest_type"`
	SensorType      string  `json:"sensor_type"`
	Unit            string  `json:"unit"`
	Enabled         bool    `json:"enabled"`
	IntervalSeconds float64 `json:"interval_seconds"` // 0 when disabled
	TimeoutSeconds  float64 `json:"timeout_seconds"`
	Bus             string  `json:"bus"` // "" is its own
}

// typeEntry is an ingest type in `sensors list --types --json`.
type typeEntry struct {
	Name string `json:"name"`
	Doc  string `json:"doc"`
}

func newSensorsList(a *app) *cobra.Command {
	var asJSON, types bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the configured sensors, or with --types what can be configured",
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := cmd.OutOrStdout()
			if types {
				return listTypes(out, asJSON)
			}
			entries, err := a.sensorEntries()
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(out).Encode(entries)
			}
			return printSensors(out, entries)
		},
	}
	cmd.Flags().BoolVar(&types, "types", false, "list the ingest types of this build; needs no config")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func listTypes(out io.Writer, asJSON bool) error {
	entries := []typeEntry{}
	for _, t := range all.Types() {
		entries = append(entries, typeEntry{Name: t.Name, Doc: t.Doc})
	}
	if asJSON {
		return json.NewEncoder(out).Encode(entries)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "INGEST TYPE\tREADS")
	for _, t := range entries {
		fmt.Fprintf(w, "%s\t%s\n", t.Name, t.Doc)
	}
	return w.Flush()
}

// sensorEntries returns the sensors of the config, disabled ones included.
func (a *app) sensorEntries() ([]sensorEntry, error) {
	c, err := a.loadConfig()
	if err != nil {
		return nil, err
	}
	p, err := sensors.NewPoller(sensors.Options{Defaults: c.Sensors, Types: all.Types(), Env: sensors.Env{Log: zerolog.Nop(), SysRoot: "/"}})
	if err != nil {
		return nil, err
	}
	polled := p.Stats().Sensors
	entries := []sensorEntry{}
	for _, d := range c.Sensors.Devices {
		e := sensorEntry{Name: d.Name, IngestType: d.IngestType, SensorType: d.SensorType, Unit: d.Unit, Enabled: d.Enabled}
		if i := slices.IndexFunc(polled, func(s sensors.SensorStats) bool { return s.Name == d.Name }); i >= 0 {
			e.Bus = polled[i].Bus
			e.IntervalSeconds, e.TimeoutSeconds = polled[i].Interval.Seconds(), polled[i].Timeout.Seconds()
		}
		entries = append(entries, e)
	}
	return entries, nil
}

func printSensors(out io.Writer, entries []sensorEntry) error {
	if len(entries) == 0 {
		_, err := fmt.Fprintln(out, "No sensors are configured: add one to sensors.devices of the config.")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tINGEST TYPE\tSENSOR TYPE\tUNIT\tEVERY\tBUS")
	for _, e := range entries {
		every, bus := config.Seconds(e.IntervalSeconds).String(), e.Bus
		if !e.Enabled {
			every = "disabled"
		}
		if bus == "" {
			bus = "-"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", e.Name, e.IngestType, dash(e.SensorType), dash(e.Unit), every, bus)
	}
	return w.Flush()
}

func newSensorsRead(a *app) *cobra.Command {
	var asJSON, watch bool
	cmd := &cobra.Command{
		Use:   "read [NAME...]",
		Short: "Read sensors now and print what they give, after the privacy rules",
		Long: `Read sensors now, all that are enabled or those that are named, and print what
they give: calibrated, checked, and cleared by the privacy rules. Of a sensor
without reduce that is what would be queued. One with reduce shows a single
value that is not reduced, since one read fills no window. --watch polls as the
agent does and prints what would be queued, reduced values included, until
Ctrl-C.

Sensors are opened anew: one whose device only one process can hold is busy
while the agent runs. The exit code is 1 when a sensor gave nothing usable; a
subscription to which nothing came in time is only noted.`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, names []string) error {
			r, err := a.newSensorReader(cmd, names, asJSON)
			if err != nil {
				return err
			}
			if watch {
				return r.watch(cmd.Context())
			}
			return r.once(cmd.Context())
		},
	}
	cmd.Flags().BoolVar(&watch, "watch", false, "poll until Ctrl-C")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print readings as they travel, one JSON object a line")
	return cmd
}

// sensorReader is one `sensors read`.
type sensorReader struct {
	options  sensors.Options // Defaults.Devices are those to be read
	filter   *privacy.Filter
	deviceID string
	asJSON   bool
	out      io.Writer
	notes    io.Writer
}

func (a *app) newSensorReader(cmd *cobra.Command, names []string, asJSON bool) (*sensorReader, error) {
	c, filter, note, err := a.loadPrivacy()
	if err != nil {
		return nil, err
	}
	r := &sensorReader{filter: filter, asJSON: asJSON, out: cmd.OutOrStdout(), notes: cmd.ErrOrStderr()}
	if note != "" && slices.ContainsFunc(c.Privacy.Rules, func(rule config.Rule) bool { return rule.Action == "hash" }) {
		fmt.Fprintln(r.notes, "note:", note)
	}
	// An agent that was never provisioned has none, which only shows in --json.
	r.deviceID, _ = a.paths().ReadDeviceID()

	var chosen []config.Sensor
	for _, d := range c.Sensors.Devices {
		if len(names) == 0 && d.Enabled || slices.Contains(names, d.Name) {
			d.Enabled = true
			chosen = append(chosen, d)
		}
	}
	for _, name := range names {
		if !slices.ContainsFunc(chosen, func(d config.Sensor) bool { return d.Name == name }) {
			return nil, fmt.Errorf("no sensor is called %q (see 'pyvorin-edge sensors list')", name)
		}
	}
	if len(chosen) == 0 {
		return nil, errors.New("no sensors are enabled: add one to sensors.devices of the config")
	}
	r.options = sensors.Options{
		Defaults: c.Sensors, Types: all.Types(),
		Env: sensors.Env{Log: newNotesLog(r.notes), DeviceID: r.deviceID, SysRoot: "/"},
	}
	r.options.Defaults.Devices = chosen
	return r, nil
}

// newNotesLog logs to a person what a reading does not tell: where it panicked.
func newNotesLog(w io.Writer) zerolog.Logger {
	console := zerolog.ConsoleWriter{Out: w, NoColor: true}
	return zerolog.New(console).Level(zerolog.ErrorLevel).With().Timestamp().Logger()
}

// once reads each sensor, those of different buses at the same time, and
// prints them in the order of the config.
func (r *sensorReader) once(ctx context.Context) error {
	p, err := sensors.NewPoller(r.options)
	if err != nil {
		return err
	}
	type result struct {
		readings []sensors.Reading
		err      error
	}
	polled := p.Stats().Sensors
	results := make([]result, len(polled))
	buses := map[string][]int{}
	for i, s := range polled {
		bus := s.Bus
		if bus == "" {
			bus = "\x00" + s.Name
		}
		buses[bus] = append(buses[bus], i)
	}
	var reading sync.WaitGroup
	for _, ofBus := range buses {
		reading.Go(func() {
			for _, i := range ofBus {
				results[i].readings, results[i].err = p.ReadOnce(ctx, polled[i].Name)
			}
		})
	}
	reading.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}

	var rows []readingRow
	var failed []string
	for i, result := range results {
		name := polled[i].Name
		switch {
		case errors.Is(result.err, sensors.ErrSilent):
			rows = append(rows, r.remark(name, result.err.Error())...)
			continue
		case result.err != nil:
			failed = append(failed, name)
		case len(result.readings) == 0:
			rows = append(rows, r.remark(name, "nothing to tell yet")...)
		}
		rows = append(rows, r.clear(name, result.readings)...)
	}
	if err := r.print(&growingTable{}, rows); err != nil {
		return err
	}
	if len(failed) > 0 {
		return fmt.Errorf("%d of %d sensors gave nothing usable: %s", len(failed), len(results), strings.Join(failed, ", "))
	}
	return nil
}

// watch polls until ctx ends, or nobody reads any more, and prints readings as
// they come.
func (r *sensorReader) watch(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var mu sync.Mutex
	table := growingTable{widths: r.expectedWidths()}
	r.options.Sink = func(readings []sensors.Reading) {
		mu.Lock()
		defer mu.Unlock()
		rows := r.clear(sensorOf(readings[0].Sensor, r.options.Defaults.Devices), readings)
		if err := r.print(&table, rows); err != nil {
			stop(err)
		}
	}
	p, err := sensors.NewPoller(r.options)
	if err != nil {
		return err
	}
	if err := p.Run(ctx); err != nil {
		return err
	}
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// print writes rows in the chosen form.
func (r *sensorReader) print(table *growingTable, rows []readingRow) error {
	if !r.asJSON {
		return table.print(r.out, rows)
	}
	for _, row := range rows {
		if _, err := fmt.Fprintf(r.out, "%s\n", row.json); err != nil {
			return err
		}
	}
	return nil
}

// sensorOf returns the configured sensor that a reading's name belongs to. The
// channel may be what a privacy rule hides, so it is not for notes.
func sensorOf(reading string, devices []config.Sensor) string {
	longest := ""
	for _, d := range devices {
		if (reading == d.Name || strings.HasPrefix(reading, d.Name+".")) && len(d.Name) > len(longest) {
			longest = d.Name
		}
	}
	return longest
}

// remark returns the row of a remark on a sensor. Where only readings belong
// into the output it goes to the notes.
func (r *sensorReader) remark(sensor, text string) []readingRow {
	if r.asJSON {
		fmt.Fprintf(r.notes, "%s: %s\n", sensor, text)
		return nil
	}
	return []readingRow{{cells: []string{sensor, "(" + text + ")"}}}
}

// expectedWidths returns how wide the columns are likely to become, so that
// what comes by and by stands in line from the start.
func (r *sensorReader) expectedWidths() []int {
	widths := []int{0, len("-12345.678"), 0, len(wire.Uncertain), len(clockTime(time.Now())), 0}
	for _, d := range r.options.Defaults.Devices {
		widths[0] = max(widths[0], utf8.RuneCountInString(d.Name))
		widths[2] = max(widths[2], utf8.RuneCountInString(d.Unit))
	}
	return widths
}

// clear applies the privacy rules and returns the lines to print: nothing of a
// reading but its cleared form is ever in one.
func (r *sensorReader) clear(sensor string, readings []sensors.Reading) []readingRow {
	var rows []readingRow
	cell := cellFor(r.out)
	withheld := 0
	for _, reading := range readings {
		cleared := r.filter.Clear(nil, reading)
		if len(cleared) == 0 {
			withheld++
		}
		for _, c := range cleared {
			w := c.Wire()
			w.DeviceID = r.deviceID
			rows = append(rows, readingRow{
				json: w.AppendJSON(nil),
				cells: []string{
					cell(w.Sensor), cell(valueText(w.Value)), dash(cell(w.Unit)), string(w.Quality),
					clockTime(w.Timestamp), human.Plain(w.Reason),
				},
			})
		}
	}
	if withheld > 0 {
		rows = append(rows, r.remark(sensor, fmt.Sprintf("%d withheld by the privacy rules", withheld))...)
	}
	return rows
}
