package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/spf13/cobra"

	"github.com/pyvorin/pyvorin-edge/internal/cli"
	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/bundle"
)

var stranger = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{8}, ed25519.SeedSize))

// quickPace is how the tests follow: without a hurry where a watchdog answers.
var quickPace = pace{poll: time.Millisecond, hint: 30 * time.Second, giveUp: 60 * time.Second, grace: time.Second}

// shown is what a verb has printed so far.
type shown struct {
	mu   sync.Mutex
	text strings.Builder
}

func (s *shown) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *shown) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// asking is a verb that runs while the test plays the watchdog.
type asking struct {
	d    *device
	stop context.CancelFunc // as Ctrl-C does
	shown
	done chan error
}

// begin runs `pyvorin-edge ota args...` on the device.
func (d *device) begin(p pace, args ...string) *asking {
	ctx, stop := context.WithCancel(context.Background())
	a := &asking{d: d, stop: stop, done: make(chan error, 1)}
	u := &updates{app: &app{baseDir: d.Base}, component: ota.AgentComponent, pace: p}
	root := &cobra.Command{Use: "ota"}
	root.AddCommand(newOTAInstall(u), newOTARollback(u))
	root.SetArgs(args)
	root.SetOut(a)
	root.SetErr(a)
	cli.Prepare(root)
	go func() { a.done <- root.ExecuteContext(ctx) }()
	d.t.Cleanup(stop)
	return a
}

// end returns what was printed, and the error.
func (a *asking) end() (string, error) {
	a.d.t.Helper()
	select {
	case err := <-a.done:
		return a.String(), err
	case <-time.After(30 * time.Second):
		a.d.t.Fatalf("it goes on:\n%s", a)
		return "", nil
	}
}

// tells waits until text was printed.
func (a *asking) tells(text string) {
	a.d.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(a.String(), text); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			a.d.t.Fatalf("%q was not told:\n%s", text, a)
		}
	}
}

// attempt takes the request, as a watchdog does, in a phase.
func (d *device) attempt(phase ota.Phase, change func(*ota.Attempt)) {
	d.t.Helper()
	d.state.Phase = phase
	if d.state.Attempt == nil {
		r := d.request()
		base := d.state.Active
		d.state.Attempt = &ota.Attempt{ID: r.ID, Action: r.Action, Base: &base, MinHealthySeconds: 60, DeadlineSeconds: 300}
	}
	if change != nil {
		change(d.state.Attempt)
	}
	d.save()
}

func (d *device) outcome(result ota.Result, reason string) ota.Outcome {
	return ota.Outcome{ID: d.request().ID, At: time.Now(), Action: ota.Install, Result: result, From: "1.0.0", To: "1.1.0", Reason: reason}
}

// bundle writes a good release beside the device.
func (d *device) bundle(version string, counter uint64) string {
	d.t.Helper()
	path := filepath.Join(d.t.TempDir(), version+".bundle")
	d.must(writeRelease(path, "good", version, counter, nil))
	return path
}

func TestInstallTellsEachStep(t *testing.T) {
	d := newDevice(t)
	a := d.begin(quickPace, "install", d.bundle("1.1.0", 11))
	r := d.request()
	if r.Action != ota.Install || r.Retry || time.Since(r.At).Abs() > time.Minute {
		t.Errorf("asked %+v", r)
	}
	if _, err := os.Stat(filepath.Join(d.Inbox(), r.Bundle)); err != nil {
		t.Error(err)
	}
	d.attempt(ota.Staging, nil)
	a.tells("\nstaging: ")
	d.attempt(ota.Staged, func(a *ota.Attempt) { a.Candidate = &ota.Release{Slot: "b", Version: "1.1.0", Counter: 11} })
	a.tells("\nstaged: ")
	d.attempt(ota.Trial, func(a *ota.Attempt) { a.Activated = true })
	a.tells("\ntrial: 1.1.0 runs; ")
	d.answer(d.outcome(ota.Installed, "it was well for 1m0s"))
	out, err := a.end()
	if err != nil || !strings.HasPrefix(out, "verified: pyvorin-edge 1.1.0 (counter 11), ") || !strings.HasSuffix(out, "\ncommitted 1.1.0: it was well for 1m0s\n") {
		t.Errorf("%v\n%s", err, out)
	}
	if left, err := os.ReadDir(d.Inbox()); err != nil || len(left) > 0 {
		t.Errorf("left in the inbox: %v, %v", left, err)
	}
}

