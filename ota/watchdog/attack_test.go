package watchdog

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/bundle/pack"
	"github.com/pyvorin/pyvorin-edge/ota/disk"
	"github.com/pyvorin/pyvorin-edge/trust"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// hostile is the agent's user in these tests, and stranger another one.
const (
	hostile  = 12345
	stranger = 12346
)

// newOwnedRig is a device on which owners count: all is root's but the inbox.
func newOwnedRig(t *testing.T) *rig {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("files of other users can only be made by root")
	}
	r := newRig(t)
	must(t, os.Chmod(r.dir, 0o775|fs.ModeSticky))
	r.give(hostile, "inbox")
	r.options.CheckOwners, r.options.Owner, r.options.Agent = true, 0, hostile
	return r
}

// give makes names, and what is below them, user's.
func (r *rig) give(user int, names ...string) {
	r.t.Helper()
	for _, name := range names {
		must(r.t, filepath.WalkDir(filepath.Join(r.dir, name), func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return os.Lchown(path, user, user)
		}))
	}
}

// plant has the agent put a folder with something in it.
func (r *rig) plant(name string) {
	r.t.Helper()
	must(r.t, os.MkdirAll(filepath.Join(r.dir, name, "deep", "er"), 0o777))
	must(r.t, os.WriteFile(filepath.Join(r.dir, name, "deep", "file"), []byte("mine"), 0o600))
	r.give(hostile, name)
}

// asAgent writes a request that belongs to the agent.
func (r *rig) asAgent(req ota.Request) string {
	r.t.Helper()
	id := r.ask(req)
	r.give(hostile, requestFile)
	return id
}

// TestNothingInTheBaseDirShutsTheWayBack has a row for each name that the agent
// can occupy in the base dir. An update, and the way back from a bad one, go on.
func TestNothingInTheBaseDirShutsTheWayBack(t *testing.T) {
	for _, name := range []string{"active.new", "slot-a.new", "slot-b.new", "slot-a.old", "slot-b.old"} {
		t.Run(name, func(t *testing.T) {
			r := newOwnedRig(t)
			r.plant(name)
			r.install("1.1.0", 11)
			r.plant(name)
			r.device.behaves["1.2.0"] = &behaviour{hangs: true}
			looks := 0
			r.device.onLook = func() {
				if looks++; r.device.running == "1.2.0" && looks%3 == 0 {
					must(t, os.RemoveAll(filepath.Join(r.dir, name)))
					r.plant(name)
				}
			}
			r.asAgent(ota.Request{Action: ota.Install, Bundle: r.bundle("1.2.0", 12, nil)})
			must(t, r.watchdog().Run(t.Context()))
			if s := r.state(); s.Active.Version != "1.1.0" || s.Last.Result != ota.TakenBack || r.device.running != "1.1.0" {
				t.Errorf("active %s, running %s, %v", s.Active.Version, r.device.running, s.Last)
			}
			r.sound()
			r.plant(name)
			r.reboot()
			r.sound()
		})
	}
}

// TestWhatBelongsToTheAgentIsNotBelieved has a row for each of the watchdog's
// own files in whose place the agent can put something when there is nothing.
func TestWhatBelongsToTheAgentIsNotBelieved(t *testing.T) {
	tests := []struct {
		name string
		do   func(*rig)
		want string // version that runs
	}{
		{"slot", func(r *rig) { r.give(hostile, "slot-b") }, "1.0.0"},
		{"slot that others may write to", func(r *rig) { must(r.t, os.Chmod(filepath.Join(r.dir, "slot-b"), 0o775)) }, "1.0.0"},
		{"active", func(r *rig) {
			link(r.t, "slot-a", r.dir)
			r.give(hostile, "active")
		}, "1.1.0"},
		{"active that leads right", func(r *rig) { r.give(hostile, "active") }, "1.1.0"},
		{"active that is a folder", func(r *rig) {
			must(r.t, os.Remove(filepath.Join(r.dir, "active")))
			r.plant("active")
		}, "1.1.0"},
		{"state", func(r *rig) {
			must(r.t, os.WriteFile(filepath.Join(r.dir, stateFile), []byte(`{"format":1,"state":"committed","active":{"slot":"a"}}`), 0o644))
			r.give(hostile, stateFile)
		}, "1.1.0"},
		{"all of the watchdog's folder", func(r *rig) {
			must(r.t, os.WriteFile(filepath.Join(r.dir, stateFile), []byte(`{"format":1,"state":"committed","active":{"slot":"a"}}`), 0o644))
			r.give(hostile, "ota")
		}, "1.1.0"},
		{"a link in the place of that folder", func(r *rig) {
			must(r.t, os.RemoveAll(filepath.Join(r.dir, "ota")))
			must(r.t, os.Symlink("inbox", filepath.Join(r.dir, "ota")))
		}, "1.1.0"},
		{"everything, after a careless chown -R", func(r *rig) {
			r.give(hostile, "slot-a", "slot-b", "active", "ota")
		}, "1.0.0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newOwnedRig(t)
			r.install("1.1.0", 11) // slot b
			tt.do(r)
			r.reboot()
			must(t, r.watchdog().Run(t.Context()))
			s := r.state()
			if s.Active.Version != tt.want || r.device.running != tt.want {
				t.Errorf("active %s, running %s, %v", s.Active.Version, r.device.running, s.Last)
			}
			for _, name := range []string{"active", "ota", stateFile, ota.SlotName(s.Active.Slot)} {
				if info, err := os.Lstat(filepath.Join(r.dir, name)); err != nil || ownerOf(info) != 0 {
					t.Errorf("%s: %v, %v", name, info, err)
				}
			}
			r.install("1.2.0", 12)
		})
	}
}

