package provision

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
)

// BootDirs are where the boot partition of a Raspberry Pi may be mounted, the
// present way first.
var BootDirs = []string{"boot/firmware", "boot"}

// DropFile is the config that a person may leave on the boot partition, which
// every computer can write; what keeps it from being imported is said beside it.
const (
	DropFile      = "pyvorin-edge.toml"
	dropErrorFile = "pyvorin-edge.error.txt"
)

// drop is a config that lies on the boot partition.
type drop struct {
	in   *folder
	text []byte
	hash string
}

func (d *drop) path() string { return filepath.Join(d.in.dir, DropFile) }

// findDrop looks for a config on the boot partition, and has what an earlier
// start said of one removed when there is none any more.
func (p *plan) findDrop() error {
	for _, dir := range BootDirs {
		in, err := p.open(filepath.Join(p.o.Root, dir))
		if err != nil {
			return err
		}
		text, err := in.read(DropFile, maxRenderedBytes)
		if errors.Is(err, fs.ErrNotExist) {
			if _, err := in.lstat(dropErrorFile); err == nil {
				p.stale = append(p.stale, in)
			}
			continue
		}
		p.drop = &drop{in: in, text: text, hash: hashOf(text)}
		if err != nil {
			return fmt.Errorf("read %s: %w", p.drop.path(), err)
		}
		return nil
	}
	return nil
}

// settleDrop has the drop removed when it was imported: the boot partition is
// no place for what may be a token. Until then it stays.
func (p *plan) settleDrop() {
	remove := func(in *folder, names ...string) func() error {
		return func() error {
			for _, name := range names {
				if err := in.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return fmt.Errorf("remove %s, which may hold a secret: %w; do it by hand", filepath.Join(in.dir, name), err)
				}
			}
			return in.fs.SyncDir(".")
		}
	}
	if p.drop != nil {
		p.step(Step{File: p.drop.path(), Outcome: Removed, Detail: "imported"}, remove(p.drop.in, DropFile, dropErrorFile))
	}
	for _, in := range p.stale {
		p.step(Step{File: filepath.Join(in.dir, dropErrorFile), Outcome: Removed, Detail: "out of date"}, remove(in, dropErrorFile))
	}
}

// explainDrop says beside the drop why it was not imported.
func (p *plan) explainDrop(why error) error {
	if p.drop == nil {
		return nil
	}
	f := file{
		in: p.drop.in, name: dropErrorFile, perm: 0o644,
		data: []byte("This is why " + DropFile + " is still here:\n\n" + why.Error() + "\n\nMend it and start the device again.\n"),
	}
	if was, err := f.in.read(f.name, int64(len(f.data))); err == nil && string(was) == string(f.data) {
		return nil // a start a day must not wear the card
	}
	return f.replace()
}