func TestStepText(t *testing.T) {
	base := &ota.Release{Slot: "a", Version: "1.0.0"}
	candidate := &ota.Release{Slot: "b", Version: "1.1.0"}
	for _, tt := range []struct {
		phase ota.Phase
		a     ota.Attempt
		want  string
	}{
		{ota.Staging, ota.Attempt{Tries: 1}, "staging: the bundle is verified, unpacked and tested"},
		{ota.Staging, ota.Attempt{Tries: 2}, "staging: the bundle is verified, unpacked and tested, try 2"},
		{ota.Staged, ota.Attempt{}, "staged: 1.1.0 is complete in slot b"},
		{ota.Trial, ota.Attempt{}, "trial: 1.1.0 is started from slot b"},
		{ota.Trial, ota.Attempt{Activated: true, MinHealthySeconds: 60, DeadlineSeconds: 300}, "trial: 1.1.0 runs; kept after 1 min well without a break, taken back if not within 5 min"},
		{ota.Trial, ota.Attempt{Activated: true, Restarts: []float64{1}}, "trial: 1.1.0 ended once"},
		{ota.Trial, ota.Attempt{Activated: true, Verdict: "it ended\n"}, `going back to 1.0.0: it ended\n`},
	} {
		tt.a.Base, tt.a.Candidate = base, candidate
		if got := stepText(&ota.State{Phase: tt.phase, Attempt: &tt.a}); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.phase, got, tt.want)
		}
	}
}

// TestOutcomes has a row for each way in which an attempt ends badly.
func TestOutcomes(t *testing.T) {
	for _, tt := range []struct {
		name string
		play func(*device, *asking)
		want string // in the error
	}{
		{"taken back", func(d *device, _ *asking) {
			d.attempt(ota.Staging, nil)
			d.answer(d.outcome(ota.TakenBack, "it ended 3 times"))
		}, "rolled back 1.1.0: it ended 3 times"},
		{"refused at once", func(d *device, _ *asking) { d.answer(d.outcome(ota.Refused, "no \x1b[2Jspace")) }, `refused 1.1.0: no \x1b[2Jspace`},
		{"another outcome followed at once", func(d *device, _ *asking) {
			line := fmt.Sprintf(`{"id":%q,"at":"2026-01-02T03:04:05Z","action":"install","outcome":"rolled_back","to":"1.1.0","reason":"it hangs"}`+"\n", d.request().ID)
			d.must(os.WriteFile(d.History(), []byte(line), 0o644))
			d.answer(ota.Outcome{ID: "0", Result: ota.Installed})
		}, "rolled back 1.1.0: it hangs"},
		{"removed without an answer", func(d *device, _ *asking) { d.request(); d.must(os.Remove(d.Request())) }, "removed it without an answer"},
		{"another request in its place", func(d *device, _ *asking) {
			d.request()
			d.must(ota.WriteRequest(d.Layout, ota.Request{ID: strings.Repeat("0", 32), At: time.Now(), Action: ota.Rollback}))
		}, "another one took its place"},
		{"the state was lost", func(d *device, a *asking) {
			d.attempt(ota.Staging, nil)
			a.tells("staging: ")
			d.state.Phase, d.state.Attempt, d.state.Last = ota.RolledBack, nil, &ota.Outcome{ID: "0", Result: ota.Repaired}
			d.save()
		}, "given up without an outcome"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDevice(t)
			a := d.begin(quickPace, "install", d.bundle("1.1.0", 11))
			tt.play(d, a)
			if out, err := a.end(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q\n%s", err, tt.want, out)
			}
		})
	}
}

// follower asks for a rollback and returns what follows it.
func (d *device) follower(p pace) (*follower, *shown) {
	d.t.Helper()
	out := &shown{}
	f := &follower{u: &updates{app: &app{baseDir: d.Base}}, l: d.Layout, id: strings.Repeat("1", 32), out: out, errOut: out, pace: p}
	d.must(ota.WriteRequest(d.Layout, ota.Request{ID: f.id, At: time.Now(), Action: ota.Rollback}))
	return f, out
}

// Ctrl-C and the timeout end the waiting and not the update.
func TestStopWaiting(t *testing.T) {
	for why, want := range map[error]string{
		context.Canceled: "stopped waiting: what was asked for goes on",
		errWaitedEnough:  "waited long enough: what was asked for goes on",
	} {
		d := newDevice(t)
		f, out := d.follower(quickPace)
		ctx, stop := context.WithCancelCause(t.Context())
		d.attempt(ota.Trial, func(a *ota.Attempt) {
			a.Candidate = d.state.Previous
			stop(why) // it looks once more all the same
		})
		if _, err := f.follow(ctx); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(out.String(), "trial: 0.9.0 is started from slot b\n") {
			t.Errorf("%v, want %q\n%s", err, want, out)
		}
		if _, err := os.Stat(d.Request()); err != nil {
			t.Errorf("the request is gone: %v", err)
		}
	}
}

