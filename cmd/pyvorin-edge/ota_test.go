package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pyvorin/pyvorin-edge/internal/cli"
	"github.com/pyvorin/pyvorin-edge/internal/clock"
	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/ota/bundle/pack"
	"github.com/pyvorin/pyvorin-edge/trust"
)

// otaVerb runs `pyvorin-edge ota args...` on a device.
func otaVerb(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	return runCapture(t, append([]string{"--base-dir", dir, "ota"}, args...)...)
}

func TestOTAStatus(t *testing.T) {
	uptime := clock.SinceBoot().Seconds()
	trial := func(change func(*ota.Attempt)) func(*ota.State) {
		return func(s *ota.State) {
			s.Phase, s.Previous = ota.Trial, nil
			s.Attempt = &ota.Attempt{
				ID: "1", Action: ota.Install, Base: &s.Active, Candidate: &ota.Release{Slot: "b", Version: "1.1.0", Counter: 11},
				MinHealthySeconds: 60, DeadlineSeconds: 300, BootID: clock.BootID(), Boots: 1, BeganAt: uptime - 3000, Activated: true,
			}
			change(s.Attempt)
		}
	}
	for _, tt := range []struct {
		name string
		set  func(*ota.State)
		want []string
	}{
		{"at rest", func(*ota.State) {}, []string{
			"state     committed\n", "active    1.0.0 in slot a (counter 10)\n",
			"previous  0.9.0 in slot b (counter 9): 'pyvorin-edge ota rollback' goes back to it\n",
			"next      nothing until there is a bundle with a counter above 10\n",
		}},
		{"the seed", func(s *ota.State) { s.Active.Seed, s.CommittedAt = true, time.Now().Add(-time.Hour) }, []string{
			"active    1.0.0 in slot a (as the package brought it), committed 60 min ago\n",
		}},
		{"staging", func(s *ota.State) { s.Phase, s.Attempt = ota.Staging, &ota.Attempt{ID: "1", Base: &s.Active} }, []string{
			"state      staging\n", "committed  1.0.0", "the bundle is verified, unpacked",
		}},
		{"about to be tried", trial(func(a *ota.Attempt) { a.Activated = false }), []string{"next       1.1.0 is started from slot b and judged\n"}},
		{"on trial", trial(func(a *ota.Attempt) { a.Restarts = []float64{1, 2} }), []string{
			"candidate  1.1.0 in slot b (counter 11), it ended 2 times\n",
			"next       on trial since 50 min", ": kept after 1 min well without a break, taken back if not within 5 min\n",
		}},
		{"on trial since another boot", trial(func(a *ota.Attempt) { a.BootID = "other" }), []string{"next       1.1.0 is started from slot b"}},
		{"condemned", trial(func(a *ota.Attempt) { a.Verdict = "it is \x1b[2Jill" }), []string{`next       1.1.0 is taken back: it is \x1b[2Jill` + "\n"}},
		{"rolled back", func(s *ota.State) {
			s.Phase, s.Last = ota.RolledBack, &ota.Outcome{Result: ota.TakenBack, To: "1.1.0", Reason: "it ended", At: time.Now()}
			s.Failures = []ota.Failure{{Version: "1.1.0", Reason: "it ended", At: time.Now()}}
		}, []string{"state     rolled_back\n", "last      rolled back 1.1.0: it ended, now\n", "failed    1.1.0, now: it ended\n"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDevice(t)
			tt.set(&d.state)
			d.save()
			out, err := otaVerb(t, d.Base, "status")
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range tt.want {
				if !strings.Contains(out, want) {
					t.Errorf("%q is missing in\n%s", want, out)
				}
			}
		})
	}
}

