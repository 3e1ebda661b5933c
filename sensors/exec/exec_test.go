package exec

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secret = "hunter2"

// script writes a shell script and returns its path.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func newSensor(t *testing.T, change func(*Options)) sensors.Sensor {
	t.Helper()
	o := Type.Options().(*Options)
	change(o)
	s, err := New(config.Sensor{Options: o}, sensors.Env{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func read(t *testing.T, timeout time.Duration, s sensors.Sensor) ([]sensors.Sample, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	start := time.Now()
	got, err := s.Read(ctx)
	if took := time.Since(start); took > timeout+pipeGrace+5*time.Second {
		t.Errorf("took %v", took)
	}
	if err != nil && strings.Contains(err.Error(), secret) {
		t.Errorf("the error carries what was printed: %v", err)
	}
	return got, err
}

const ample = 20 * time.Second

func TestFormats(t *testing.T) {
	tests := []struct {
		print  string // what the program prints
		change func(*Options)
		want   []sensors.Sample
		err    string
	}{
		{"48.3", nil, []sensors.Sample{{Value: wire.NumberValue(48.3)}}, ""},
		{"temp1: -48.3C, 7", nil, []sensors.Sample{{Value: wire.NumberValue(-48.3)}}, ""},
		{"temp=1e3", nil, []sensors.Sample{{Value: wire.NumberValue(1000)}}, ""},
		{"1e999", nil, nil, "not a number"},
		{secret, nil, nil, "no number"},
		{"", nil, nil, "no number"},
		{"a=1 b=2", func(o *Options) { o.Regex = `b=(\d)` }, []sensors.Sample{{Value: wire.NumberValue(2)}}, ""},
		{"a=1 b=x", func(o *Options) { o.Regex = `a=(?P<a>\S+) b=(?P<b>\S+)( c=(?P<c>\d))?` }, []sensors.Sample{
			{Channel: "a", Value: wire.NumberValue(1)},
			{Channel: "b", Quality: wire.Bad, Reason: "what was found is not a number"},
		}, ""},
		{secret, func(o *Options) { o.Regex = `b=(\d)` }, nil, "regex does not match"},
		{"  \n door open \nmore", func(o *Options) { o.Format = "line" }, []sensors.Sample{{Value: wire.TextValue("door open")}}, ""},
		{"door 17", func(o *Options) { o.Format, o.Regex = "line", `\d+` }, []sensors.Sample{{Value: wire.TextValue("17")}}, ""},
		{"", func(o *Options) { o.Format = "line" }, nil, "printed nothing"},
		{`{"a":{"b":true}}`, func(o *Options) { o.Format, o.JSONPath = "json", "a.b" }, []sensors.Sample{{Value: wire.BoolValue(true)}}, ""},
		{`{"a":` + secret, func(o *Options) { o.Format, o.JSONPath = "json", "a" }, nil, "not valid JSON"},
	}
	for _, tt := range tests {
		s := newSensor(t, func(o *Options) {
			o.Command = []string{"printf", "%s", tt.print}
			if tt.change != nil {
				tt.change(o)
			}
		})
		got, err := read(t, ample, s)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%q: %+v, %v", tt.print, got, err)
			}
			continue
		}
		if diff := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b wire.Value) bool { return a == b })); err != nil || diff != "" {
			t.Errorf("%q: %v\n%s", tt.print, err, diff)
		}
	}
}

