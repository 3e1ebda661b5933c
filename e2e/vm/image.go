package vm

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

//go:embed image.sh
var recipe []byte

// buildLimit is how long an image may take: the one for arm64 is configured by
// emulated programs.
const buildLimit = 20 * time.Minute

// image returns the folder that machines of arch boot from. The first test that
// needs it builds it; others, of other processes too, wait for that.
func image(t testing.TB, arch string) string {
	t.Helper()
	dir, err := cachedImage(t, arch)
	if err != nil {
		t.Fatalf("image of a machine for %s: %v", arch, err)
	}
	return dir
}

func cachedImage(t testing.TB, arch string) (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	cache := filepath.Join(base, "pyvorin-edge-vm")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	lock, err := os.Create(filepath.Join(cache, arch+".lock"))
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}

	dir := filepath.Join(cache, fmt.Sprintf("%s-%.6x", arch, sha256.Sum256(recipe)))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	unfinished := dir + ".tmp"
	if err := os.RemoveAll(unfinished); err != nil {
		return "", err
	}
	if err := os.Mkdir(unfinished, 0o755); err != nil {
		return "", err
	}
	if err := build(t, arch, unfinished); err != nil {
		return "", err
	}
	return dir, os.Rename(unfinished, dir)
}

func build(t testing.TB, arch, dir string) error {
	if os.Geteuid() != 0 {
		return errors.New("only root can build it, anybody can use it after: run make test-vm as root once, with this user's XDG_CACHE_HOME")
	}
	t.Logf("building the image for %s", arch)
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), buildLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-s", arch, dir)
	cmd.Stdin = bytes.NewReader(recipe)
	// Asked to end, the script takes its files away.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w after %v:\n%s", err, time.Since(began), last(out, 4000))
	}
	t.Logf("built it in %v", time.Since(began).Round(time.Second))
	return nil
}

// last returns at most n bytes from the end of text.
func last(text []byte, n int) []byte { return text[max(0, len(text)-n):] }
