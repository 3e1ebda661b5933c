package exec

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// running is a stream whose Run was called.
type running struct {
	*stream
	t     *testing.T
	woken chan struct{}
	ended chan error
	stop  context.CancelFunc
}

// start runs a stream of the options until the test ends or stop is called.
func start(t *testing.T, change func(*Options)) *running {
	t.Helper()
	s := newSensor(t, func(o *Options) { o.Stream = true; change(o) })
	return run(t, s.(*stream))
}

func run(t *testing.T, s *stream) *running {
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{stream: s, t: t, woken: make(chan struct{}, 100), ended: make(chan error, 1), stop: cancel}
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.ended <- s.Run(ctx, func() { r.woken <- struct{}{} })
	}()
	t.Cleanup(func() { cancel(); <-done })
	return r
}

// read reads until there is a sample or an error.
func (r *running) read() ([]sensors.Sample, error) {
	r.t.Helper()
	for deadline := time.Now().Add(ample); ; time.Sleep(time.Millisecond) {
		got, err := r.Read(r.t.Context())
		if len(got) > 0 || err != nil {
			return got, err
		}
		if time.Now().After(deadline) {
			r.t.Fatal("neither a sample nor an error")
		}
	}
}

// wake waits until Run asks for a read.
func (r *running) wake() {
	r.t.Helper()
	select {
	case <-r.woken:
	case err := <-r.ended:
		r.t.Fatalf("it ended: %v", err)
	case <-time.After(ample):
		r.t.Fatal("it asked for no read")
	}
}

// end waits until Run has ended by itself.
func (r *running) end() error {
	r.t.Helper()
	select {
	case err := <-r.ended:
		r.ended <- err
		return err
	case <-time.After(ample):
		r.t.Fatal("it runs on")
		return nil
	}
}

func TestStreamKeepsTheNewest(t *testing.T) {
	file := script(t, `echo "a=1 b=1"; echo; echo "a=2"; echo "a=3"; exec sleep 300`)
	r := start(t, func(o *Options) { o.Command, o.Regex = []string{file}, `a=(?P<a>\d)(?: b=(?P<b>\d))?` })
	var last wire.Value
	for last != wire.NumberValue(3) {
		got, err := r.read()
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, s := range got {
			if seen[s.Channel] || s.Time.IsZero() || s.Quality != "" { // a line without b leaves b as it was
				t.Errorf("%+v", got)
			}
			seen[s.Channel] = true
			if s.Channel == "a" {
				last = s.Value
			}
		}
	}
	if got, err := r.Read(t.Context()); got != nil || err != nil {
		t.Errorf("a value was read twice: %+v, %v", got, err)
	}
	if len(r.woken) != 1 {
		t.Errorf("woke %d times", len(r.woken))
	}
	r.stop()
	if err := r.end(); err != nil {
		t.Errorf("stopped: %v", err)
	}
}

func TestStreamOfJSON(t *testing.T) {
	file := script(t, `echo '{"t":21.5,"at":1700000000}'; printf '{"t":22}'; exit 3`)
	r := start(t, func(o *Options) {
		o.Command, o.Format, o.JSONPath, o.TimestampPath = []string{file}, "json", "t", "at"
	})
	if err := r.end(); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Error(err)
	}
	got, err := r.Read(t.Context()) // the last line had no end
	if len(got) != 1 || got[0].Value != wire.NumberValue(22) || got[0].Quality != wire.Uncertain || err == nil {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestStreamEnds(t *testing.T) {
	for text, want := range map[string]string{
		"exit 7":                      "exit status 7",
		"exit 0":                      "has to keep running",
		"kill -9 $$":                  "ended by signal killed",
		"echo 'no bus' >&2; exit 1":   "keep running: no bus",
		"echo " + secret + "; exit 1": "exit status 1",
	} {
		file := script(t, text)
		r := start(t, func(o *Options) { o.Command, o.StderrReason = []string{file}, true })
		err := r.end()
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", text, err)
		}
		for range 2 { // it stays so until a line comes
			if _, again := r.Read(t.Context()); again != err {
				t.Errorf("%s: read %v", text, again)
			}
		}
	}
	r := start(t, func(o *Options) { o.Command = []string{"no-such-program-at-all"} })
	if err := r.end(); err == nil || !strings.Contains(err.Error(), "not found in PATH") {
		t.Error(err)
	}
}