func TestNagios(t *testing.T) {
	file := script(t, `echo "DISK WARNING - free space: / 3326 MB | /=2643MB;5948;5958;0;5968 'two words'=1,5s bad=U"
echo "long text 1=2"
echo "more | time=0.02s;;;0"
exit $1`)
	run := func(status string) ([]sensors.Sample, error) {
		return read(t, ample, newSensor(t, func(o *Options) { o.Command, o.Format = []string{file, status}, "nagios" }))
	}
	perf := []sensors.Sample{
		{Channel: "/", Value: wire.NumberValue(2643), Unit: "MB"},
		{Channel: "two words", Value: wire.NumberValue(1.5), Unit: "s"},
		{Channel: "bad", Quality: wire.Bad, Reason: "the plugin gave no value"},
		{Channel: "time", Value: wire.NumberValue(0.02), Unit: "s"},
	}
	for status, state := range map[string]sensors.Sample{
		"0": {Value: wire.TextValue("ok")},
		"1": {Value: wire.TextValue("warning")},
		"2": {Value: wire.TextValue("critical")},
		"3": {Value: wire.TextValue("unknown"), Quality: wire.Bad, Reason: "the plugin could not tell the state"},
	} {
		got, err := run(status)
		want := append([]sensors.Sample{state}, perf...)
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b wire.Value) bool { return a == b })); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", status, err, diff)
		}
	}
	if _, err := run("4"); err == nil || !strings.Contains(err.Error(), "exit status 4") {
		t.Error(err)
	}
}

func TestFailures(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	os.WriteFile(plain, []byte("#!/bin/sh\n"), 0o644)
	foreign := filepath.Join(dir, "foreign")
	os.WriteFile(foreign, []byte("\x00\x01\x02"), 0o755)
	orphan := filepath.Join(dir, "orphan")
	os.WriteFile(orphan, []byte("#!/no/such/interpreter\n"), 0o755)
	tests := []struct {
		command []string
		want    string
	}{
		{[]string{"no-such-program-at-all"}, "not found in PATH"},
		{[]string{filepath.Join(dir, "gone")}, "no such program"},
		{[]string{plain}, "not executable"},
		{[]string{dir}, "not executable"},
		{[]string{foreign}, "another architecture"},
		{[]string{orphan}, "interpreter is missing"},
		{[]string{"sh", "-c", "echo " + secret + " >&2; exit 7"}, "exit status 7"},
		{[]string{"sh", "-c", "kill -9 $$"}, "ended by signal killed"},
	}
	for _, tt := range tests {
		got, err := read(t, ample, newSensor(t, func(o *Options) { o.Command = tt.command }))
		if err == nil || !strings.Contains(err.Error(), tt.want) || got != nil {
			t.Errorf("%v: %+v, %v; want %q", tt.command, got, err, tt.want)
		}
	}
	_, err := read(t, ample, newSensor(t, func(o *Options) { o.Command, o.WorkingDir = []string{"true"}, dir+"/gone" }))
	if err == nil || !strings.Contains(err.Error(), "working_dir") {
		t.Error(err)
	}
}

func TestStderrReason(t *testing.T) {
	file := script(t, `printf '\n\033[31mno bus\033[0m\nsecond line\n' >&2; head -c 1000000 /dev/zero >&2; exit 1`)
	_, err := read(t, ample, newSensor(t, func(o *Options) { o.Command, o.StderrReason = []string{file}, true }))
	if err == nil || !strings.HasSuffix(err.Error(), "exit status 1: [31mno bus [0m") {
		t.Errorf("%v", err)
	}
}

// alive reports whether a process runs; one that only waits to be reaped does
// not.
func alive(pid string) bool {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(after, "Z")
}

func waitGone(t *testing.T, pidFile string) (pid string) {
	t.Helper()
	data, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	pid = strings.TrimSpace(string(data))
	if _, err := strconv.Atoi(pid); err != nil {
		t.Fatalf("pid %q", pid)
	}
	for deadline := time.Now().Add(10 * time.Second); alive(pid); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a grandchild was left running")
		}
	}
	return pid
}

func TestHangKillsTheGroup(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	file := script(t, `trap '' TERM INT HUP
(trap '' TERM; sleep 300; :) & echo $! >`+pidFile+`.new; mv `+pidFile+`.new `+pidFile+`
wait`)
	_, err := read(t, time.Second, newSensor(t, func(o *Options) { o.Command = []string{file} }))
	if err == nil || !strings.Contains(err.Error(), "in time") {
		t.Error(err)
	}
	waitGone(t, pidFile)
}