// TestABaseDirThatIsOpen is complained of.
func TestABaseDirThatIsOpen(t *testing.T) {
	for mode, complains := range map[fs.FileMode]bool{0o775 | fs.ModeSticky: false, 0o755: false, 0o775: true, 0o777: true} {
		r := newOwnedRig(t)
		must(t, os.Chmod(r.dir, mode))
		var said bytes.Buffer
		r.options.Log = zerolog.New(&said)
		r.install("1.1.0", 11)
		if strings.Contains(said.String(), "chmod it to 1775") != complains {
			t.Errorf("%v: %s", mode, &said)
		}
	}
}

// TestTheAgentsFilesAreNotEntered: what the agent plants may be deep and large.
func TestTheAgentsFilesAreNotEntered(t *testing.T) {
	r := newOwnedRig(t)
	r.plant("slot-b.new")
	r.disk = guarded{r.real, func(op, name string) {
		if strings.HasPrefix(name, "slot-b.new/deep") {
			t.Errorf("%s %s", op, name)
		}
	}}
	r.install("1.1.0", 11)
	matches, err := filepath.Glob(filepath.Join(r.dir, "slot-b.new.foreign-*", "deep", "file"))
	if err != nil || len(matches) != 1 {
		t.Errorf("%v, %v", matches, err)
	}
}

// guarded is a disk.FS that tells what is looked at.
type guarded struct {
	disk.FS
	saw func(op, name string)
}

func (g guarded) ReadDir(name string) ([]fs.DirEntry, error) {
	g.saw("readdir", name)
	return g.FS.ReadDir(name)
}

func (g guarded) Lstat(name string) (fs.FileInfo, error) {
	g.saw("lstat", name)
	return g.FS.Lstat(name)
}

// swapping is a disk.FS whose owner of a name is root each time that one looks,
// and the agent's the time that one opens it: the agent is fast.
type swapping struct {
	disk.FS
	name string
	root fs.FileInfo
}

func (s swapping) Lstat(name string) (fs.FileInfo, error) {
	if name == s.name {
		return s.root, nil
	}
	return s.FS.Lstat(name)
}

// TestAnOwnerIsThatOfWhatWasRead and not of what has the name before or after.
func TestAnOwnerIsThatOfWhatWasRead(t *testing.T) {
	r := newOwnedRig(t)
	r.install("1.1.0", 11)
	root, err := os.Lstat(filepath.Join(r.dir, anchorFile))
	must(t, err)
	id := r.asAgent(ota.Request{Action: ota.Rollback})
	r.disk = swapping{r.real, requestFile, root}
	must(t, r.watchdog().Run(t.Context()))
	if o := r.outcome(id); o.Result != ota.Refused || !strings.Contains(o.Reason, "root's word") {
		t.Errorf("a rollback in root's name: %+v", o)
	}
	other, err := trust.SingleKey(public(key(9)))
	must(t, err)
	must(t, trust.InstallAnchor(filepath.Join(r.dir, anchorFile), other))
	r.give(hostile, anchorFile)
	r.release = key(9)
	r.disk = swapping{r.real, anchorFile, root}
	id = r.asAgent(ota.Request{Action: ota.Install, Bundle: r.bundle("6.6.6", 666, nil)})
	must(t, r.watchdog().Run(t.Context()))
	if o := r.outcome(id); o.Result != ota.Refused || !strings.Contains(o.Reason, "another user") {
		t.Errorf("an anchor of the agent's: %+v", o)
	}
}

