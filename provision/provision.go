// Package provision gives a device its identity, the keys that it obeys and its
// first config, so that it can join its fleet.
//
// The parties are whoever prepares the device: a person at the command line,
// cloud-init, packaging/first-boot.sh at every boot, or somebody who left a
// pyvorin-edge.toml on the boot partition of the card; and the agent and the
// watchdog, for whom the files are. Some of the files are the agent's, and
// provisioning is done by root, so no link in the base dir is followed.
//
//	BASE/secrets/ inbox/     the first with the key of privacy's hash action            agent 0700
//	BASE/device_id           PREFIX- and 12 hex digits of the serial number's SHA-256   root 0644
//	BASE/trust_anchor.json   whose signatures the device obeys                          root 0644
//	BASE/config.toml         the template, filled in; or the config of the boot         agent 0640
//	                         partition, which is removed from there
//	BASE/provision.json      what provisioning did, in hashes                           root 0640
//	BASE/provision.lock      keeps two provisionings apart                              root 0600
//
// Run first decides on everything and refuses before it changes anything: a
// template with a variable missing, a config that the agent would not load, an
// identity or an anchor that is another than the one in place. What it then
// writes, it writes in the order above, each file whole and durable before the
// next; provision.json after what it tells of, and the removal of the imported
// file at the very end. So a power cut at any instant leaves a state from which
// the same Run goes on, and a Run with nothing new changes nothing.
//
// What was changed after provisioning, by a person or by the fleet, is told from
// what provisioning wrote by provision.json, and stays: a config pushed later, an
// anchor that was rotated. Force is what it takes to lose such a change.
//
// Options hold values and not files: where a template, an anchor and variables
// come from, a card or a controller, is the caller's matter.
package provision

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/pyvorin/pyvorin-edge/ota/disk"
	"github.com/pyvorin/pyvorin-edge/privacy"
	"github.com/pyvorin/pyvorin-edge/trust"
)

// Files in the base dir.
const (
	deviceIDFile = "device_id"
	anchorFile   = "trust_anchor.json"
	stateFile    = "provision.json"
	lockFile     = "provision.lock"
	secretsDir   = "secrets"
	inboxDir     = "inbox"
	keyFile      = "secrets/privacy.key"

	maxIDFileBytes = 256
)

// Options are what a device is to become. Where an input is missing, what is in
// the base dir stays.
type Options struct {
	BaseDir string
	Config  string // path of the config

	// Root is the parent of proc, sys and boot; "" is /.
	Root string

	Prefix   string        // of the device id; "" is the one that it has, or DefaultPrefix
	Template *Template     // what the config is made of; nil: as it is, or as it lies on the boot partition
	Anchor   *trust.Anchor // nil: as it is
	Vars     map[string]string

	// Check loads a config as the agent will, from the content in place of the
	// file at path, and returns what is unwise in it. Problems of the content
	// are a *config.Error.
	Check func(path string, content []byte) (warnings []string, err error)

	// Agent is whom the agent runs as; nil leaves owners alone. Files that the
	// agent must not change then belong to whoever runs this, who is root.
	Agent *Owner

	Force  Force
	DryRun bool // decide, and change nothing
	Now    time.Time

	open func(dir string) (disk.FS, error) // nil: disk.Open; replaced by tests
}

// Force says what may be lost.
type Force struct {
	Identity bool // another device id
	Anchor   bool // keys that are trusted now
	Config   bool // a config that was changed after it was provisioned
}

// What became of a file.
const (
	Written   = "written"
	Unchanged = "unchanged" // it was already what it should be
	Kept      = "kept"      // it is not what provisioning would write, and that is right
	Removed   = "removed"
)

// Step is one file, and what became of it.
type Step struct {
	File    string `json:"file"`
	Outcome string `json:"outcome"`
	Detail  string `json:"detail,omitempty"`
}

// Report is what a Run did, or with DryRun would do.
type Report struct {
	DeviceID string   `json:"device_id"`
	Source   string   `json:"serial_source"`
	Changed  bool     `json:"changed"`
	DryRun   bool     `json:"dry_run"`
	Steps    []Step   `json:"steps"`
	Warnings []string `json:"warnings"`
	Unused   []string `json:"-"` // variables that the template does not refer to
}

// Run provisions the device, as far as that was not done before.
func Run(ctx context.Context, o Options) (*Report, error) {
	if o.BaseDir == "" || o.Config == "" || o.Check == nil {
		return nil, errors.New("provision: Options lack the base dir, the config's path or the check")
	}
	o.Root = cmp.Or(o.Root, "/")
	if o.open == nil {
		o.open = openDisk
	}
	if !o.DryRun {
		if err := makeBase(o.BaseDir); err != nil {
			return nil, err
		}
		release, err := lock(ctx, o.BaseDir)
		if err != nil {
			return nil, err
		}
		defer release()
	}
	p := &plan{o: o, agent: o.Agent, confName: filepath.Base(o.Config)}
	defer p.close()
	err := p.settle()
	if err == nil && !o.DryRun {
		err = p.carryOut(ctx)
	}
	if err != nil {
		if !o.DryRun {
			err = errors.Join(err, p.explainDrop(err))
		}
		return nil, err
	}
	return p.finish(), nil
}