func TestNothingIsLeftRunning(t *testing.T) {
	// As the first process of a container does, inherit the orphans.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	for name, tt := range map[string]struct {
		background, end string
		timeout         time.Duration
		err             string
	}{
		"holds the pipe":                {"sleep 300", "", ample, ""},
		"holds the pipe of a failure":   {"sleep 300", "exit 7", ample, "exit status 7"},
		"holds the pipe until too late": {"sleep 300", "", 300 * time.Millisecond, "in time"},
		"holds nothing":                 {"sleep 300 >/dev/null 2>&1", "", ample, ""},
	} {
		t.Run(name, func(t *testing.T) {
			pidFile := filepath.Join(t.TempDir(), "pid")
			file := script(t, tt.background+` & echo $! >`+pidFile+`; echo 5; `+tt.end)
			got, err := read(t, tt.timeout, newSensor(t, func(o *Options) { o.Command = []string{file} }))
			if tt.err == "" && (err != nil || got[0].Value != wire.NumberValue(5)) {
				t.Error(got, err)
			}
			if tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Error(got, err)
			}
			pid := waitGone(t, pidFile)
			if _, err := os.Stat("/proc/" + pid); err == nil {
				t.Error("it stays as a zombie")
			}
		})
	}
}

// A reading waits in memory while the queue cannot take it: it must not hold
// the whole output of its program there.
func TestReadingsDoNotHoldTheOutput(t *testing.T) {
	tests := map[string]struct {
		parse parser
		text  string
	}{
		"line":   {lineParser(nil), "open\n"},
		"regex":  {lineParser(regexp.MustCompile("o(p)en")), "open\n"},
		"nagios": {parseNagios, "OK|a=1s "},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			const reads = 20
			kept := make([][]sensors.Sample, reads)
			before := heap()
			for i := range kept {
				samples, err := tt.parse(fmt.Appendf(nil, "%-*s", maxStdoutBytes, tt.text), 0)
				if err != nil {
					t.Fatal(err)
				}
				kept[i] = samples
			}
			if grown := int64(heap()) - int64(before); grown > reads*maxStdoutBytes/4 {
				t.Errorf("%d readings hold %d bytes", reads, grown)
			}
			runtime.KeepAlive(kept)
		})
	}
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestFlood(t *testing.T) {
	for _, command := range []string{"head -c 10000000 /dev/zero", "yes " + secret} {
		_, err := read(t, ample, newSensor(t, func(o *Options) { o.Command = []string{"sh", "-c", command} }))
		if err == nil || !strings.Contains(err.Error(), "more than 65536 bytes") {
			t.Errorf("%s: %v", command, err)
		}
	}
}

