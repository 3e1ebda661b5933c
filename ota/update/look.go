package update

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/pyvorin/pyvorin-edge/ota"
)

// look is what the watchdog's files of a component said when they were last read.
type look struct {
	layout ota.Layout

	stateAt  stamp
	state    *ota.State // nil when there is none that can be read
	stateErr error      // nil too when there was never one

	historyAt stamp
	history   []ota.Outcome // the oldest first
}

// stamp tells one content of a file from the next.
type stamp struct {
	inode uint64
	size  int64
	at    time.Time
}

// racy is how long after its last change a file is read again all the same: file
// systems tell times in steps, and two changes may fall into one.
const racy = 10 * time.Second

// changed reports whether path may have another content than at the stamp, which
// it brings up to date.
func (s *stamp) changed(path string) bool {
	var now stamp
	if info, err := os.Lstat(path); err == nil {
		now = stamp{size: info.Size(), at: info.ModTime()}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			now.inode = uint64(st.Ino)
		}
	}
	changed := now != *s || !now.at.IsZero() && time.Since(now.at).Abs() < racy
	*s = now
	return changed
}

// refresh reads what has changed. It reports whether the state was read. The
// history is read after the state, which the watchdog writes first.
func (l *look) refresh() (read bool) {
	if l.stateAt.changed(l.layout.State()) {
		read = true
		l.state, l.stateErr = ota.ReadState(l.layout)
		if errors.Is(l.stateErr, fs.ErrNotExist) {
			l.stateErr = nil
		}
	}
	if l.historyAt.changed(l.layout.History()) {
		if history, err := ota.ReadHistory(l.layout); err == nil {
			l.history = history
		}
	}
	return read
}

// outcome returns what came of the request with this id, nil when it is not known.
func (l *look) outcome(request string) *ota.Outcome {
	if request == "" {
		return nil
	}
	for i := range l.history {
		if l.history[i].ID == request {
			return &l.history[i]
		}
	}
	// The watchdog may have been cut off between the two files.
	if l.state != nil && l.state.Last != nil && l.state.Last.ID == request {
		return l.state.Last
	}
	return nil
}

// request returns the request in the inbox. One that cannot be read has an id that
// is nobody's; the zero one is that there is none.
func (u *Updater) request() ota.Request {
	data, err := readFile(u.o.Layout.Request(), ota.MaxRequestBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return ota.Request{}
	}
	var r ota.Request
	if err == nil {
		r, err = ota.ParseRequest(data)
	}
	if err != nil {
		return ota.Request{ID: "?"}
	}
	return r
}