// A request that nobody takes must not be carried out when nobody expects it
// any more.
func TestNoWatchdog(t *testing.T) {
	quick := pace{poll: time.Millisecond, hint: time.Millisecond, giveUp: 20 * time.Millisecond, grace: 20 * time.Millisecond}
	d := newDevice(t)
	out, err := d.begin(quick, "install", d.bundle("1.1.0", 11)).end()
	if err == nil || !strings.Contains(err.Error(), "neither pyvorin-edge-watchdog.path") || !strings.Contains(out, "nothing has taken the request yet") {
		t.Errorf("%v\n%s", err, out)
	}
	if left, err := os.ReadDir(d.Inbox()); err != nil || len(left) > 0 {
		t.Errorf("left in the inbox: %v, %v", left, err)
	}
	if _, err := d.begin(quickPace, "rollback", "--timeout", "10ms").end(); err == nil || !strings.Contains(err.Error(), "it was taken back") {
		t.Errorf("with a timeout: %v", err)
	}
	if _, err := os.Stat(d.Request()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the request is there: %v", err)
	}
}

// A watchdog that was just about to take it goes on all the same.
func TestWithdrawnTooLate(t *testing.T) {
	d := newDevice(t)
	f, out := d.follower(pace{poll: time.Millisecond, hint: time.Hour, grace: time.Hour})
	done := make(chan error, 1)
	go func() {
		o, err := f.follow(t.Context())
		if err == nil && o.Result != ota.Installed {
			err = errors.New(o.String())
		}
		done <- err
	}()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(d.Request()); errors.Is(err, os.ErrNotExist) {
			break
		} else if time.Now().After(deadline) {
			t.Fatal("not taken back")
		}
	}
	base := d.state.Active
	d.state.Phase, d.state.Attempt = ota.Trial, &ota.Attempt{ID: f.id, Action: ota.Rollback, Base: &base, Candidate: d.state.Previous}
	d.save()
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(out.String(), "trial: "); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not seen")
		}
	}
	d.state.Phase, d.state.Attempt, d.state.Last = ota.Committed, nil, &ota.Outcome{ID: f.id, Result: ota.Installed, To: "0.9.0"}
	d.save()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// What the agent's user may have put in the place of the request must not hold
// root up.
func TestRequestThatIsNoFile(t *testing.T) {
	d := newDevice(t)
	d.must(syscall.Mkfifo(d.Request(), 0o600))
	if _, err := d.begin(quickPace, "rollback").end(); err == nil || !strings.Contains(err.Error(), "another request waits") {
		t.Error(err)
	}
}

func TestNotAskedFor(t *testing.T) {
	d := newDevice(t)
	good := d.bundle("1.1.0", 11)
	refused := func(want string, args ...string) {
		t.Helper()
		if out, err := d.begin(quickPace, args...).end(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q\n%s", args, err, want, out)
		}
	}
	refused("has counter 10, and 10 was committed", "install", d.bundle("1.0.1", 10))
	refused("no such file", "install", filepath.Join(d.Base, "absent.bundle"))
	refused("must be an http, https or file URL", "install", "ftp://127.0.0.1/x")
	for _, args := range [][]string{{"install", good, "--timeout", "-1s"}, {"rollback", "--no-wait", "--timeout", "1s"}, {"install"}} {
		var usage cli.UsageError
		if _, err := d.begin(quickPace, args...).end(); !errors.As(err, &usage) {
			t.Errorf("%q: %v is no usage error", args, err)
		}
	}
	if left, err := os.ReadDir(d.Inbox()); err != nil || len(left) > 0 {
		t.Errorf("left in the inbox: %v, %v", left, err)
	}

	d.must(ota.WriteRequest(d.Layout, ota.Request{ID: strings.Repeat("1", 32), At: time.Now(), Action: ota.Rollback}))
	refused("another request waits", "rollback")
	d.state.Last = &ota.Outcome{ID: strings.Repeat("1", 32), Result: ota.Refused} // it is about to be removed
	d.save()
	if out, err := d.begin(quickPace, "rollback", "--no-wait").end(); err != nil || !strings.HasPrefix(out, "asked; ") {
		t.Errorf("%v\n%s", err, out)
	}
	d.attempt(ota.Trial, func(a *ota.Attempt) { a.Candidate = d.state.Previous })
	refused("an update is under way (trial)", "install", good)
	d.must(os.RemoveAll(d.Inbox()))
	d.state.Phase, d.state.Attempt = ota.Committed, nil
	d.save()
	refused("there is no "+d.Inbox(), "install", good)
}

