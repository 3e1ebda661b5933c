package command

import "time"

// Stats are what /health shows of the link to the fleet.
type Stats struct {
	Connected bool
	Since     time.Time // when that began
	LastError string    // why there is no connection; "" while there is one
	Epoch     uint64    // of the connection

	Refused map[Reason]uint64 // messages, since the start

	LedgerStats
}

// Stats comes from memory and waits for nothing.
func (l *Listener) Stats() Stats {
	l.statsMu.Lock()
	s := l.stats
	l.statsMu.Unlock()
	s.Refused = l.refusals.snapshot()
	s.LedgerStats = l.ledger.Stats()
	return s
}

// setLink notes a change of the connection. It returns whether that is news.
func (l *Listener) setLink(connected bool, epoch uint64, err error) bool {
	text := ""
	if err != nil {
		text = err.Error()
	}
	l.statsMu.Lock()
	defer l.statsMu.Unlock()
	news := connected != l.stats.Connected || text != l.stats.LastError
	if connected != l.stats.Connected {
		l.stats.Since = time.Now()
	}
	l.stats.Connected, l.stats.Epoch, l.stats.LastError = connected, epoch, text
	return news
}
