package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sys/unix"

	"github.com/pyvorin/pyvorin-edge/ota/bundle"
)

// source is where a bundle comes from.
type source interface {
	// open returns the bytes from offset from on, to end or farther. The context
	// must not end before the response was closed.
	open(ctx context.Context, from, end int64) (*response, error)
	// forget gives up what was remembered of the file, after a change of it
	// turned out to be none.
	forget()
	name() string // for people, without secrets
	close()
}

// response is a run of bytes of a source.
type response struct {
	body io.ReadCloser
	at   int64 // offset of its first byte
	end  int64 // offset behind its last byte; -1 when that is not known
	size int64 // of the whole file; -1 when that is not known
}

// open returns the source that a job names.
func (f *Fetcher) open(raw string) (source, error) {
	if filepath.IsAbs(raw) {
		return fileSource(raw), nil
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		// Not err itself, which quotes all of it.
	case (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "":
		return f.openHTTP(u)
	case u.Scheme == "file" && (u.Host == "" || u.Host == "localhost") && filepath.IsAbs(u.Path):
		return fileSource(u.Path), nil
	}
	return nil, fmt.Errorf("%w: the source must be an http, https or file URL, or the absolute path of a file", ErrRefused)
}

// fileSource is a file on this machine, such as one on a USB stick.
type fileSource string

func (s fileSource) open(_ context.Context, from, _ int64) (*response, error) {
	file, err := os.OpenFile(string(s), os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO must not be waited for
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrNotFound, err)
	} else if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	} else if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%w: %s is no plain file", ErrRefused, s)
	}
	if err == nil {
		_, err = file.Seek(from, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &response{body: file, at: from, end: info.Size(), size: info.Size()}, nil
}

func (s fileSource) forget()      {}
func (s fileSource) close()       {}
func (s fileSource) name() string { return string(s) }

const (
	// minFlow bytes must come within Options.Stall, or the response is given up.
	minFlow = 4 << 10
	// maxSkip bytes are rather read and dropped than left out by a new request.
	maxSkip = 16 << 10
	// maxChunk bytes are read, and written down, at a time.
	maxChunk = 32 << 10
)

var (
	errStalled = fmt.Errorf("the server sent less than %d bytes for too long", minFlow)
	errCutOff  = errors.New("the connection ended early")
)

// feed reads a source from wherever it is asked to. A response goes on being used
// while what is wanted lies ahead in it.
type feed struct {
	f   *Fetcher
	src source

	cur   *response // nil when none is open
	at    int64     // offset of the next byte in cur
	ctx   context.Context
	stop  context.CancelCauseFunc
	stall *time.Timer
	left  time.Duration // until cur counts as stalled
	flow  int           // bytes since left was all of Options.Stall
}

// read reads some of the bytes from offset from on into p. When it needs a
// response it asks for one up to end.
func (s *feed) read(ctx context.Context, p []byte, from, end int64) (int, error) {
	if err := s.seek(ctx, from, end); err != nil {
		return 0, err
	}
	n, err := s.next(ctx, p)
	if errors.Is(err, io.EOF) {
		ended := s.cur.end < 0 || s.at < s.cur.end
		s.close()
		if ended {
			return n, errCutOff
		}
		return n, nil // all that was asked for
	}
	return n, err
}

// seek has a response open whose next byte is at offset from.
func (s *feed) seek(ctx context.Context, from, end int64) error {
	if s.cur != nil {
		ended := s.cur.end >= 0 && from >= s.cur.end
		if from < s.at || ended || from > s.at+maxSkip && s.cur.at > 0 {
			s.close()
		}
	}
	if s.cur == nil {
		reading, stop := context.WithCancelCause(ctx)
		r, err := s.src.open(reading, from, end)
		if err == nil && r.end >= 0 && r.end <= from {
			err = errors.Join(doubtful(fmt.Errorf("%w: the file ends after %d bytes", bundle.ErrDamaged, r.end)), r.body.Close())
		}
		if err != nil {
			stop(nil)
			return err
		}
		s.cur, s.at, s.ctx, s.stop = r, r.at, reading, stop
		s.left, s.flow = s.f.o.Stall, 0
		s.stall = time.AfterFunc(s.left, func() { stop(errStalled) })
		s.stall.Stop()
	}
	var dropped []byte // of a server that cannot begin in the middle
	for s.at < from {
		if dropped == nil {
			dropped = make([]byte, maxChunk)
		}
		if _, err := s.next(ctx, dropped[:min(maxChunk, from-s.at)]); errors.Is(err, io.EOF) {
			s.close()
			return errCutOff
		} else if err != nil {
			return err
		}
	}
	return nil
}

// next reads from the response, at the pace that is allowed.
func (s *feed) next(ctx context.Context, p []byte) (int, error) {
	if err := s.f.pace.wait(ctx); err != nil {
		return 0, err
	}
	begun := time.Now()
	s.stall.Reset(s.left)
	n, err := s.cur.body.Read(p[:min(len(p), s.f.pace.chunk())])
	s.stall.Stop()
	s.left -= time.Since(begun)
	if s.flow += n; s.flow >= minFlow {
		s.left, s.flow = s.f.o.Stall, 0
	}
	s.left = max(s.left, time.Millisecond)
	s.at += int64(n)
	s.f.pace.spend(time.Now(), n)
	switch {
	case n > 0 || err == nil:
		return n, nil // an error comes again
	case ctx.Err() != nil:
		return 0, context.Cause(ctx)
	case s.ctx.Err() != nil:
		return 0, context.Cause(s.ctx)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return 0, errCutOff
	}
	return 0, err
}

func (s *feed) close() {
	if s.cur == nil {
		return
	}
	s.stall.Stop()
	s.stop(nil)
	s.cur.body.Close()
	s.cur = nil
}

// pacer keeps a rate: what was read is paid for by waiting before the next read.
type pacer struct {
	bytesPerSecond int64     // 0 is no cap
	paid           time.Time // when all that was read is paid for
}

// chunk is how much may be read at a time: what takes an eighth of a second.
func (p *pacer) chunk() int {
	if p.bytesPerSecond == 0 {
		return maxChunk
	}
	return int(min(maxChunk, max(MinBandwidth/8, p.bytesPerSecond/8)))
}

func (p *pacer) spend(now time.Time, n int) {
	if p.bytesPerSecond == 0 {
		return
	}
	if p.paid.Before(now) {
		p.paid = now // silence earns no credit
	}
	p.paid = p.paid.Add(time.Duration(float64(n) / float64(p.bytesPerSecond) * float64(time.Second)))
}

// wait waits until more may be read. It fails once ctx has ended.
func (p *pacer) wait(ctx context.Context) error {
	if d := time.Until(p.paid); p.bytesPerSecond > 0 && d > 0 {
		return sleep(ctx, d)
	}
	return context.Cause(ctx)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// waits are the waits between failures: random from zero to a bound that doubles.
func (f *Fetcher) waits() *backoff.ExponentialBackOff {
	return &backoff.ExponentialBackOff{
		InitialInterval: f.o.Wait / 2, Multiplier: 2, MaxInterval: 30 * f.o.Wait,
		RandomizationFactor: 1, // from nothing to twice the interval
	}
}