func TestInstallOfWhatRuns(t *testing.T) {
	d := newDevice(t)
	path := d.bundle("1.1.0", 11)
	f, err := os.Open(path)
	d.must(err)
	defer f.Close()
	u, err := bundle.Inspect(f)
	d.must(err)
	d.state.Active = ota.Release{Slot: "a", Version: "1.1.0", Counter: 11, Digest: u.Manifest.Digest()}
	d.save()
	if out, err := d.begin(quickPace, "install", path).end(); err != nil || out != "1.1.0 runs already\n" {
		t.Errorf("%v\n%s", err, out)
	}
	if left, err := os.ReadDir(d.Inbox()); err != nil || len(left) > 0 {
		t.Errorf("left in the inbox: %v, %v", left, err)
	}
}

func TestRetryAndRollbackTo(t *testing.T) {
	d := newDevice(t)
	path := d.bundle("1.1.0", 11)
	f, err := os.Open(path)
	d.must(err)
	defer f.Close()
	u, err := bundle.Inspect(f)
	d.must(err)
	d.state.Failures = []ota.Failure{{Digest: u.Manifest.Digest(), Version: "1.1.0", Reason: "it ended"}}
	d.save()
	if _, err := d.begin(quickPace, "install", path).end(); err == nil || !strings.Contains(err.Error(), "--retry") {
		t.Errorf("a release that failed: %v", err)
	}
	if _, err := d.begin(quickPace, "install", path, "--retry", "--no-wait").end(); err != nil || !d.request().Retry {
		t.Errorf("with --retry: %v", err)
	}
	d.must(os.Remove(d.Request()))
	if _, err := d.begin(quickPace, "rollback", "--to", "0.9.0", "--no-wait").end(); err != nil {
		t.Error(err)
	}
	if r := d.request(); r.Action != ota.Rollback || r.TargetVersion != "0.9.0" {
		t.Errorf("asked %+v", r)
	}
}

// A bundle that lies in the inbox already is used where it is, and stays.
func TestInstallFromTheInbox(t *testing.T) {
	d := newDevice(t)
	path := filepath.Join(d.Inbox(), "mine.bundle")
	d.must(writeRelease(path, "good", "1.1.0", 11, nil))
	a := d.begin(quickPace, "install", path)
	if r := d.request(); r.Bundle != "mine.bundle" {
		t.Errorf("asked for %s", r.Bundle)
	}
	d.answer(d.outcome(ota.Installed, "it was well"))
	if out, err := a.end(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
	d.must(os.WriteFile(path, []byte("hello\n"), 0o600))
	if _, err := d.begin(quickPace, "install", path).end(); err == nil || !strings.Contains(err.Error(), "damaged bundle") {
		t.Errorf("what is no bundle: %v", err)
	}
}

// A URL may give something else the next time.
func TestInstallFromAURL(t *testing.T) {
	d := newDevice(t)
	dir := t.TempDir()
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer server.Close()
	name := ""
	for counter := uint64(11); counter < 13; counter++ {
		d.must(writeRelease(filepath.Join(dir, "latest"), "good", fmt.Sprintf("1.%d.0", counter), counter, nil))
		out, err := d.begin(quickPace, "install", "--no-wait", server.URL+"/latest").end()
		if err != nil || !strings.HasPrefix(out, fmt.Sprintf("verified: pyvorin-edge 1.%d.0 (counter %d), ", counter, counter)) {
			t.Fatalf("%v\n%s", err, out)
		}
		r := d.request()
		if name != "" && name != r.Bundle {
			t.Errorf("%s and %s: they gather in the inbox", name, r.Bundle)
		}
		name = r.Bundle
		d.must(os.Remove(d.Request()))
	}
	if out, err := d.begin(quickPace, "install", server.URL+"/absent").end(); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestInstallIsBrokenOff(t *testing.T) {
	d := newDevice(t)
	asked := make(chan struct{}, 100)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-r.Context().Done()
	}))
	defer server.Close()
	a := d.begin(quickPace, "install", server.URL+"/x")
	<-asked
	a.stop()
	if _, err := a.end(); err == nil || !strings.Contains(err.Error(), "nothing was asked of the watchdog") {
		t.Error(err)
	}
	if _, err := os.Stat(d.Request()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the request: %v", err)
	}
}

// On a terminal a bar is drawn, and taken away; elsewhere nothing is.
func TestProgress(t *testing.T) {
	if show, end := progress(&bytes.Buffer{}); show != nil {
		t.Error("a bar without a terminal")
	} else {
		end()
	}
	master, slave, err := pty.Open()
	if err != nil {
		t.Skipf("no terminal: %v", err)
	}
	defer master.Close()
	show, end := progress(slave)
	show(4<<20, 8<<20)
	end()
	slave.Close()
	var drawn bytes.Buffer
	_, _ = drawn.ReadFrom(master) // ends with EIO
	if text := drawn.String(); !strings.Contains(text, "fetching") || !strings.Contains(text, "8.0 MiB") || !strings.HasSuffix(text, "\r") {
		t.Errorf("%q", text)
	}
}