func openDisk(dir string) (disk.FS, error) {
	d, err := disk.Open(dir)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// plan is all that one Run decides, and then does.
type plan struct {
	o        Options
	base     *folder
	conf     *folder // of the config
	confName string
	drop     *drop     // nil: nothing lies on the boot partition
	stale    []*folder // where the explanation of a drop lies that is gone
	folders  []*folder // all that were opened

	root  *Owner // of what the agent must not change; nil with agent
	agent *Owner

	id       string
	was, now state

	report Report
	do     []func() error // as report.Steps; nil where nothing is to be done
	unused []string
}

// open returns a folder, perhaps one that is not there.
func (p *plan) open(dir string) (*folder, error) {
	fsys, err := p.o.open(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open folder: %w", err)
	}
	f := &folder{dir, fsys}
	p.folders = append(p.folders, f)
	return f, nil
}

func (p *plan) close() {
	for _, f := range p.folders {
		f.close()
	}
}

func (p *plan) warn(format string, args ...any) {
	p.report.Warnings = append(p.report.Warnings, fmt.Sprintf(format, args...))
}

func (p *plan) step(s Step, do func() error) {
	p.report.Steps = append(p.report.Steps, s)
	p.do = append(p.do, do)
}

// write plans that f is to be as it is.
func (p *plan) write(f file, detail string) {
	if f.isThere() {
		p.step(Step{File: f.name, Outcome: Unchanged, Detail: detail}, nil)
		return
	}
	p.step(Step{File: f.name, Outcome: Written, Detail: detail}, f.replace)
}

// settle decides on everything, in the order in which it is to be done, and
// changes nothing.
func (p *plan) settle() (err error) {
	if p.base, err = p.open(p.o.BaseDir); err != nil {
		return err
	}
	if p.conf = p.base; filepath.Dir(p.o.Config) != filepath.Clean(p.o.BaseDir) {
		if p.conf, err = p.open(filepath.Dir(p.o.Config)); err != nil {
			return err
		}
		if p.conf.fs == nil {
			return fmt.Errorf("there is no folder %s for the config", p.conf.dir)
		}
	}
	if p.agent != nil {
		p.root = &Owner{os.Geteuid(), os.Getegid()}
	}
	if p.was, err = readState(p.base); err != nil {
		p.warn("what was provisioned before is not known: %v", err)
	}
	p.now = p.was
	if err := p.findDrop(); err != nil {
		return err
	}
	if err := p.settleFolders(); err != nil {
		return err
	}
	if err := p.settleID(); err != nil {
		return err
	}
	if err := p.settleAnchor(); err != nil {
		return err
	}
	if err := p.settleConfig(); err != nil {
		return err
	}
	memory := file{in: p.base, name: stateFile, data: p.now.encode(), perm: 0o640}
	if p.agent != nil {
		memory.owner = &Owner{p.root.UID, p.agent.GID}
	}
	p.write(memory, "")
	p.settleDrop()
	return nil
}

// settleFolders plans the base dir's mode, the agent's folders and its privacy
// key. The agent would make the key itself; made now, every config hash of this
// device is taken with the same one.
func (p *plan) settleFolders() error {
	if p.agent != nil {
		const mode = fs.ModeSticky | 0o775
		owner := &Owner{p.root.UID, p.agent.GID}
		info, err := os.Stat(p.o.BaseDir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("look at the base dir: %w", err)
		}
		if err != nil || info.Mode()&(fs.ModeSticky|fs.ModePerm) != mode || !belongsTo(info, owner) {
			p.step(Step{File: p.o.BaseDir, Outcome: Written}, func() error { return own(p.o.BaseDir, 0, mode, owner) })
		}
	}
	for _, name := range []string{secretsDir, inboxDir} {
		s := subfolder{in: p.base, name: name, perm: 0o700, owner: p.agent}
		outcome, do := Written, s.make
		if s.isThere() {
			outcome, do = Unchanged, nil
		}
		p.step(Step{File: name + "/", Outcome: outcome}, do)
	}
	switch _, err := p.base.lstat(keyFile); {
	case errors.Is(err, fs.ErrNotExist):
		key := make([]byte, privacy.KeySize)
		rand.Read(key) // never fails: without randomness the program ends
		p.write(file{in: p.base, name: keyFile, data: []byte(hex.EncodeToString(key) + "\n"), perm: 0o600, owner: p.agent}, "")
	case err != nil:
		return fmt.Errorf("look for the privacy key: %w", err)
	default:
		p.step(Step{File: keyFile, Outcome: Unchanged}, nil)
	}
	return nil
}

func (p *plan) carryOut(ctx context.Context) error {
	for i, do := range p.do {
		if err := ctx.Err(); err != nil {
			return err
		}
		if do == nil {
			continue
		}
		if err := do(); err != nil {
			return fmt.Errorf("provision %s: %w", p.report.Steps[i].File, err)
		}
	}
	return nil
}

func (p *plan) finish() *Report {
	r := &p.report
	r.DeviceID, r.Source, r.DryRun = p.id, p.now.Source, p.o.DryRun
	r.Changed = slices.ContainsFunc(r.Steps, func(s Step) bool { return s.Outcome == Written || s.Outcome == Removed })
	slices.Sort(p.unused)
	r.Unused = p.unused
	return r
}