func TestStreamRecovers(t *testing.T) {
	mended := filepath.Join(t.TempDir(), "mended")
	file := script(t, `[ -e `+mended+` ] || exit 1; echo 5; exec sleep 300`)
	r := start(t, func(o *Options) { o.Command = []string{file} })
	if err := r.end(); err == nil {
		t.Fatal("it did not end")
	}
	if err := os.WriteFile(mended, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r = run(t, r.stream)
	r.wake()
	if got, err := r.Read(t.Context()); err != nil || len(got) != 1 || got[0].Value != wire.NumberValue(5) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestStreamThatIsKilled(t *testing.T) {
	for name, tt := range map[string]struct{ text, want string }{
		"silent":           {"sleep 300 & wait", "printed no line for "},
		"a line begun":     {"printf 12; sleep 300 & wait", "stdbuf"},
		"a line too long":  {"sleep 300 & head -c 70000 /dev/zero; wait", "more than 65536 bytes"},
		"a line unlimited": {"sleep 300 & cat /dev/zero", "more than 65536 bytes"},
		"no output at all": {"exec >&-; sleep 300 & wait", "closed its output"},
	} {
		t.Run(name, func(t *testing.T) {
			// The program gets more time until it has come as far as its child.
			for silence := 0.2; ; silence *= 2 {
				pidFile := filepath.Join(t.TempDir(), "pid")
				file := script(t, strings.Replace(tt.text, "sleep 300 &", "sleep 300 & echo $! >"+pidFile+";", 1))
				r := start(t, func(o *Options) { o.Command, o.SilenceSeconds = []string{file}, silence })
				err := r.end()
				if _, again := r.Read(t.Context()); again != err || err == nil {
					t.Errorf("ended with %v, read %v", err, again)
				}
				if _, missing := os.Stat(pidFile); missing != nil && silence < ample.Seconds() {
					continue
				}
				waitGone(t, pidFile)
				if strings.Contains(err.Error(), tt.want) {
					return
				}
				if !strings.Contains(err.Error(), "printed no line") || silence > ample.Seconds() {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestStreamStopped(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	file := script(t, `trap '' TERM INT HUP
(trap '' TERM; sleep 300; :) & echo $! >`+pidFile+`; echo 1; wait`)
	r := start(t, func(o *Options) { o.Command, o.SilenceSeconds = []string{file}, 0 })
	r.wake()
	r.stop()
	if err := r.end(); err != nil {
		t.Error(err)
	}
	waitGone(t, pidFile)
}

func TestStreamWhosePipeIsHeld(t *testing.T) {
	if _, err := exec.LookPath("setsid"); err != nil {
		t.Skip("no setsid here")
	}
	pidFile := filepath.Join(t.TempDir(), "pid")
	file := script(t, `setsid sh -c 'echo $$ >`+pidFile+`.new; mv `+pidFile+`.new `+pidFile+`; exec sleep 300' &
while [ ! -e `+pidFile+` ]; do sleep 0.01; done; echo 5`)
	r := start(t, func(o *Options) { o.Command = []string{file} })
	if err := r.end(); err == nil || !strings.Contains(err.Error(), "exit status 0") {
		t.Error(err)
	}
	pid := 0
	data, _ := os.ReadFile(pidFile)
	if _, err := fmt.Sscan(string(data), &pid); err != nil {
		t.Fatal(err)
	}
	syscall.Kill(pid, syscall.SIGKILL)
}

func TestStreamLinesThatDoNotFit(t *testing.T) {
	s := newSensor(t, func(o *Options) { o.Stream, o.Command, o.Regex = true, []string{"x"}, `t=(\d+)` }).(*stream)
	for _, tt := range []struct {
		lines string
		want  wire.Value
		err   string
	}{
		{"", wire.Value{}, ""},
		{secret + "\nt=1\n" + secret, wire.NumberValue(1), ""},
		{secret, wire.Value{}, "output of x: regex does not match"},
		{"", wire.Value{}, ""},
		{"\n \n", wire.Value{}, ""},
	} {
		for line := range strings.Lines(tt.lines) {
			s.take([]byte(line))
		}
		got, err := s.Read(t.Context())
		if fmt.Sprint(err) != cmp.Or(tt.err, "<nil>") || len(got) == 1 && got[0].Value != tt.want || (len(got) == 1) != (tt.want.Kind() == wire.Number) {
			t.Errorf("%q: %+v, %v", tt.lines, got, err)
		}
	}
}

func TestStreamWhoseParserPanics(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	file := script(t, "sleep 300 & echo $! >"+pidFile+"; echo 5; wait")
	s := newSensor(t, func(o *Options) { o.Stream, o.Command = true, []string{file} }).(*stream)
	s.parse = func([]byte, int) ([]sensors.Sample, error) { panic("odd") }
	func() {
		defer func() { recover() }() // as the Poller does
		s.Run(t.Context(), func() {})
		t.Error("it did not panic")
	}()
	waitGone(t, pidFile)
}

func TestStreamOfManyLinesIsSlowedDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSensor(t, func(o *Options) { o.Stream, o.Command = true, []string{"yes"} }).(*stream)
		kill := func(err error) { t.Errorf("killed: %v", err) }
		s.silence = time.Millisecond // it is the stream that rests, so this does not run out
		began := time.Now()
		s.follow(t.Context(), kill, strings.NewReader(strings.Repeat("5\n", 3*maxLinesPerSecond+1)), func() {})
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// Through the Poller, as `sensors read` does it.
func TestStreamReadOnce(t *testing.T) {
	o := Type.Options().(*Options)
	o.Stream, o.Command = true, []string{script(t, "while :; do echo 21.5; sleep 0.1; done")}
	p, err := sensors.NewPoller(sensors.Options{
		Types: []sensors.Type{Type},
		Env:   sensors.Env{Log: zerolog.Nop(), SysRoot: "/"},
		Defaults: config.Sensors{PollIntervalSeconds: 20, TimeoutSeconds: 20, Devices: []config.Sensor{{
			Name: "scale", IngestType: "exec", Enabled: true, Scale: 1, Reduce: "none",
			MaxReadingsPerPoll: 100, MaxTextBytes: 100, Options: o,
		}}},
		Sink: func([]sensors.Reading) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := p.ReadOnce(t.Context(), "scale")
	if err != nil || len(got) != 1 || got[0].Value != wire.NumberValue(21.5) || got[0].Quality != wire.Good {
		t.Errorf("%+v, %v", got, err)
	}
}

// The lines are of the two forms that tegrastats prints: JetPack 4 on a Nano,
// JetPack 6 on an Orin Nano.
var tegrastats = map[string]struct {
	line string
	want string
}{
	"nano": {
		"RAM 1923/3964MB (lfb 2x2MB) SWAP 191/1982MB (cached 6MB) IRAM 0/252kB(lfb 252kB) CPU [5%@1224,4%@1224,off,6%@1224] EMC_FREQ 0%@1600 GR3D_FREQ 12%@76 APE 25 PLL@37C CPU@40C PMIC@50C GPU@40C AO@45C thermal@40C POM_5V_IN 1750/1628 POM_5V_GPU 0/0 POM_5V_CPU 366/406",
		"ram_mb=1923 gpu_percent=12 cpu_celsius=40 input_mw=1750",
	},
	"orin": {
		"11-15-2024 08:38:09 RAM 6185/7620MB (lfb 8x2MB) SWAP 851/3810MB (cached 1MB) CPU [15%@729,11%@729,14%@729,13%@729,off,off] EMC_FREQ 43%@2133 GR3D_FREQ 63%@[621] NVDEC off NVJPG off VIC off OFA off APE 200 cpu@53.968C soc2@52.437C soc0@50.75C gpu@53.343C tj@53.968C soc1@51.656C VDD_IN 12479mW/12479mW VDD_CPU_GPU_CV 4667mW/4667mW VDD_SOC 2817mW/2817mW",
		"ram_mb=6185 gpu_percent=63 cpu_celsius=53.968 input_mw=12479",
	},
}

// The example of docs/sensors.md reads both forms.
func TestTegrastatsOfTheDocs(t *testing.T) {
	page, err := os.ReadFile("../../docs/sensors.md")
	if err != nil {
		t.Fatal(err)
	}
	var options *Options
	for block := range strings.SplitSeq(string(page), "```") {
		text, ok := strings.CutPrefix(block, "toml\n")
		if !ok || !strings.Contains(text, "tegrastats") {
			continue
		}
		c, err := config.Parse("docs.toml", []byte(text), config.Options{SensorTypes: map[string]func() any{"exec": Type.Options}})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range c.Sensors.Devices {
			if o := d.Options.(*Options); strings.Contains(o.Command[0], "tegrastats") {
				options = o
			}
		}
	}
	if options == nil || !options.Stream {
		t.Fatal("docs/sensors.md has no example of tegrastats with stream = true")
	}
	for name, tt := range tegrastats {
		t.Run(name, func(t *testing.T) {
			fake := script(t, "while :; do echo '"+tt.line+"'; sleep 0.05; done")
			r := start(t, func(o *Options) { *o = *options; o.Command = []string{fake} })
			got, err := r.read()
			if err != nil {
				t.Fatal(err)
			}
			var texts []string
			for _, s := range got {
				texts = append(texts, fmt.Sprint(s.Channel, "=", s.Value))
			}
			if text := strings.Join(texts, " "); text != tt.want {
				t.Errorf("got %s, want %s", text, tt.want)
			}
		})
	}
}
