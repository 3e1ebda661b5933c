package health

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// probeOnce runs one configured probe within a second.
func probeOnce(t *testing.T, c config.Probe) error {
	t.Helper()
	check, err := checkOf(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return check(ctx)
}

func TestProbeTypes(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ok":
			fmt.Fprint(w, "all is well")
		case "/moved":
			http.Redirect(w, r, "/ok", http.StatusFound)
		case "/big":
			_, _ = w.Write(make([]byte, 1<<20))
		default:
			w.WriteHeader(503)
		}
	}))
	defer web.Close()
	closed := httptest.NewServer(nil)
	closed.Close()
	dir := t.TempDir()
	fresh, old := filepath.Join(dir, "fresh"), filepath.Join(dir, "old")
	for path, age := range map[string]time.Duration{fresh: 0, old: 3 * time.Hour} {
		at := time.Now().Add(-age)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("API_KEY", "very secret")
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+filepath.Join(dir, "no-bus"))
	sh := func(script string) config.Probe {
		return config.Probe{Type: "exec", Command: []string{"sh", "-c", script}}
	}
	address := strings.TrimPrefix(web.URL, "http://")
	for _, c := range []struct {
		name  string
		probe config.Probe
		want  string // "" is ok
	}{
		{"http", config.Probe{Type: "http", Target: web.URL + "/ok"}, ""},
		{"http body", config.Probe{Type: "http", Target: web.URL + "/ok", ExpectBody: "is well"}, ""},
		{"http wrong body", config.Probe{Type: "http", Target: web.URL + "/ok", ExpectBody: "ready"}, `the answer does not contain "ready"`},
		{"http large body", config.Probe{Type: "http", Target: web.URL + "/big", ExpectBody: "ready"}, `the answer does not contain "ready"`},
		{"http 503", config.Probe{Type: "http", Target: web.URL + "/x"}, "answered 503"},
		{"http expected 503", config.Probe{Type: "http", Target: web.URL + "/x", ExpectStatus: 503}, ""},
		{"http other status", config.Probe{Type: "http", Target: web.URL + "/ok", ExpectStatus: 204}, "answered 200 instead of 204"},
		{"http redirect", config.Probe{Type: "http", Target: web.URL + "/moved"}, "answered 302"},
		{"http refused", config.Probe{Type: "http", Target: closed.URL + "/?key=secret"}, "connection refused"},
		{"tcp", config.Probe{Type: "tcp", Target: address}, ""},
		{"tcp refused", config.Probe{Type: "tcp", Target: strings.TrimPrefix(closed.URL, "http://")}, "connection refused"},
		{"exec", sh("exit 0"), ""},
		{"exec fails", sh("echo 'model not loaded'; echo more; exit 2"), "exit status 2: model not loaded"},
		{"exec quiet", sh("exit 3"), "exit status 3"},
		{"exec floods", sh("head -c 1000000 /dev/zero; exit 1"), "exit status 1"},
		{"exec killed", sh("kill -9 $$"), "signal: killed"},
		{"exec without the agent's environment", sh(`test -z "$API_KEY" && test -n "$PATH"`), ""},
		{"exec absent", config.Probe{Type: "exec", Command: []string{"/no/such/program"}}, "no such file or directory"},
		{"file", config.Probe{Type: "file_age", Target: fresh, MaxAgeSeconds: 60}, ""},
		{"file old", config.Probe{Type: "file_age", Target: old, MaxAgeSeconds: 60}, old + " is 3 h old (at most 60 s)"},
		{"file of any age", config.Probe{Type: "file_age", Target: old}, ""},
		{"file absent", config.Probe{Type: "file_age", Target: old + "er"}, "no such file or directory"},
		{"systemd without a bus", config.Probe{Type: "systemd", Target: "nginx"}, "ask systemd over the system bus: "},
	} {
		err := probeOnce(t, c.probe)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if err != nil && (strings.Contains(err.Error(), "secret") || len(err.Error()) > 500) {
			t.Errorf("%s: the message is not fit to be shown: %v", c.name, err)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestJudgeUnit(t *testing.T) {
	for _, c := range []struct{ loaded, active, want string }{
		{"loaded", "active", ""}, {"loaded", "reloading", ""},
		{"loaded", "activating", "x.service is activating"}, {"loaded", "failed", "x.service is failed"},
		{"not-found", "inactive", "systemd knows no x.service"},
	} {
		got := ""
		if err := judgeUnit("x.service", c.loaded, c.active); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s, %s: %q, want %q", c.loaded, c.active, got, c.want)
		}
	}
}

// TestProbeExecKillsItsGroup expects neither the program nor what it started
// in the background to outlive the probe.
func TestProbeExecKillsItsGroup(t *testing.T) {
	for name, script := range map[string]string{
		"at the timeout": "sleep 1000 & echo $! > \"$0\"; sleep 1000",
		"when it ended":  "sleep 1000 >/dev/null 2>&1 & echo $! > \"$0\"",
	} {
		t.Run(name, func(t *testing.T) {
			pidFile := filepath.Join(t.TempDir(), "pid")
			ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
			defer cancel()
			begin := time.Now()
			err := probeExec(ctx, []string{"sh", "-c", script, pidFile})
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("took %v", took)
			}
			if timedOut := name == "at the timeout"; timedOut != (err != nil) {
				t.Errorf("error %v", err)
			}
			b, err := os.ReadFile(pidFile)
			if err != nil {
				t.Fatal(err)
			}
			pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
			if err != nil {
				t.Fatal(err)
			}
			eventually(t, "the background process is gone", func() bool { return gone(pid) })
		})
	}
}