// Scripts rely on the keys, whether or not there is something to say.
func TestOTAStatusForScripts(t *testing.T) {
	d := newDevice(t)
	keys := func(v any) (names []string) {
		for name := range v.(map[string]any) {
			names = append(names, name)
		}
		return names
	}
	sorted := cmp.Transformer("set", func(s []string) map[string]bool {
		set := map[string]bool{}
		for _, k := range s {
			set[k] = true
		}
		return set
	})
	ask := func(args ...string) map[string]any {
		t.Helper()
		out, err := otaVerb(t, d.Base, args...)
		var doc map[string]any
		if err == nil {
			err = json.Unmarshal([]byte(out), &doc)
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return doc
	}
	d.state.Phase, d.state.Attempt = ota.Staging, &ota.Attempt{ID: "1", Action: ota.Install}
	d.save()
	doc := ask("status", "--json")
	top := strings.Fields("state active previous last_outcome component slots committed committed_at retained attempt last failed floor next device")
	if diff := cmp.Diff(top, keys(doc), sorted); diff != "" {
		t.Error(diff)
	}
	attempt := strings.Fields("id action rollout_id candidate trial_seconds min_healthy_seconds deadline_seconds boots restarts verdict")
	if diff := cmp.Diff(attempt, keys(doc["attempt"]), sorted); diff != "" {
		t.Error(diff)
	}
	device := strings.Fields("id os arch hardware anchor_version anchor_expires_at anchor_problem active_link request_pending")
	if diff := cmp.Diff(device, keys(doc["device"]), sorted); diff != "" {
		t.Error(diff)
	}
	d.must(os.RemoveAll(d.Dir()))
	doc = ask("status", "--json")
	if diff := cmp.Diff(top, keys(doc), sorted); diff != "" || doc["slots"] != false || doc["state"] != "committed" || doc["active"] == "" {
		t.Errorf("without slots: %v %s", doc, diff)
	}
}

func TestOTAStatusOfADamagedState(t *testing.T) {
	d := newDevice(t)
	d.must(os.WriteFile(d.State(), []byte("{"), 0o644))
	for _, verb := range []string{"status", "rollback"} {
		if out, err := otaVerb(t, d.Base, verb); err == nil || !strings.Contains(err.Error(), "the watchdog makes it anew") {
			t.Errorf("%s: %v\n%s", verb, err, out)
		}
	}
}

func TestOTAComponent(t *testing.T) {
	agent, camera := newDevice(t), newDevice(t)
	camera.state.Active.Version = "7.0.0"
	camera.save()
	agent.must(ota.WriteComponents(agent.Layout, []ota.Component{{Name: "camera", Root: camera.Base, Unit: "camera.service"}}))
	if out, err := otaVerb(t, agent.Base, "status", "--component", "camera"); err != nil || !strings.Contains(out, "active    7.0.0 in slot a") {
		t.Errorf("%v\n%s", err, out)
	}
	var usage cli.UsageError
	if _, err := otaVerb(t, agent.Base, "history", "--component", "radio"); !errors.As(err, &usage) || !strings.Contains(err.Error(), `["pyvorin-edge" "camera"]`) {
		t.Errorf("an unknown component: %v", err)
	}
}

func TestOTAHistory(t *testing.T) {
	d := newDevice(t)
	if out, err := otaVerb(t, d.Base, "history"); err != nil || out != "nothing was updated yet\n" {
		t.Errorf("%v: %q", err, out)
	}
	lines := `{"id":"1","at":"2026-01-02T03:04:05Z","action":"install","outcome":"committed","from":"1.0.0","to":"1.1.0","reason":"it was well for 1m0s","seconds":75}
{"id":"2","at":"2026-01-03T03:04:05Z","action":"install","outcome":"rolled_back","from":"1.1.0","to":"1.2.0","reason":"it\nended"}
{"id":"3","at":"2026-0`
	d.must(os.WriteFile(d.History(), []byte(lines), 0o644))
	out, err := otaVerb(t, d.Base, "history")
	if err != nil || strings.Count(out, "\n") != 3 || !strings.Contains(out, "install  1.0.0  1.1.0  committed    75 s  it was well") || !strings.HasSuffix(out, "rolled_back  -     it\\nended\n") {
		t.Errorf("%v\n%s", err, out)
	}
	out, err = otaVerb(t, d.Base, "history", "--json", "--limit", "1")
	var got []ota.Outcome
	if err != nil || json.Unmarshal([]byte(out), &got) != nil || len(got) != 1 || got[0].ID != "2" {
		t.Errorf("%v\n%s", err, out)
	}
	var usage cli.UsageError
	if _, err := otaVerb(t, d.Base, "history", "--limit", "-1"); !errors.As(err, &usage) {
		t.Errorf("a negative limit: %v", err)
	}
}

func TestOTAVerify(t *testing.T) {
	ago := time.Now().Add(-time.Minute)
	for _, tt := range []struct {
		name    string
		counter uint64
		pack    func(*pack.Options)
		state   func(*device, bundle.Manifest)
		spoil   func([]byte) []byte
		want    []string // in what is printed, or in the error
	}{
		{name: "good", counter: 11, want: []string{
			"release    pyvorin-edge 1.1.0 (counter 11)\n", "trial      well for 1 s within 1 min with sensors, queue ok\n", "\nok: this device would install it\n",
		}},
		{name: "runs already", counter: 10, state: func(d *device, m bundle.Manifest) { d.state.Active.Digest = m.Digest() }, want: []string{"\nok: it runs already\n"}},
		{name: "committed before", counter: 10, state: func(d *device, m bundle.Manifest) { d.state.FloorDigest = m.Digest() }, want: []string{"\nok: this device would install it\n"}},
		{name: "older", counter: 10, want: []string{"\nrefused: it has counter 10, and 10 was committed"}},
		{
			name: "all at once", counter: 3, pack: func(o *pack.Options) { o.Arch, o.ExpiresAt = "riscv64", ago },
			state: func(d *device, m bundle.Manifest) {
				d.state.Failures = []ota.Failure{{Digest: m.Digest(), Version: "1.1.0", Reason: "it ended", At: ago}}
			},
			spoil: func(b []byte) []byte { return b[:len(b)-1] },
			want: []string{
				"\nrefused: bundle for another machine: it is for riscv64", "\nrefused: bundle pyvorin-edge 1.1.0: expired on ",
				"\nrefused: it has counter 3", "\nrefused: it failed on ", "\nrefused: damaged bundle",
			},
		},
		{name: "something else", counter: 11, pack: func(o *pack.Options) { o.Name = "camera" }, want: []string{"\nrefused: it holds camera, not pyvorin-edge"}},
		{name: "not for this board", counter: 11, pack: func(o *pack.Options) { o.Hardware = []string{"acme,*"} }, want: []string{"made for   linux/" + bundle.HostTarget().Arch + ", acme,*\n", "\nrefused: bundle for another machine"}},
		{name: "a flipped bit in the payload", counter: 11, spoil: func(b []byte) []byte { b[len(b)-1024-512] ^= 1; return b }, want: []string{"\nrefused: damaged bundle: part 1 of 1"}},
		{name: "a flipped bit in the signed text", counter: 11, spoil: func(b []byte) []byte { b[612] ^= 1; return b }, want: []string{"error: "}},
		{name: "signed by a stranger", counter: 11, pack: func(o *pack.Options) { o.Keys[0] = stranger }, want: []string{"error: verify ", "not signed by a trusted key"}},
		{name: "no bundle", counter: 11, spoil: func([]byte) []byte { return []byte("hello\n") }, want: []string{"error: verify ", "damaged bundle"}},
		{name: "the clock was set back", counter: 11, state: func(d *device, _ bundle.Manifest) { d.state.TrustedTime = time.Now().Add(24 * time.Hour) }, want: []string{"expired on "}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDevice(t)
			path := filepath.Join(t.TempDir(), "it.bundle")
			d.must(writeRelease(path, "good", "1.1.0", tt.counter, tt.pack))
			if tt.state != nil {
				f, err := os.Open(path)
				d.must(err)
				u, err := bundle.Inspect(f)
				d.must(err)
				f.Close()
				tt.state(d, u.Manifest)
				d.save()
			}
			if tt.spoil != nil {
				data, err := os.ReadFile(path)
				d.must(err)
				d.must(os.WriteFile(path, tt.spoil(data), 0o644))
			}
			out, err := otaVerb(t, d.Base, "verify", path)
			if err != nil {
				out += "error: " + err.Error()
			}
			for _, want := range tt.want {
				if !strings.Contains(out, want) {
					t.Errorf("%q is missing in\n%s", want, out)
				}
			}
			if ok := strings.Contains(out, "\nok: "); ok != (err == nil) || ok == strings.Contains(out, "refused: ") && !strings.Contains(out, "error: verify") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

func TestRoomForABundle(t *testing.T) {
	d := newDevice(t)
	path := d.bundle("1.1.0", 11)
	info, err := os.Stat(path)
	d.must(err)
	anchor, err := trust.LoadAnchor(d.Anchor())
	d.must(err)
	judge, err := (&updates{app: &app{baseDir: d.Base}, component: ota.AgentComponent}).newGatekeeper()
	d.must(err)
	free := int64(0)
	judge.free = func() (int64, error) { return free, nil }
	// Its own copy, the watchdog's, what it installs, and the reserve.
	need := 2*info.Size() + int64(len(fmt.Sprintf(programs["good"], "1.1.0"))) + installReserve
	for _, free = range []int64{need - 1, need} {
		_, reasons, err := verifyBundle(t.Context(), path, anchor, judge)
		if enough := free == need; err != nil || enough != (len(reasons) == 0) || !enough && !strings.Contains(reasons[0], "of free space") {
			t.Errorf("%d bytes: %q, %v", free-need, reasons, err)
		}
	}
	judge.inbox = filepath.Dir(path) // it is there already
	free -= info.Size()
	if _, reasons, err := verifyBundle(t.Context(), path, anchor, judge); err != nil || len(reasons) > 0 {
		t.Errorf("%q, %v", reasons, err)
	}
}

// An operator verifies on a machine that is no device.
func TestOTAVerifyElsewhere(t *testing.T) {
	dir := t.TempDir()
	path, anchor := filepath.Join(dir, "it.bundle"), filepath.Join(dir, "anchor.json")
	if err := errors.Join(writeRelease(path, "good", "1.1.0", 1, nil), installAnchor(anchor)); err != nil {
		t.Fatal(err)
	}
	if _, err := otaVerb(t, dir, "verify", path); err == nil || !strings.Contains(err.Error(), "--trust-anchor") {
		t.Errorf("without an anchor: %v", err)
	}
	if out, err := otaVerb(t, dir, "verify", path, "--trust-anchor", anchor); err != nil || !strings.Contains(out, "there are no slots here") {
		t.Errorf("%v\n%s", err, out)
	}
}

// What root puts into the inbox its owner must be able to use; and the owner
// must not be able to have other files given to it, or written elsewhere.
func TestInboxOfAnotherUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root gives files away")
	}
	const agent = 12345
	d := newDevice(t)
	d.must(os.Chown(d.Inbox(), agent, agent))
	u := &updates{app: &app{baseDir: d.Base}, component: ota.AgentComponent}
	box, err := u.openInbox()
	d.must(err)
	defer box.Close()

	secret := filepath.Join(d.Base, "secret")
	d.must(os.WriteFile(secret, nil, 0o600))
	d.must(os.WriteFile(filepath.Join(box.path(), "plain"), nil, 0o600))
	d.must(os.Link(secret, filepath.Join(d.Inbox(), "hard")))
	if err := box.handOver("plain", "hard", "absent"); err != nil {
		t.Error(err)
	}
	d.must(os.Symlink(secret, filepath.Join(d.Inbox(), "soft")))
	if err := box.handOver("soft"); err == nil {
		t.Error("a link was followed")
	}
	for name, want := range map[string]uint32{secret: 0, filepath.Join(d.Inbox(), "plain"): agent} {
		info, err := os.Lstat(name)
		d.must(err)
		if got := info.Sys().(*syscall.Stat_t).Uid; got != want {
			t.Errorf("%s belongs to %d, not %d", name, got, want)
		}
	}

	elsewhere := t.TempDir()
	d.must(os.Rename(d.Inbox(), d.Inbox()+".old"))
	d.must(os.Symlink(elsewhere, d.Inbox()))
	if _, err := u.openInbox(); err == nil {
		t.Error("a link in the place of the inbox was followed")
	}
	d.must(box.remove("plain"))
	if _, err := os.Lstat(filepath.Join(d.Inbox()+".old", "plain")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the open inbox is another one: %v", err)
	}
}

func TestDoctorOfUpdates(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(*device)
		want  []finding
	}{
		{"all well", func(*device) {}, []finding{{"updates", "ok", "committed, 1.0.0 in slot a (counter 10)"}}},
		{"no slots", func(d *device) { d.must(os.RemoveAll(d.Dir())) }, []finding{{"updates", "ok", "no slots in this base dir: nothing is updated"}}},
		{"a bad last one", func(d *device) {
			d.state.Phase, d.state.Last = ota.RolledBack, &ota.Outcome{Result: ota.TakenBack, To: "1.1.0", Reason: "it ended"}
			d.save()
		}, []finding{{"updates", "warning", "rolled_back, 1.0.0 in slot a (counter 10); last: rolled back 1.1.0: it ended"}}},
		{"a foreign active", func(d *device) {
			d.must(os.Remove(d.Active()))
			d.must(os.Symlink("slot-b", d.Active()))
		}, []finding{
			{"updates", "problem", `active leads to "slot-b" instead of slot-a: start the agent anew, and the watchdog repairs it`},
			{"updates", "ok", "committed, 1.0.0 in slot a (counter 10)"},
		}},
		{"no watchdog", func(d *device) {
			d.must(ota.WriteRequest(d.Layout, ota.Request{ID: strings.Repeat("0", 32), Action: ota.Rollback}))
			at := time.Now().Add(-5 * time.Minute)
			d.must(os.Chtimes(d.Request(), at, at))
		}, []finding{
			{"updates", "problem", "a request came 5 min ago, and no watchdog takes it: is pyvorin-edge-watchdog.path active?"},
			{"updates", "ok", "committed, 1.0.0 in slot a (counter 10)"},
		}},
		{"no good anchor", func(d *device) {
			d.must(os.WriteFile(d.Anchor(), []byte("{}"), 0o644))
		}, []finding{
			{"updates", "warning", "no bundle can be verified: load ANCHOR: malformed trust anchor: version 0: an anchor with roles has version 2 or higher; 1 is the form with public_key alone"},
			{"updates", "ok", "committed, 1.0.0 in slot a (counter 10)"},
		}},
		{"a damaged state", func(d *device) { d.must(os.WriteFile(d.State(), nil, 0o644)) }, []finding{
			{"updates", "problem", "read STATE: no update state: unexpected end of JSON input (the watchdog makes it anew from the slots when it runs next)"},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDevice(t)
			tt.spoil(d)
			var got []finding
			paths := strings.NewReplacer(d.Anchor(), "ANCHOR", d.State(), "STATE")
			(&app{baseDir: d.Base}).examineUpdates(t.Context(), func(check, level, message string) {
				got = append(got, finding{check, level, paths.Replace(message)})
			})
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
