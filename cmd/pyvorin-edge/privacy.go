package main

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/internal/cli"
	"github.com/pyvorin/pyvorin-edge/privacy"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

func newPrivacy(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "privacy",
		Short: "Try the privacy rules of the config",
	}
	cmd.AddCommand(newPrivacyExplain(a), newPrivacyTest(a))
	return cmd
}

// loadPrivacy returns the config and a filter with its rules. Without a key
// that it may read it takes a throw-away one, and note says so: trying rules
// must not make the device's key.
func (a *app) loadPrivacy() (c *config.Config, f *privacy.Filter, note string, err error) {
	if c, err = a.loadConfig(); err != nil {
		return nil, nil, "", err
	}
	path := cmp.Or(c.Privacy.KeyFile, a.paths().PrivacyKey)
	key, err := privacy.LoadKey(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		note = fmt.Sprintf("the key %s is not there for this user: tokens of hash are shown with a throw-away key", path)
		key = make([]byte, privacy.KeySize)
		rand.Read(key)
	case err != nil:
		return nil, nil, "", err
	}
	f, err = privacy.New(c.Privacy, privacy.Options{Key: key, Log: zerolog.Nop()})
	return c, f, note, err
}

func newPrivacyExplain(a *app) *cobra.Command {
	var (
		reading = sensors.Reading{Quality: wire.Good}
		value   string
		meta    []string
		tags    []string
		asJSON  bool
	)
	cmd := &cobra.Command{
		Use:   "explain --sensor NAME",
		Short: "Say rule by rule what becomes of a reading, and why",
		Long: `Say rule by rule what becomes of a reading, and why.

A sensor that the config names brings its own type, ingest type and tags. Values
are numbers, true, false, null, or else text; in quotes they are text in any case.`,
		Example: `  pyvorin-edge privacy explain --sensor temp-01 --value 21.37
  pyvorin-edge privacy explain --sensor door --value '"1234"' --meta user_email=bob@example.com`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if reading.Sensor == "" {
				return cli.Usagef("privacy explain needs --sensor")
			}
			c, f, note, err := a.loadPrivacy()
			if err != nil {
				return err
			}
			r := reading
			r.Time = time.Now()
			r.Value = parseValue(value)
			if r.Meta, err = parsePairs("meta", meta, parseValue); err != nil {
				return err
			}
			if r.Tags, err = parsePairs("tag", tags, func(s string) string { return s }); err != nil {
				return err
			}
			var notes []string
			if note != "" {
				notes = append(notes, note)
			}
			if !fillFromConfig(&r, c.Sensors.Devices) {
				notes = append(notes, fmt.Sprintf("no sensor of the config is called %q", r.Sensor))
			}
			if !cmd.Flags().Changed("value") {
				notes = append(notes, "without --value this is a failed read, which has none")
			}
			e := f.Explain(r)
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(struct {
					Sensor string `json:"sensor"`
					Type   string `json:"type"`
					Ingest string `json:"ingest"`
					privacy.Explanation
					Note string `json:"note,omitempty"`
				}{r.Sensor, r.Type, r.Ingest, e, strings.Join(notes, "; ")})
			}
			return printExplanation(cmd.OutOrStdout(), &r, e, notes)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&reading.Sensor, "sensor", "", "the reading's name: the sensor's, and .channel where it has several")
	flags.StringVar(&reading.Type, "type", "", "its sensor_type")
	flags.StringVar(&reading.Ingest, "ingest", "", "its ingest_type")
	flags.StringVar(&value, "value", "null", "its value")
	flags.StringArrayVar(&meta, "meta", nil, "a metadata field, as name=value; may be repeated")
	flags.StringArrayVar(&tags, "tag", nil, "a tag, as key=value; may be repeated")
	flags.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// fillFromConfig completes r with what the config says of its sensor, and