// gone reports whether a process no longer runs; where nobody reaps orphans it
// stays as a zombie.
func gone(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return true
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

// TestProbeTurns follows a probe through its states; what is not known yet has
// no state, but a reason.
func TestProbeTurns(t *testing.T) {
	bad := fmt.Errorf("answered 503")
	for _, c := range []struct {
		name     string
		severity string
		outcomes []error
		want     []wire.CheckState
	}{
		{"good from the start", "warning", []error{nil, nil}, []wire.CheckState{"ok", "ok"}},
		{"bad from the start", "warning", []error{bad, bad, bad}, []wire.CheckState{"", "", "warning"}},
		{"late start", "critical", []error{bad, bad, nil}, []wire.CheckState{"", "", "ok"}},
		{"turns and comes back", "critical", []error{nil, bad, bad, bad, bad, nil}, []wire.CheckState{"ok", "ok", "ok", "critical", "critical", "ok"}},
		{"a good one starts the count anew", "critical", []error{nil, bad, bad, nil, bad, bad}, []wire.CheckState{"ok", "ok", "ok", "ok", "ok", "ok"}},
	} {
		p := &probe{config: config.Probe{Failures: 3, Severity: c.severity}, window: NewWindow()}
		for i, err := range c.outcomes {
			p.record(time.Millisecond, err)
			if got := p.latest(); got.State != c.want[i] || (got.Reason == "") != (got.State == wire.CheckOK) {
				t.Errorf("%s, outcome %d: %q (%s), want %q", c.name, i+1, got.State, got.Reason, c.want[i])
			}
		}
	}
}

// TestProbeSchedule has one that hangs: it is not started twice, it fails
// while it hangs, and it is no obstacle to the end.
func TestProbeSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running, started atomic.Int64
		release := make(chan struct{})
		p := &probe{
			config: config.Probe{Name: "nfs", IntervalSeconds: 10, TimeoutSeconds: 1, Failures: 1, Severity: "warning"},
			window: NewWindow(),
			check: func(context.Context) error {
				if running.Add(1) > 1 {
					t.Error("started twice")
				}
				defer running.Add(-1)
				if started.Add(1) == 2 {
					<-release // deaf to its context
				}
				return nil
			},
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			p.run(ctx)
			close(done)
		}()
		time.Sleep(5 * time.Second)
		if got := p.latest(); got.State != wire.CheckOK || started.Load() != 1 {
			t.Fatalf("after 5 s %+v, started %d", got, started.Load())
		}
		time.Sleep(60 * time.Second)
		if got := p.latest(); got.State != wire.CheckWarning || !strings.HasPrefix(got.Reason, "the probe hangs (") || started.Load() != 2 {
			t.Fatalf("while it hangs %+v, started %d", got, started.Load())
		}
		close(release)
		time.Sleep(20 * time.Second)
		if got := p.latest(); got.State != wire.CheckOK || started.Load() < 3 {
			t.Errorf("afterwards %+v, started %d", got, started.Load())
		}
		cancel()
		<-done
	})
}

func TestProbeTimeoutSaysSo(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // accepts and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	o := testOptions(t)
	o.Window = NewWindow()
	o.Config.Probes = []config.Probe{
		{Name: "deaf", Type: "http", Target: "http://" + ln.Addr().String(), IntervalSeconds: 0.2, TimeoutSeconds: 0.1, Failures: 2, Severity: "critical"},
		{Name: "slow", Type: "exec", Command: []string{"sleep", "1000"}, IntervalSeconds: 0.2, TimeoutSeconds: 0.1, Failures: 1, Severity: "warning"},
	}
	s := start(t, o)
	eventually(t, "both checks turned", func() bool {
		checks := s.Document().Checks
		return checks["deaf"] != "" && checks["slow"] != ""
	})
	doc := s.Document()
	if doc.Status != wire.Unhealthy || doc.Checks["deaf"] != wire.CheckCritical || !strings.HasPrefix(doc.Warnings[0], "deaf: no answer within 0.1 s (") || !strings.HasPrefix(doc.Warnings[1], "slow: no answer within 0.1 s (") {
		t.Errorf("%s %v %q", doc.Status, doc.Checks, doc.Warnings)
	}
	if doc.Metrics.ErrorRatePercent != 100 || doc.Metrics.LatencyP95Ms < 80 {
		t.Errorf("metrics %+v", doc.Metrics)
	}
}

func TestProbeConfig(t *testing.T) {
	valid := config.Probe{Name: "x", Type: "tcp", Target: "localhost:1", IntervalSeconds: 1, TimeoutSeconds: 1}
	for want, change := range map[string]func(*config.Probe){
		"":                       func(*config.Probe) {},
		"is not host:port":       func(p *config.Probe) { p.Target = "localhost" },
		"is not a URL":           func(p *config.Probe) { p.Type, p.Target = "http", "localhost" },
		"needs command":          func(p *config.Probe) { p.Type = "exec" },
		`unknown type "icmp"`:    func(p *config.Probe) { p.Type = "icmp" },
		"the name is empty":      func(p *config.Probe) { p.Name = "" },
		"taken by another check": func(p *config.Probe) { p.Name = "disk_space" },
		"must be above 0":        func(p *config.Probe) { p.TimeoutSeconds = 0 },
	} {
		p := valid
		change(&p)
		_, err := newProbes([]config.Probe{p}, NewWindow())
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := newProbes([]config.Probe{valid, valid}, NewWindow()); err == nil {
		t.Error("two probes of one name")
	}
}
