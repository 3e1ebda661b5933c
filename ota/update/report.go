package update

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/pyvorin/pyvorin-edge/internal/atomicfile"
	"github.com/pyvorin/pyvorin-edge/ota"
)

// told is reported.json.
type told struct {
	Format int               `json:"format"`
	Last   map[string]string `json:"last"` // id of the outcome that was told last, by component
}

// maxFirst bounds what is told of the time before anything was told.
const maxFirst = 32

// report tells what was not told yet, the oldest first.
func (u *Updater) report(ctx context.Context) {
	if u.o.Report == nil || time.Now().Before(u.reportAt) {
		return
	}
	if err := u.reportOwn(ctx); err != nil {
		u.reportAgain(ctx, err)
		return
	}
	for component, l := range u.looks {
		if err := u.reportHistory(ctx, component, l); err != nil {
			u.reportAgain(ctx, err)
			return
		}
	}
}

func (u *Updater) reportAgain(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	u.reportAt = time.Now().Add(reportPause)
	u.log.Warn().Err(err).Msg("outcome not told, tried again soon")
}

func (u *Updater) tell(ctx context.Context, o ota.Outcome) error {
	ctx, cancel := context.WithTimeout(ctx, reportPatience)
	defer cancel()
	u.o.Beat()
	return u.o.Report(ctx, o)
}

// reportOwn tells the ends of wants that the watchdog has no outcome of.
func (u *Updater) reportOwn(ctx context.Context) error {
	for _, o := range u.wants().Unreported {
		if err := u.tell(ctx, o); err != nil {
			return err
		}
		err := u.change(func(d *desired) error {
			d.Unreported = slices.DeleteFunc(d.Unreported, func(other ota.Outcome) bool { return other.ID == o.ID })
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// reportHistory tells the watchdog's outcomes.
func (u *Updater) reportHistory(ctx context.Context, component string, l *look) error {
	last := u.told.Last[component]
	after := slices.IndexFunc(l.history, func(o ota.Outcome) bool { return o.ID == last }) + 1
	if last == "" {
		after = max(0, len(l.history)-maxFirst)
	}
	for _, o := range l.history[after:] {
		// What is asked again has not ended.
		if o.Remedy == "" || o.Nonce == "" || u.wants().find(o.Nonce) == nil {
			if err := u.tell(ctx, o); err != nil {
				return err
			}
		}
		next := told{Format: 1, Last: map[string]string{}}
		maps.Copy(next.Last, u.told.Last)
		next.Last[component] = o.ID
		data, err := json.Marshal(next)
		if err == nil {
			err = atomicfile.Write(u.inbox(reportedFile), data, 0o600)
		}
		if err != nil {
			return fmt.Errorf("keep what was told: %w", err)
		}
		u.told = &next
	}
	return nil
}
