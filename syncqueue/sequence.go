package syncqueue

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"

	"github.com/pyvorin/pyvorin-edge/internal/atomicfile"
)

// reserveAhead is how many seqs one write of the sidecar reserves.
const reserveAhead = 1 << 20

// maxSeq is beyond every seq that was ever given: numbers up to it are exact in
// any reader of JSON, and the time in microseconds stays below it until 2255.
const maxSeq = 1 << 53

// reservation is the sidecar file: what is known of the numbering when the
// queue file is gone.
type reservation struct {
	Oldest   uint64 `json:"oldest"`   // everything before it had been delivered or announced
	Next     uint64 `json:"next"`     // the next seq when this was written
	Reserved uint64 `json:"reserved"` // no seq from here on was ever used
}

// readReservation returns the sidecar's content; the zero reservation when
// there is none, and an error when it cannot be understood.
func readReservation(path string) (reservation, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return reservation{}, nil
	}
	if err != nil {
		return reservation{}, err
	}
	var r reservation
	if err := json.Unmarshal(data, &r); err != nil {
		return reservation{}, err
	}
	if r.Oldest == 0 || r.Next < r.Oldest || r.Reserved < r.Next || r.Reserved > maxSeq {
		return reservation{}, errors.New("impossible values")
	}
	return r, nil
}

func (r reservation) write(path string) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, append(data, '\n'), 0o600)
}

// resume decides the next seq at Open. fromFile is the one after the newest row
// (0 when the file knows none) and sound says that nothing of the file was lost.
// A jump is the range that the receiver will never see.
func resume(r reservation, unreadable bool, fromFile uint64, sound bool, unixMicro int64) (next uint64, jump *span) {
	switch {
	case sound && fromFile >= max(r.Next, 1):
		return fromFile, nil
	case r.Reserved > 0:
		next = max(r.Reserved, fromFile)
		return next, &span{first: r.Oldest, last: next - 1}
	case unreadable || !sound:
		// Neither file remembers. No device counts a reading a microsecond, so
		// the time is beyond every seq it can have used.
		next = max(uint64(max(unixMicro, 1)), fromFile)
		return next, &span{first: 1, last: max(next-1, 1)}
	}
	return max(fromFile, 1), nil
}