// TestTheInboxIsTheAgents has a row for each thing that it can do there. None
// stops the watchdog from what else there is to do.
func TestTheInboxIsTheAgents(t *testing.T) {
	deep := strings.Repeat(`{"command":`, 5000) + "1" + strings.Repeat("}", 5000)
	write := func(content string) func(*rig) {
		return func(r *rig) {
			must(r.t, os.WriteFile(filepath.Join(r.dir, requestFile), []byte(content), 0o600))
		}
	}
	tests := map[string]func(*rig){
		"is gone": func(r *rig) { must(r.t, os.RemoveAll(filepath.Join(r.dir, "inbox"))) },
		"is a link": func(r *rig) {
			must(r.t, os.Rename(filepath.Join(r.dir, "inbox"), filepath.Join(r.dir, "elsewhere")))
			must(r.t, os.Symlink("elsewhere", filepath.Join(r.dir, "inbox")))
			r.bundle("1.2.0", 12, nil)
			must(r.t, os.WriteFile(filepath.Join(r.dir, "elsewhere", "request.json"), []byte(`{"format":1,"id":"00000000000000000000000000000000","action":"rollback"}`), 0o600))
		},
		"is a file": func(r *rig) {
			must(r.t, os.RemoveAll(filepath.Join(r.dir, "inbox")))
			must(r.t, os.WriteFile(filepath.Join(r.dir, "inbox"), nil, 0o600))
		},
		"request is a folder": func(r *rig) { r.plant(requestFile) },
		"request is a FIFO":   func(r *rig) { must(r.t, unix.Mkfifo(filepath.Join(r.dir, requestFile), 0o600)) },
		"request is a link":   func(r *rig) { must(r.t, os.Symlink("../trust_anchor.json", filepath.Join(r.dir, requestFile))) },
		"request is huge": func(r *rig) {
			must(r.t, os.WriteFile(filepath.Join(r.dir, requestFile), nil, 0o600))
			must(r.t, os.Truncate(filepath.Join(r.dir, requestFile), 1<<40))
		},
		"request is empty":   write(""),
		"request is garbage": write("\x00\xff{]"),
		"request is deep":    write(deep),
		"request is null":    write("null"),
		"request is a list":  write("[1]"),
		"request has no id":  write(`{"format":1,"action":"rollback"}`),
	}
	for name, do := range tests {
		t.Run(name, func(t *testing.T) {
			r := newOwnedRig(t)
			r.install("1.1.0", 11)
			r.install("1.2.0", 12)
			do(r)
			r.device.behaves["1.2.0"] = &behaviour{crashAfter: 1, exit: 1}
			r.device.restarts = 10
			must(t, r.watchdog().Run(t.Context()))
			if s := r.state(); s.Active.Version != "1.1.0" || s.Last.Action != ota.Rescue {
				t.Errorf("active %s, %v", s.Active.Version, s.Last)
			}
			r.reboot()
			must(t, os.RemoveAll(filepath.Join(r.dir, "inbox")))
			must(t, os.Mkdir(filepath.Join(r.dir, "inbox"), 0o700))
			r.give(hostile, "inbox")
			r.install("1.3.0", 13)
		})
	}
}

// TestTheInboxIsALinkDuringAnUpdate: the update that was interrupted ends.
func TestTheInboxIsALinkDuringAnUpdate(t *testing.T) {
	r := newOwnedRig(t)
	r.install("1.1.0", 11)
	id := r.asAgent(ota.Request{Action: ota.Install, Bundle: r.bundle("1.2.0", 12, nil)})
	r.disk = newSupply(r, 20, 4)
	cut(func() { must(t, r.watchdog().Run(t.Context())) })
	if r.disk = r.real; r.state().Phase != ota.Staging {
		t.Fatalf("%s", r.state().Phase)
	}
	must(t, os.Rename(filepath.Join(r.dir, "inbox"), filepath.Join(r.dir, "elsewhere")))
	must(t, os.Symlink("elsewhere", filepath.Join(r.dir, "inbox")))
	r.reboot()
	must(t, r.watchdog().Run(t.Context()))
	if s := r.state(); s.Phase != ota.Committed || s.Last.ID != id || s.Last.Result != ota.Refused {
		t.Errorf("%s, %v", s.Phase, s.Last)
	}
}