// reports whether there is one.
func fillFromConfig(r *sensors.Reading, devices []config.Sensor) (known bool) {
	for _, d := range devices {
		if r.Sensor != d.Name && !strings.HasPrefix(r.Sensor, d.Name+".") {
			continue
		}
		known = true
		r.Type = cmp.Or(r.Type, d.SensorType)
		r.Ingest = cmp.Or(r.Ingest, d.IngestType)
		r.Unit = d.Unit
		if r.Tags == nil {
			r.Tags = d.Tags
		}
	}
	return known
}

// parseValue takes a JSON number, text, truth value or null as such, and
// everything else as text.
func parseValue(s string) wire.Value {
	var v wire.Value
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		return wire.TextValue(s)
	}
	return v
}

func parsePairs[T any](flag string, pairs []string, parse func(string) T) (map[string]T, error) {
	if len(pairs) == 0 {
		return nil, nil
	}
	m := map[string]T{}
	for _, pair := range pairs {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return nil, cli.Usagef("--%s takes name=value, not %q", flag, pair)
		}
		m[name] = parse(value)
	}
	return m, nil
}

func printExplanation(out io.Writer, r *sensors.Reading, e privacy.Explanation, notes []string) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "reading %s (type %q, ingest %q)\n", r.Sensor, r.Type, r.Ingest)
	for _, rule := range e.Rules {
		verdict := "no match"
		if rule.Matches {
			verdict = "MATCH"
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", rule.Key, rule.Action, verdict, rule.Why)
	}
	fmt.Fprintf(w, "outcome: %s (%s)\n", e.Outcome, e.Why)
	if e.Left != nil {
		fmt.Fprintf(w, "  value\t%s\n", e.Left.Value.AppendJSON(nil))
		for _, name := range slices.Sorted(maps.Keys(e.Left.Meta)) {
			fmt.Fprintf(w, "  meta.%s\t%s\n", name, e.Left.Meta[name].AppendJSON(nil))
		}
	}
	for _, note := range notes {
		fmt.Fprintf(w, "note: %s\n", note)
	}
	return w.Flush()
}

