package exec

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/pyvorin/pyvorin-edge/internal/procgroup"
	"github.com/pyvorin/pyvorin-edge/sensors/internal/jsonpath"
)

const (
	maxStdoutBytes = 64 << 10
	maxStderrBytes = 4 << 10
	maxReasonBytes = 200

	// pipeGrace is how long a pipe may stay open after the program ended or
	// was killed, before it is closed under whoever holds it.
	pipeGrace = time.Second
)

var errTooMuch = fmt.Errorf("it printed more than %d bytes and was killed", maxStdoutBytes)

// program is what to run.
type program struct {
	argv   []string
	dir    string
	env    map[string]string
	stderr bool // keep what it says on standard error
}

// result is how it went.
type result struct {
	stdout []byte
	said   string // first line of standard error
	status int    // exit status
}

// run runs the program to its end, and returns an error when it did not start
// or did not come to an end of its own.
func (p program) run(ctx context.Context) (result, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	stdout := &limited{limit: maxStdoutBytes, full: func() { cancel(errTooMuch) }}
	cmd, stderr := p.command(ctx)
	cmd.Stdout = stdout
	if err := cmd.Start(); err != nil {
		return result{}, p.startError(err)
	}
	err := cmd.Wait()
	procgroup.End(cmd)
	switch {
	case errors.Is(context.Cause(ctx), errTooMuch):
		return result{}, errTooMuch
	case err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return result{}, errors.New("not done in time, and killed; see timeout_seconds")
	case err != nil && ctx.Err() != nil:
		return result{}, errors.New("stopped")
	}
	if err := exited(err); err != nil {
		return result{}, err
	}
	return result{
		stdout: stdout.buf.Bytes(),
		said:   firstLine(stderr.buf.String()),
		status: cmd.ProcessState.ExitCode(),
	}, nil
}

// command returns the program, to be killed when ctx ends, and where what it
// says on standard error is kept.
func (p program) command(ctx context.Context) (*exec.Cmd, *limited) {
	cmd := exec.CommandContext(ctx, p.argv[0], p.argv[1:]...)
	cmd.Dir = p.dir
	cmd.Env = procgroup.Environ(p.env)
	stderr := &limited{limit: maxStderrBytes, full: func() {}}
	if p.stderr {
		cmd.Stderr = stderr
	}
	procgroup.Contain(cmd)
	cmd.WaitDelay = pipeGrace
	keepFiles()
	return cmd, stderr
}

// keepFiles keeps the open files of this process from the program that is to be
// started. Go's own are kept anyway, but the library of the serial sensor
// passes its port on, and the program would have it open for as long as it runs.
func keepFiles() {
	entries, _ := os.ReadDir("/proc/self/fd") // without /proc there is no telling
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
}

// exited makes of the error of Wait the reason why the program did not end by
// itself; nil when it did, with whatever exit status.
func exited(err error) error {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, exec.ErrWaitDelay):
		return nil // it ended well, but left a child that held the pipe
	case !errors.As(err, &exit):
		return err
	case exit.Exited():
		return nil
	}
	return fmt.Errorf("ended by signal %v", exit.Sys().(syscall.WaitStatus).Signal())
}

// startError says what to do about a program that cannot be started.
func (p program) startError(err error) error {
	name := p.argv[0]
	if st, dirErr := os.Stat(p.dir); dirErr != nil || !st.IsDir() {
		return fmt.Errorf("working_dir %s is no folder; create it", p.dir)
	}
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return errors.New("not found in PATH; install it, or give its absolute path")
	case errors.Is(err, fs.ErrPermission):
		return errors.New("not executable for the agent's user; check chmod +x and the folders above it")
	case errors.Is(err, syscall.ENOEXEC):
		return errors.New("not a program for this machine: no #! line, or built for another architecture")
	case errors.Is(err, fs.ErrNotExist) && filepath.IsAbs(name) && isFile(name):
		return errors.New("its interpreter is missing; check the first line of the script")
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("no such program; check the path")
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno // without the arguments
	}
	return err
}

func isFile(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular()
}

// limited keeps the first bytes written to it and swallows the rest; full is
// called when there is a rest.
type limited struct {
	buf   bytes.Buffer
	limit int
	full  func()
}

func (l *limited) Write(p []byte) (int, error) {
	keep := min(len(p), l.limit-l.buf.Len())
	l.buf.Write(p[:keep])
	if keep < len(p) {
		l.full()
	}
	return len(p), nil
}

// firstLine returns the first line with something on it, bounded and without
// control characters.
func firstLine(text string) string {
	for line := range strings.Lines(text) {
		line = strings.Map(func(r rune) rune {
			if !unicode.IsPrint(r) {
				return ' '
			}
			return r
		}, strings.ToValidUTF8(line, "?"))
		if line = strings.TrimSpace(line); line != "" {
			return jsonpath.Clip(line, maxReasonBytes)
		}
	}
	return ""
}