// TestAnAgentCannotSwellTheState with what it says of itself: then nothing
// could be written down any more.
func TestAnAgentCannotSwellTheState(t *testing.T) {
	h := wire.Health{Version: "1", Checks: map[string]wire.CheckState{}}
	for i := range maxChecks {
		h.Checks[fmt.Sprintf("%0*d", maxCheckBytes, i)] = wire.CheckWarning
	}
	must(t, checkHealth(&h))
	s := ota.State{Phase: ota.Committed, Active: ota.Release{Slot: "a"}, Attempt: &ota.Attempt{Baseline: Report{Checks: h.Checks}.Baseline()}}
	for range ota.MaxFailures {
		remember(&s, ota.Release{Version: strings.Repeat("9", 64), Digest: newID() + newID()}, strings.Repeat("x", 10000), today)
	}
	for range ota.MaxNonces {
		s.Obeyed = append(s.Obeyed, ota.Obeyed{Nonce: strings.Repeat("n", 128), ExpiresAt: today})
	}
	data, err := s.Encode()
	if err != nil || len(data) > ota.MaxStateBytes/4 {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	h.Checks["one more"] = wire.CheckOK
	if checkHealth(&h) == nil {
		t.Error("too many checks")
	}
	if checkHealth(&wire.Health{Version: "1", Checks: map[string]wire.CheckState{strings.Repeat("x", 1000): wire.CheckOK}}) == nil {
		t.Error("a check with too long a name")
	}
	if checkHealth(&wire.Health{}) == nil {
		t.Error("no version")
	}
}

// TestABundleIsReplacedBetweenCheckAndUse: what is used is what was copied.
func TestABundleIsReplacedBetweenCheckAndUse(t *testing.T) {
	r := newRig(t)
	r.install("1.1.0", 11)
	name := r.bundle("1.2.0", 12, nil)
	honest := r.release
	r.release = key(9)
	forged := r.bundle("1.2.1", 13, func(*pack.Options) {})
	r.release = honest
	opens := 0
	r.disk = hooked{r.real, func(opened string) {
		if opened == "inbox/"+name {
			if opens++; opens == 2 { // it was looked at, and is to be copied
				must(t, os.Rename(filepath.Join(r.dir, "inbox", forged), filepath.Join(r.dir, "inbox", name)))
			}
		}
	}}
	r.ask(ota.Request{Action: ota.Install, Bundle: name})
	if s := r.run(); s.Active.Version != "1.1.0" || !strings.Contains(s.Last.Reason, "not signed") {
		t.Errorf("active %s, %v", s.Active.Version, s.Last)
	}
}

// TestWhatWouldBeRefusedIsNotCopied.
func TestWhatWouldBeRefusedIsNotCopied(t *testing.T) {
	r := newRig(t)
	r.install("1.1.0", 11)
	for name, prepare := range map[string]func() string{
		"older":     func() string { return r.bundle("1.0.9", 10, nil) },
		"no bundle": func() string { return r.huge("garbage", 0) },
		"longer":    func() string { return r.huge(r.bundle("1.2.0", 12, nil), 1<<30) },
		"cut off":   func() string { return r.huge(r.bundle("1.3.0", 13, nil), -100) },
		"out of space": func() string {
			r.options.Free = func() (int64, error) { return 1 << 20, nil }
			return r.bundle("1.4.0", 14, nil)
		},
	} {
		bundle := prepare()
		r.disk = created{r.real, func(name string) {
			if name == workBundle {
				t.Errorf("%s: it was copied", bundle)
			}
		}}
		r.ask(ota.Request{Action: ota.Install, Bundle: bundle})
		if s := r.run(); s.Last.Result != ota.Refused {
			t.Errorf("%s: %v", name, s.Last)
		}
		r.disk = r.real
	}
}

// huge makes a file in the inbox longer.
func (r *rig) huge(name string, by int64) string {
	r.t.Helper()
	path := filepath.Join(r.dir, "inbox", name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	must(r.t, err)
	defer f.Close()
	info, err := f.Stat()
	must(r.t, err)
	must(r.t, f.Truncate(info.Size()+by))
	return name
}

// hooked is a disk.FS that tells before a file is opened, and created one that
// tells before one is made.
type hooked struct {
	disk.FS
	opens func(name string)
}

func (h hooked) Open(name string) (disk.File, error) {
	h.opens(name)
	return h.FS.Open(name)
}

type created struct {
	disk.FS
	creates func(name string)
}

func (c created) Create(name string, perm fs.FileMode) (disk.File, error) {
	c.creates(name)
	return c.FS.Create(name, perm)
}
