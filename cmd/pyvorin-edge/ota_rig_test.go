package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/ota/bundle"
	"github.com/pyvorin/pyvorin-edge/ota/bundle/pack"
	"github.com/pyvorin/pyvorin-edge/trust"
)

// operatorKey signs the releases of these tests.
var operatorKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))

func installAnchor(path string) error {
	anchor, err := trust.SingleKey(operatorKey.Public().(ed25519.PublicKey))
	if err != nil {
		return err
	}
	return trust.InstallAnchor(path, anchor)
}

// programs are releases that are this very test binary, found in PATH and made
// to say that it is another version, or that are no good.
var programs = map[string]string{
	"good":  "#!/bin/sh\nTEST_VERSION=%s exec pyvorin-edge \"$@\"\n",
	"exits": "#!/bin/sh\n# %s\n[ \"$1\" = selftest ] || exit 1\n",
	"sick":  "#!/bin/sh\n# %s\necho no such luck >&2\nexit 1\n",
}

// writeRelease writes a signed bundle of one of the programs to path.
func writeRelease(path, program, version string, counter uint64, change func(*pack.Options)) (err error) {
	from, err := os.MkdirTemp("", "release-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(from)
	if err := os.WriteFile(filepath.Join(from, ota.AgentComponent), fmt.Appendf(nil, programs[program], version), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	o := pack.Options{
		From: from, Name: ota.AgentComponent, Version: version, Counter: counter, Arch: bundle.HostTarget().Arch,
		CreatedAt: time.Now().Add(-time.Hour), ExpiresAt: time.Now().Add(time.Hour),
		Health: bundle.Health{MinHealthySeconds: 1, DeadlineSeconds: 60, Required: []string{"sensors", "queue"}},
		Keys:   []ed25519.PrivateKey{operatorKey},
	}
	if change != nil {
		change(&o)
	}
	_, err = pack.Create(context.Background(), f, o)
	return err
}

// scriptRelease is the command `release PROGRAM VERSION COUNTER FILE` of the
// scripts.
func scriptRelease(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: release PROGRAM VERSION COUNTER FILE")
	}
	counter, err := strconv.ParseUint(args[2], 10, 64)
	ts.Check(err)
	ts.Check(writeRelease(ts.MkAbs(args[3]), args[0], args[1], counter, nil))
	ts.Check(installAnchor(ts.MkAbs("trust_anchor.json")))
}

// device is a base dir with slots whose watchdog the test plays.
type device struct {
	t testing.TB
	ota.Layout
	state ota.State
}

func newDevice(t testing.TB) *device {
	t.Helper()
	d := &device{t: t, Layout: ota.Layout{Base: t.TempDir()}}
	for _, dir := range []string{d.Dir(), d.Inbox()} {
		d.must(os.Mkdir(dir, 0o700))
	}
	d.must(os.Symlink("slot-a", d.Active()))
	d.must(installAnchor(d.Anchor()))
	d.state = ota.State{
		Phase: ota.Committed, Floor: 10,
		Active:   ota.Release{Slot: "a", Version: "1.0.0", Counter: 10, Digest: "aaaa"},
		Previous: &ota.Release{Slot: "b", Version: "0.9.0", Counter: 9, Digest: "bbbb"},
	}
	d.save()
	return d
}

func (d *device) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

// save writes the state as the watchdog does: whole.
func (d *device) save() {
	d.t.Helper()
	data, err := d.state.Encode()
	d.must(err)
	d.must(os.WriteFile(d.State()+".new", data, 0o644))
	d.must(os.Rename(d.State()+".new", d.State()))
}

// request waits for a request.
func (d *device) request() ota.Request {
	d.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		data, err := os.ReadFile(d.Request())
		if err == nil {
			r, err := ota.ParseRequest(data)
			d.must(err)
			return r
		}
		if time.Now().After(deadline) {
			d.t.Fatal("nothing was asked for")
		}
	}
}

// answer brings the attempt to rest with this outcome.
func (d *device) answer(o ota.Outcome) {
	d.t.Helper()
	d.state.Phase, d.state.Attempt, d.state.Last = ota.Committed, nil, &o
	d.save()
	d.must(os.Remove(d.Request()))
}
