package sensors

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/internal/human"
)

// listenPoll is how often ReadOnce looks into a Listener's buffer.
const listenPoll = 50 * time.Millisecond

// ErrSilent says that a Listener works and nothing came to it in time, which is
// no failure: a door may stay shut for weeks.
var ErrSilent = errors.New("nothing came")

// ReadOnce reads the named sensor once, outside any schedule and whether it is
// enabled or not, with everything but reduce applied. A failed read yields its
// reading of quality bad as well as the error; ErrSilent comes with none. The
// sensor is made for this and closed again, so two of them hold the same device
// when Run has it too.
func (p *Poller) ReadOnce(ctx context.Context, name string) ([]Reading, error) {
	i := slices.IndexFunc(p.o.Defaults.Devices, func(d config.Sensor) bool { return d.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("no sensor is called %q (see 'pyvorin-edge sensors list')", name)
	}
	d := p.o.Defaults.Devices[i]
	d.Reduce = "none" // one read fills no window
	s, err := p.o.newPolled(d)
	if err != nil {
		return nil, fmt.Errorf("sensor %q: %w", name, err)
	}
	start := time.Now()
	var samples []Sample
	if l, ok := s.sensor.(Listener); ok {
		samples, err = s.listenOnce(ctx, l)
	} else {
		samples, err, _ = s.read(ctx)
	}
	s.release()
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	s.waitClosed(stop)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if errors.Is(err, ErrSilent) {
		return nil, err
	}
	return s.process.finished(nil, samples, err, p.moment(start))
}

// listenOnce runs l until it has samples or the timeout is over. With neither
// samples nor a reason the error is ErrSilent.
func (s *polled) listenOnce(ctx context.Context, l Listener) ([]Sample, error) {
	listening, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	woken := make(chan struct{}, 1)
	ended := make(chan error, 1)
	s.users.Add(1)
	go func() {
		defer s.release()
		ended <- s.guard(func() error {
			return l.Run(listening, func() {
				select {
				case woken <- struct{}{}:
				default:
				}
			})
		})
	}()
	look := time.NewTicker(listenPoll)
	defer look.Stop()
	for {
		select {
		case <-listening.Done():
			select {
			case <-ended:
			case <-time.After(stopTimeout):
			}
			return s.lastLook(ctx)
		case err := <-ended:
			if listening.Err() != nil {
				return s.lastLook(ctx)
			}
			if err == nil {
				err = errListenEnded
			}
			return nil, err
		case <-woken:
		case <-look.C:
		}
		samples, err, returned := s.read(ctx)
		if len(samples) > 0 || !returned {
			return samples, err
		}
		// An error may only mean that it is not connected yet.
	}
}

// lastLook reads when Run was stopped, which is when a Listener knows that it
// never came as far as listening.
func (s *polled) lastLook(ctx context.Context) ([]Sample, error) {
	samples, err, _ := s.read(ctx)
	if err == nil && len(samples) == 0 {
		err = fmt.Errorf("%w within %s", ErrSilent, human.Exact(s.timeout))
	}
	return samples, err
}
