package agent

import (
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"github.com/pyvorin/pyvorin-edge/internal/atomicfile"
	"github.com/pyvorin/pyvorin-edge/internal/clock"
)

// restartWindow is the span of agent.restarts_5m in /health.
const restartWindow = 5 * time.Minute

// startLog remembers when the agent started during this boot, so that a crash
// loop shows in /health. It counts in time since boot, which no clock setting
// moves, and lives among the runtime files: a new boot starts anew.
type startLog struct {
	BootID string          `json:"boot_id"`
	Total  int             `json:"total"`
	Starts []time.Duration `json:"starts_since_boot_ns"` // the recent ones
}

// recordStart adds this start to the log in dir. A log that cannot be read or
// written costs only the count.
func recordStart(dir string, st clock.State, now time.Time) (startLog, error) {
	path := filepath.Join(dir, "starts.json")
	var l startLog
	if data, err := os.ReadFile(path); err == nil && json.Unmarshal(data, &l) != nil {
		l = startLog{}
	}
	if l.BootID != st.BootID {
		l = startLog{BootID: st.BootID}
	}
	at := sinceBoot(st, now)
	l.Starts, l.Total = append(l.recent(at), at), l.Total+1
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return l, err
	}
	data, err := json.Marshal(l)
	if err != nil {
		return l, err
	}
	return l, atomicfile.Write(path, data, 0o640)
}

// sinceBoot returns the time since boot that the wall clock's now stands for.
func sinceBoot(st clock.State, now time.Time) time.Duration {
	return time.Duration(now.UnixNano()) - st.Offset
}

// recent returns the starts within restartWindow before at.
func (l startLog) recent(at time.Duration) []time.Duration {
	var kept []time.Duration
	for _, s := range l.Starts {
		if s <= at && at-s < restartWindow {
			kept = append(kept, s)
		}
	}
	return kept
}

// restarts returns how many of the recent starts were not this boot's first.
func (l startLog) restarts(at time.Duration) int {
	recent := len(l.recent(at))
	if recent == l.Total {
		recent--
	}
	return max(0, recent)
}
