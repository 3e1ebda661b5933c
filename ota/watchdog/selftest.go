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
	case err == nil, errors.Is(err, exec.ErrWaitDelay): // it has passed; what it left running is ended
		return nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		err = fmt.Errorf("not done within %v", selftestTimeout)
	}
	if text := strings.ReplaceAll(strings.TrimSpace(said.String()), "\n", "; "); text != "" {
		return fmt.Errorf("%w: %s", err, plain(text[max(0, len(text)-maxSelftestBytes):], maxSelftestBytes))
	}
	return err
}

// tail keeps the last bytes written to it. It is no io.ReaderFrom, which would
// take everything at once.
type tail struct {
	kept  bytes.Buffer
	limit int
}

func (t *tail) Write(p []byte) (int, error) {
	t.kept.Write(p[max(0, len(p)-t.limit):])
	t.kept.Next(max(0, t.kept.Len()-t.limit))
	return len(p), nil
}

func (t *tail) String() string { return t.kept.String() }
