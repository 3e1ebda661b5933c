package exec

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/pyvorin/pyvorin-edge/internal/human"
	"github.com/pyvorin/pyvorin-edge/internal/procgroup"
	"github.com/pyvorin/pyvorin-edge/sensors"
)

const (
	maxLineBytes = 64 << 10

	// maxLinesPerSecond is what is parsed of a program that floods; then its
	// pipe fills up, and it has to wait.
	maxLinesPerSecond = 1000

	forever = time.Duration(math.MaxInt64)
)

var (
	errLongLine = fmt.Errorf("printed a line of more than %d bytes and was killed", maxLineBytes)
	errClosed   = errors.New("closed its output and was killed; it has to stay in the foreground")
)

// stream is a sensors.Listener: a program that is kept running.
type stream struct {
	program program
	parse   parser
	silence time.Duration // without a line before the program is killed; 0 is for ever

	mu     sync.Mutex
	newest []sensors.Sample // since the last read, one a channel
	ended  error            // why it last ended; nil once a line gave something again
	misfit error            // why no line since the last read gave anything
}

func newStream(p program, parse parser, silence time.Duration) *stream {
	return &stream{program: p, parse: parse, silence: cmp.Or(silence, forever)}
}

// Read takes the newest value of each channel that came since the last one. No
// line is no error; a program that does not run is one, and so are lines of
// which none could be parsed.
func (s *stream) Read(context.Context) ([]sensors.Sample, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	samples, err := s.newest, s.ended
	if err == nil && len(samples) == 0 {
		err = s.misfit
	}
	s.newest, s.misfit = nil, nil
	return samples, err
}

// Run runs the program until ctx ends. An early return says why.
func (s *stream) Run(ctx context.Context, wake func()) error {
	said, err := s.run(ctx, wake)
	if ctx.Err() != nil {
		return nil
	}
	err = withReason(fmt.Errorf("%s %w", s.program.argv[0], err), said)
	s.mu.Lock()
	s.ended = err
	s.mu.Unlock()
	return err
}

// run runs the program once. It returns the first line of its standard error,
// and why it does not run any more.
func (s *stream) run(ctx context.Context, wake func()) (said string, err error) {
	ctx, kill := context.WithCancelCause(ctx)
	defer kill(nil)
	ours, theirs, err := os.Pipe()
	if err != nil {
		return "", fmt.Errorf("cannot be run: %w", err)
	}
	defer ours.Close()
	cmd, stderr := s.program.command(ctx)
	cmd.Stdout = theirs
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return "", fmt.Errorf("cannot be run: %w", s.program.startError(err))
	}

	ended := make(chan struct{})
	var waited error
	go func() {
		defer close(ended)
		waited = cmd.Wait()
		procgroup.End(cmd)
		// A process outside the group may hold the pipe for ever.
		ours.SetReadDeadline(time.Now().Add(pipeGrace))
	}()
	defer func() { // a parser may have panicked
		kill(nil)
		<-ended
	}()

	s.follow(ctx, kill, ours, wake)
	select {
	case <-ended:
	case <-time.After(pipeGrace):
		kill(errClosed)
		<-ended
	}
	said = firstLine(stderr.buf.String())
	if cause := context.Cause(ctx); cause != nil {
		return said, cause
	}
	if err := exited(waited); err != nil {
		return said, err
	}
	return said, fmt.Errorf("ended with exit status %d; with stream = true it has to keep running", cmd.ProcessState.ExitCode())
}

// follow takes the lines of stdout until it ends. It calls kill with the reason
// when there is one, and wake when the first line gave something.
func (s *stream) follow(ctx context.Context, kill context.CancelCauseFunc, stdout io.Reader, wake func()) {
	silence := time.AfterFunc(s.silence, func() {
		kill(fmt.Errorf("printed no line for %s and was killed; if it holds its output back, run it under stdbuf -oL", human.Exact(s.silence)))
	})
	defer silence.Stop()
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, maxLineBytes)
	began, taken, woken := time.Now(), 0, false
	for lines.Scan() {
		silence.Stop()
		if s.take(lines.Bytes()) && !woken {
			woken = true
			wake()
		}
		if taken++; taken == maxLinesPerSecond {
			pause(ctx, time.Until(began.Add(time.Second)))
			began, taken = time.Now(), 0
		}
		silence.Reset(s.silence)
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		kill(errLongLine)
	}
}

// take keeps what line gives, in place of what the lines before it gave, and
// reports whether there was anything.
func (s *stream) take(line []byte) bool {
	if len(bytes.TrimSpace(line)) == 0 {
		return false
	}
	now := time.Now()
	samples, err := s.parse(line, 0)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.misfit = fmt.Errorf("output of %s: %w", s.program.argv[0], err)
		return false
	}
	s.ended = nil
	for _, sample := range samples {
		if sample.Time.IsZero() {
			sample.Time = now
		}
		i := slices.IndexFunc(s.newest, func(old sensors.Sample) bool { return old.Channel == sample.Channel })
		if i < 0 {
			s.newest = append(s.newest, sample)
		} else {
			s.newest[i] = sample
		}
	}
	return true
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