func newPrivacyTest(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "test FILE",
		Short: "Check the rules against cases, one JSON object a line",
		Long: `Check the rules against cases, one JSON object a line; empty lines and lines
that begin with # are skipped:

  {"sensor":"user_email","value":"bob@example.com","expect":"transform","value_expected":"h1:*"}
  {"sensor":"temp-01","value":21.5,"meta":{"password_hint":"x"},"expect":"drop"}

Keys: name, sensor, type, ingest, value, meta, tags, reason; expect (pass,
transform, aggregate, drop, which stands for error too, or error), value_expected
and meta_expected. A text that is expected may hold * and ?. All cases are run;
exits with 1 when one fails, or a line is no case.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, f, note, err := a.loadPrivacy()
			if err != nil {
				return err
			}
			file, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer file.Close()
			out := cmd.OutOrStdout()
			if note != "" {
				fmt.Fprintln(out, "note:", note)
			}
			return runPrivacyCases(out, args[0], file, f, c.Sensors.Devices)
		},
	}
}

// privacyCase is one line of a test file.
type privacyCase struct {
	Name   string                `json:"name"`
	Sensor string                `json:"sensor"`
	Type   string                `json:"type"`
	Ingest string                `json:"ingest"`
	Value  wire.Value            `json:"value"`
	Meta   map[string]wire.Value `json:"meta"`
	Tags   map[string]string     `json:"tags"`
	Reason string                `json:"reason"`

	Expect        privacy.Outcome       `json:"expect"`
	ValueExpected *wire.Value           `json:"value_expected"`
	MetaExpected  map[string]wire.Value `json:"meta_expected"`
}

// maxCaseBytes bounds one line of a test file.
const maxCaseBytes = 1 << 20

func runPrivacyCases(out io.Writer, path string, in io.Reader, f *privacy.Filter, devices []config.Sensor) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxCaseBytes)
	cases, failures := 0, 0
	for number := 1; lines.Scan(); number++ {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		cases++
		one, err := parsePrivacyCase(line)
		if err != nil {
			failures++
			fmt.Fprintf(out, "FAIL %s:%d: %v\n", path, number, err)
		} else if why := one.run(f, devices); why != "" {
			failures++
			fmt.Fprintf(out, "FAIL %s:%d: %s: %s\n", path, number, cmp.Or(one.Name, one.Sensor), why)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if cases == 0 {
		return fmt.Errorf("%s holds no case", path)
	}
	if failures > 0 {
		return fmt.Errorf("%d of %d cases failed", failures, cases)
	}
	_, err := fmt.Fprintf(out, "ok: %d cases\n", cases)
	return err
}

func parsePrivacyCase(line []byte) (privacyCase, error) {
	var one privacyCase
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&one); err != nil {
		return one, explainUnknownKey(err)
	}
	if d.More() {
		return one, errors.New("one case a line")
	}
	if one.Sensor == "" {
		return one, errors.New("the case names no sensor")
	}
	switch one.Expect {
	case privacy.Pass, privacy.Transform, privacy.Aggregate, privacy.Drop, privacy.Failed:
		return one, nil
	}
	return one, fmt.Errorf("expect is pass, transform, aggregate, drop or error, not %q", one.Expect)
}

// explainUnknownKey says which key was meant, where err is about an unknown one.
func explainUnknownKey(err error) error {
	quoted, unknown := strings.CutPrefix(err.Error(), "json: unknown field ")
	key, bad := strconv.Unquote(quoted)
	if !unknown || bad != nil {
		return err
	}
	var keys []string
	for i, t := 0, reflect.TypeFor[privacyCase](); i < t.NumField(); i++ {
		keys = append(keys, t.Field(i).Tag.Get("json"))
	}
	if meant := cli.Nearest(key, keys); meant != "" {
		return fmt.Errorf("unknown key %q; did you mean %s?", key, meant)
	}
	return fmt.Errorf("unknown key %q; there are %s", key, strings.Join(keys, ", "))
}

// run returns how the outcome differs from what the case expects, or "".
func (c *privacyCase) run(f *privacy.Filter, devices []config.Sensor) string {
	r := sensors.Reading{
		Sensor: c.Sensor, Type: c.Type, Ingest: c.Ingest, Value: c.Value, Time: time.Now(),
		Quality: wire.Good, Reason: c.Reason, Tags: c.Tags, Meta: c.Meta,
	}
	fillFromConfig(&r, devices)
	e := f.Explain(r)
	if e.Outcome != c.Expect && !(c.Expect == privacy.Drop && e.Outcome == privacy.Failed) {
		return fmt.Sprintf("the outcome is %s (%s), expected %s", e.Outcome, e.Why, c.Expect)
	}
	if c.ValueExpected == nil && c.MetaExpected == nil {
		return ""
	}
	if e.Left == nil {
		return "nothing leaves, and the case expects a form of it"
	}
	if want := c.ValueExpected; want != nil && !valueMatches(*want, e.Left.Value) {
		return fmt.Sprintf("the value is %s, expected %s", e.Left.Value.AppendJSON(nil), want.AppendJSON(nil))
	}
	if c.MetaExpected != nil && !maps.EqualFunc(c.MetaExpected, e.Left.Meta, valueMatches) {
		got, _ := json.Marshal(e.Left.Meta) // a map of values always has a JSON form
		want, _ := json.Marshal(c.MetaExpected)
		return fmt.Sprintf("the metadata is %s, expected %s", got, want)
	}
	return ""
}

func valueMatches(want, got wire.Value) bool {
	if want == got {
		return true
	}
	pattern, ok := want.Text()
	text, isText := got.Text()
	return ok && isText && privacy.Match(pattern, text)
}
