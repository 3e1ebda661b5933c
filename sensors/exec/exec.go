// Package exec is the ingest type "exec": it runs a program and takes values
// out of what it prints.
//
// The program is the operator's, but its behaviour is anyone's guess. It gets
// no shell, no standard input, none of the agent's open files, a process group
// of its own and an environment of a few named variables, so that the agent's
// secrets do not reach it. When its time is up, or it prints more than 64 KiB,
// the whole group is killed, children and their children included; so is what it
// leaves running when it ends. A pipe that some process outside the group still
// holds is left after a second. Under systemd it also lives in the agent's
// sandbox and with the agent's user.
//
// A read runs the program once. A program that never ends is kept running
// instead: each line that it prints is parsed when it comes, and a read takes
// the newest value of each channel. It is killed when it falls silent, or when
// a line has no end, and the Poller starts it again.
package exec

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/sensors/internal/jsonpath"
)

// Options are the config keys of an exec sensor.
type Options struct {
	Command        []string          `toml:"command" required:"true" doc:"Program and arguments, no shell. The program is an absolute path, or a name to look up in PATH."`
	WorkingDir     string            `toml:"working_dir" doc:"Absolute folder to run it in; empty means /."`
	Env            map[string]string `toml:"env" secret:"true" doc:"Its environment, besides PATH, LANG, TZ and HOME of the agent."`
	Format         string            `toml:"format" enum:"number,line,json,nagios" doc:"What it prints: number takes the first number, line the first line as text, json a document, nagios a plugin's state and performance data."`
	Regex          string            `toml:"regex" doc:"number, line: takes the first group, or the whole match, instead; named groups become channels."`
	JSONPath       string            `toml:"json_path" doc:"json: where the value is, in gjson syntax."`
	Fields         map[string]string `toml:"fields" doc:"json: several values instead: channel name to path."`
	TimestampPath  string            `toml:"timestamp_path" doc:"json: where the time of measurement is: RFC 3339, or a number since 1970. Empty means now."`
	Meta           map[string]string `toml:"meta" doc:"json: metadata: name to path. Texts are cut to 256 bytes."`
	Stream         bool              `toml:"stream" doc:"number, line, json: true keeps the program running and takes each line it prints; a poll gives the newest value of each channel."`
	SilenceSeconds float64           `toml:"silence_seconds" min:"0" max:"31536000" doc:"stream: a program that prints no line for so long is killed and started again; 0 is never."`
	StderrReason   bool              `toml:"stderr_reason" doc:"true adds the first line of its standard error to the reason of a failure. That line leaves the device unfiltered: it must hold no secret and no measured value."`
}

// Type is the ingest type "exec".
var Type = sensors.Type{
	Name:    "exec",
	Doc:     "A program that prints a number, a line, JSON, or what a Nagios plugin prints.",
	Options: func() any { return &Options{WorkingDir: "/", Format: "number", SilenceSeconds: 60} },
	New:     New,
}

type sensor struct {
	program program
	parse   parser
	codes   bool // the exit status is the parser's business, not a failure
}

// parser turns what a program printed, and its exit status, into samples. Its
// errors never show what was printed.
type parser func(stdout []byte, exitStatus int) ([]sensors.Sample, error)

// New makes a sensor; d.Options is an *Options.
func New(d config.Sensor, _ sensors.Env) (sensors.Sensor, error) {
	o, ok := d.Options.(*Options)
	if !ok {
		return nil, fmt.Errorf("internal error: exec options are %T", d.Options)
	}
	if len(o.Command) == 0 || o.Command[0] == "" {
		return nil, config.Problemf("command", "must name a program")
	}
	if name := o.Command[0]; strings.Contains(name, "/") && !filepath.IsAbs(name) {
		return nil, config.Problemf("command[0]", "%s is relative; use an absolute path", name)
	}
	dir := cmp.Or(o.WorkingDir, "/")
	if !filepath.IsAbs(dir) {
		return nil, config.Problemf("working_dir", "must be absolute")
	}
	for name, value := range o.Env {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.Contains(value, "\x00") {
			return nil, config.Problemf("env", "%q is not a valid variable", name)
		}
	}
	parse, err := newParser(*o)
	if err != nil {
		return nil, err
	}
	p := program{argv: o.Command, dir: dir, env: o.Env, stderr: o.StderrReason}
	if o.Stream {
		if o.Format == "nagios" {
			return nil, config.Problemf("stream", `does not go with format = "nagios": a plugin tells the state by ending`)
		}
		return newStream(p, parse, config.Seconds(o.SilenceSeconds)), nil
	}
	return &sensor{program: p, parse: parse, codes: o.Format == "nagios"}, nil
}

func newParser(o Options) (parser, error) {
	spec := jsonpath.Spec{Path: o.JSONPath, Fields: o.Fields, Timestamp: o.TimestampPath, Meta: o.Meta}
	if err := spec.Check(); err != nil {
		return nil, err
	}
	if o.Format != "json" && !spec.IsZero() {
		return nil, config.Problemf("format", `must be "json" for json_path, fields, timestamp_path and meta`)
	}
	var re *regexp.Regexp
	if o.Regex != "" {
		if o.Format != "number" && o.Format != "line" {
			return nil, config.Problemf("regex", `needs format = "number" or "line"`)
		}
		var err error
		if re, err = regexp.Compile(o.Regex); err != nil {
			return nil, config.Problemf("regex", "%v", err)
		}
	}
	switch o.Format {
	case "json":
		if spec.IsZero() {
			return nil, config.Problemf("json_path", "is needed, or fields; @this is the whole output")
		}
		return func(stdout []byte, _ int) ([]sensors.Sample, error) { return spec.Samples(stdout) }, nil
	case "number":
		return numberParser(re), nil
	case "line":
		return lineParser(re), nil
	case "nagios":
		return parseNagios, nil
	}
	return nil, config.Problemf("format", "%q is none of number, line, json, nagios", o.Format)
}

func (s *sensor) Read(ctx context.Context) ([]sensors.Sample, error) {
	result, err := s.program.run(ctx)
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", s.program.argv[0], err)
	}
	if result.status != 0 && !s.codes {
		return nil, withReason(fmt.Errorf("%s ended with exit status %d", s.program.argv[0], result.status), result.said)
	}
	samples, err := s.parse(result.stdout, result.status)
	if err != nil {
		return nil, withReason(fmt.Errorf("output of %s: %w", s.program.argv[0], err), result.said)
	}
	return samples, nil
}

// withReason adds what the program said itself, which is empty unless the
// operator vouched for its words.
func withReason(err error, said string) error {
	if said == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, said)
}
