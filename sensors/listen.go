package sensors

import (
	"context"
	"errors"
	"time"

	"github.com/cenkalti/backoff/v5"
)

const (
	listenPauseMin = time.Second
	listenPauseMax = time.Minute

	// listenSettled is how long a Listener must run before its last failure
	// is over.
	listenSettled = 30 * time.Second
)

var errListenEnded = errors.New("listening ended by itself")

// listen keeps a Listener running until ctx ends.
func (p *Poller) listen(ctx context.Context, s *polled, l Listener) {
	defer s.release()
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = listenPauseMin, listenPauseMax
	for {
		began := time.Now()
		s.setListening(true, nil)
		settled := time.AfterFunc(listenSettled, s.clearListenError)
		err := s.guard(func() error { return l.Run(ctx, func() { p.wake(s) }) })
		settled.Stop()
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errListenEnded
		}
		if time.Since(began) >= listenSettled {
			pause.Reset()
		}
		s.setListening(false, err)
		p.wake(s) // the next read tells of it
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause.NextBackOff()):
		}
	}
}

// wake asks for an early read of s; it never blocks.
func (p *Poller) wake(s *polled) {
	if s.woken.CompareAndSwap(false, true) {
		p.wakes <- s
	}
}

// setListening records that Run began, or why it ended. A reason outlives the
// next beginning: until something comes, or Run has settled, nothing is good.
func (s *polled) setListening(yes bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listening = yes
	if err != nil {
		s.listenErr = err
	}
}

// clearListenError forgets why Run ended, unless it has ended again.
func (s *polled) clearListenError() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listening {
		s.listenErr = nil
	}
}

// listenError returns why a read that had the given outcome counts as failed
// although it did not say so. mu is held.
func (s *polled) listenError(samples int) error {
	if samples > 0 && s.listening {
		s.listenErr = nil
	}
	if samples > 0 {
		return nil
	}
	return s.listenErr
}
