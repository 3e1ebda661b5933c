package watchdog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/pyvorin/pyvorin-edge/internal/procgroup"
)

const (
	selftestTimeout  = time.Minute
	maxSelftestBytes = 400 // of what it printed last, which says what failed
)

// User is whom a program runs as; nil is the watchdog's own user.
type User struct {
	UID, GID uint32
	Groups   []uint32
}

// RunSelftest runs argv, its program below dir, as user, and returns an error
// with the end of what it printed when it fails.
func RunSelftest(ctx context.Context, dir string, argv []string, user *User) error {
	ctx, cancel := context.WithTimeout(ctx, selftestTimeout)
	defer cancel()
	said := &tail{limit: maxSelftestBytes}
	cmd := exec.CommandContext(ctx, filepath.Join(dir, argv[0]), argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = procgroup.Environ(nil)
	cmd.Stdout, cmd.Stderr = said, said
	cmd.WaitDelay = time.Second
	procgroup.Contain(cmd)
	if user != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: user.UID, Gid: user.GID, Groups: user.Groups}
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start it: %w", err)
	}
	err := cmd.Wait()
	procgroup.End(cmd)
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		err = fmt.Errorf("not done within %v", selftestTimeout)
	}
	if text := strings.TrimSpace(said.String()); text != "" {
		return fmt.Errorf("%w: %s", err, plain(strings.ReplaceAll(text, "\n", "; "), maxSelftestBytes))
	}
	return err
}

// tail keeps the last bytes written to it.
type tail struct {
	bytes.Buffer
	limit int
}

func (t *tail) Write(p []byte) (int, error) {
	t.Buffer.Write(p)
	if over := t.Len() - t.limit; over > 0 {
		t.Next(over)
	}
	return len(p), nil
}
