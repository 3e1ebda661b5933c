package provision

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// nobody is whom the agent runs as here.
var nobody = Owner{UID: 65534, GID: 65533}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
}

func (r *rig) owned(name string, want Owner, mode fs.FileMode) {
	r.t.Helper()
	info, err := os.Lstat(filepath.Join(r.o.BaseDir, name))
	must(r.t, err)
	st := info.Sys().(*syscall.Stat_t)
	if got := (Owner{int(st.Uid), int(st.Gid)}); got != want || info.Mode() != mode {
		r.t.Errorf("%s is of %v with mode %v, want %v with %v", name, got, info.Mode(), want, mode)
	}
}

func (r *rig) allOwned() {
	r.t.Helper()
	root := Owner{os.Geteuid(), os.Getegid()}
	ours := Owner{root.UID, nobody.GID}
	r.owned(".", ours, fs.ModeDir|fs.ModeSticky|0o775)
	r.owned("device_id", root, 0o644)
	r.owned("trust_anchor.json", root, 0o644)
	r.owned("provision.json", ours, 0o640)
	r.owned("config.toml", nobody, 0o640)
	r.owned("secrets", nobody, fs.ModeDir|0o700)
	r.owned("secrets/privacy.key", nobody, 0o600)
	r.owned("inbox", nobody, fs.ModeDir|0o700)
}

func TestOwners(t *testing.T) {
	needRoot(t)
	r := newRig(t)
	r.o.Agent = &nobody
	r.run()
	r.allOwned()
	r.unchanged()

	// What the agent made on a start before it was provisioned is not trusted
	// for its content, and not left to it.
	id := filepath.Join(r.o.BaseDir, "device_id")
	must(t, os.Chown(id, nobody.UID, nobody.GID))
	held, err := os.OpenFile(id, os.O_WRONLY, 0)
	must(t, err)
	defer held.Close()
	must(t, os.Chmod(filepath.Join(r.o.BaseDir, "secrets"), 0o755))
	must(t, os.Chown(filepath.Join(r.o.BaseDir, "inbox"), 0, 0))
	must(t, os.Chmod(r.o.BaseDir, 0o755))
	r.run()
	r.allOwned()
	_, err = held.WriteString("FLEET-0000000000aa")
	must(t, err)
	r.want("device_id", idA+"\n")

	// An operator's own config stays as it is, owner and all.
	write(t, filepath.Join(r.o.BaseDir, "config.toml"), "# mine\n")
	must(t, os.Chmod(filepath.Join(r.o.BaseDir, "config.toml"), 0o600))
	r.unchanged()
}

// The agent's code may be somebody else's, and some of the files are the
// agent's: it must not get root to write or to give away anything through them.
func TestNoLinkIsFollowed(t *testing.T) {
	for _, name := range []string{"device_id", "trust_anchor.json", "config.toml", "provision.json", "provision.lock", "secrets", "inbox", "secrets/privacy.key"} {
		for _, kind := range []string{"link", "FIFO"} {
			t.Run(name+" as a "+kind, func(t *testing.T) {
				r := newRig(t)
				if os.Geteuid() == 0 {
					r.o.Agent = &nobody
				}
				r.o.Force = Force{true, true, true}
				victim := t.TempDir()
				target := filepath.Join(victim, "target")
				if name == "secrets" || name == "inbox" {
					must(t, os.Mkdir(target, 0o755))
				} else {
					write(t, target, "root's own")
				}
				at := filepath.Join(r.o.BaseDir, name)
				must(t, os.MkdirAll(filepath.Dir(at), 0o755))
				if kind == "link" {
					must(t, os.Symlink(target, at))
				} else {
					must(t, syscall.Mkfifo(at, 0o644))
				}
				before := tree(t, victim)
				_, err := Run(t.Context(), r.o) // refused or not, but never stuck
				if after := tree(t, victim); after != before {
					t.Errorf("%v, and what was\n%s\nis\n%s", err, before, after)
				}
				if info, err := os.Stat(victim); err != nil || info.Sys().(*syscall.Stat_t).Uid != uint32(os.Geteuid()) {
					t.Errorf("%v, %v", info, err)
				}
				info, lstatErr := os.Lstat(at)
				must(t, lstatErr)
				if err == nil && name != "secrets/privacy.key" && name != lockFile && info.Mode().Type() != 0 {
					t.Errorf("%s still is a %v", name, info.Mode())
				}
			})
		}
	}
}