func TestStopped(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	pidFile := filepath.Join(t.TempDir(), "pid")
	file := script(t, `echo $$ >`+pidFile+`.new; mv `+pidFile+`.new `+pidFile+`; exec sleep 300`)
	s := newSensor(t, func(o *Options) { o.Command = []string{file} })
	go func() {
		for {
			if _, err := os.Stat(pidFile); err == nil {
				cancel()
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	if _, err := s.Read(ctx); err == nil || !strings.Contains(err.Error(), "stopped") {
		t.Error(err)
	}
	waitGone(t, pidFile)
}

func TestEnvironment(t *testing.T) {
	t.Setenv("API_KEY", secret)
	t.Setenv("TZ", "Europe/Vienna")
	t.Setenv("LANG", "C")
	s := newSensor(t, func(o *Options) {
		o.Command, o.Format, o.Regex = []string{"env"}, "line", `(?s)(.*)`
		o.Env = map[string]string{"MINE": "1", "LANG": "de_AT"}
	})
	got, err := read(t, ample, s)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := got[0].Value.Text()
	for line := range strings.Lines(text) {
		name, _, _ := strings.Cut(line, "=")
		switch name {
		case "PATH", "HOME", "TZ", "LANG", "MINE", "PWD":
		default:
			t.Errorf("the program sees %s", name)
		}
	}
	if strings.Contains(text, secret) || !strings.Contains(text, "TZ=Europe/Vienna") || !strings.Contains(text, "LANG=de_AT") || !strings.Contains(text, "MINE=1") {
		t.Error(text)
	}
}

// A library may open files without a word that programs are not to have them.
func TestNoOpenFileIsPassedOn(t *testing.T) {
	file := filepath.Join(t.TempDir(), "port")
	fd, err := syscall.Open(file, syscall.O_CREAT|syscall.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	s := newSensor(t, func(o *Options) {
		o.Command, o.Format = []string{script(t, "ls -l /proc/self/fd | tr '\\n' ' '")}, "line"
	})
	got, err := read(t, ample, s)
	if err != nil || len(got) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	if open, _ := got[0].Value.Text(); !strings.Contains(open, "/dev/null") || strings.Contains(open, file) {
		t.Errorf("the program has open: %s", open)
	}
}

func TestWorkingDirAndNoShell(t *testing.T) {
	dir := t.TempDir()
	s := newSensor(t, func(o *Options) {
		o.Command, o.Format, o.WorkingDir = []string{"sh", "-c", `pwd -P; echo "$1"`, "sh", "$(id); x > y"}, "line", dir
		o.Regex = `(?s)(?P<dir>.*)\n(?P<arg>.*)\n`
	})
	got, err := read(t, ample, s)
	real, _ := filepath.EvalSymlinks(dir)
	if err != nil || got[0].Value != wire.TextValue(real) || got[1].Value != wire.TextValue("$(id); x > y") {
		t.Error(got, err)
	}
}

func TestNewRefuses(t *testing.T) {
	bad := map[string]func(*Options){
		"no command":       func(o *Options) { o.Command = nil },
		"empty program":    func(o *Options) { o.Command = []string{""} },
		"relative":         func(o *Options) { o.Command = []string{"./x"} },
		"relative dir":     func(o *Options) { o.WorkingDir = "x" },
		"env":              func(o *Options) { o.Env = map[string]string{"A=B": secret} },
		"regex with json":  func(o *Options) { o.Format, o.JSONPath, o.Regex = "json", "a", "b" },
		"broken regex":     func(o *Options) { o.Regex = "(" },
		"path with number": func(o *Options) { o.JSONPath = "a" },
		"json and no path": func(o *Options) { o.Format = "json" },
		"format":           func(o *Options) { o.Format = "xml" },
		"stream of nagios": func(o *Options) { o.Format, o.Stream = "nagios", true },
	}
	for name, change := range bad {
		o := Type.Options().(*Options)
		o.Command = []string{"true"}
		change(o)
		if _, err := New(config.Sensor{Options: o}, sensors.Env{}); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParsersTakeAnything(t *testing.T) {
	parsers := map[string]parser{"number": numberParser(nil), "line": lineParser(nil), "nagios": parseNagios}
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(
			rapid.SliceOf(rapid.Byte()),
			rapid.Map(rapid.StringMatching(`(x|[^|]{0,9}\|('a b'|c)=[-0-9.,eE]{0,9}[sU%]?(;1)* ?\n?){0,5}`), func(s string) []byte { return []byte(s) }),
		).Draw(t, "text")
		for name, parse := range parsers {
			samples, err := parse(text, 0)
			if err == nil && len(samples) == 0 {
				t.Fatalf("%s: neither samples nor an error", name)
			}
			for _, s := range samples {
				if s.Quality == wire.Bad && s.Reason == "" || s.Quality == "" && s.Value.Kind() == wire.None {
					t.Fatalf("%s: %+v", name, s)
				}
			}
		}
	})
}

func TestNumberFindsWhatIsPrinted(t *testing.T) {
	parse := numberParser(nil)
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.Float64Range(-1e9, 1e9).Draw(t, "f")
		got, err := parse(fmt.Appendf(nil, "probe-%s: %v units", rapid.StringMatching(`[a-z]{1,3}`).Draw(t, "s"), want), 0)
		if err != nil || got[0].Value != wire.NumberValue(want) {
			t.Fatalf("%v: %+v, %v", want, got, err)
		}
	})
}
