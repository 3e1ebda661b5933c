package command

import (
	"context"
	"encoding/json"
	"sync/atomic"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/pyvorin/pyvorin-edge/wire"
)

const (
	// maxUnacked is how many reports are under way to the controller at a time.
	maxUnacked = 64

	maxAckBytes = 1024
)

// acks are the controller's acknowledgements. They are not signed: the worst
// that a forged one does is to lose reports that were sent.
type acks struct {
	highest atomic.Uint64 // acknowledged
	sent    atomic.Uint64 // sent since the start
	changed chan struct{}
}

// heard takes an acknowledgement. What was not sent cannot be acknowledged.
func (a *acks) heard(payload []byte) {
	var ack wire.ReportAck
	if len(payload) > maxAckBytes || json.Unmarshal(payload, &ack) != nil {
		return
	}
	seq := min(ack.Seq, a.sent.Load())
	for {
		was := a.highest.Load()
		if seq <= was {
			return
		}
		if a.highest.CompareAndSwap(was, seq) {
			break
		}
	}
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// sendReports sends what waits in the outbox, the oldest first and each once the
// broker has the one before, until ctx ends. What the controller does not
// acknowledge is sent again after a while that doubles. A connection, or an
// acknowledgement, begins again with the shortest.
func (l *Listener) sendReports(ctx context.Context, client paho.Client) {
	var sent, acked uint64 // the newest of this round
	unacked := 0
	patience := l.timing.resend
	again := time.NewTimer(patience)
	defer again.Stop()
	for ctx.Err() == nil {
		if highest := l.acks.highest.Load(); highest > acked {
			if err := l.ledger.acknowledged(highest); err != nil {
				l.log.Error().Err(err).Msg("acknowledgement not recorded")
			}
			acked, sent = highest, max(sent, highest)
			unacked, patience = 0, l.timing.resend
			again.Reset(patience)
		}
		if unacked < maxUnacked {
			next, err := l.ledger.reportsAfter(sent, 1)
			if err != nil {
				l.log.Error().Err(err).Msg("reports cannot be read")
			}
			if len(next) > 0 && l.send(ctx, client, next[0]) {
				sent, unacked = next[0].seq, unacked+1
				continue
			}
			if len(next) > 0 { // the broker does not take it: not before again fires
				unacked = maxUnacked
			}
		}
		select {
		case <-ctx.Done():
		case <-l.ledger.wake:
		case <-l.acks.changed:
		case <-again.C:
			patience = min(2*patience, l.timing.resendMax)
			again.Reset(patience)
			sent, unacked = acked, 0
		}
	}
}

// send publishes a report and reports whether the broker took it.
func (l *Listener) send(ctx context.Context, client paho.Client, q queued) bool {
	if !client.IsConnectionOpen() {
		return false
	}
	l.acks.sent.Store(max(q.seq, l.acks.sent.Load()))
	token := client.Publish(l.topics.Report(l.o.DeviceID), 1, false, q.body)
	timeout := time.NewTimer(l.timing.puback)
	defer timeout.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timeout.C:
		return false
	case <-token.Done():
		return token.Error() == nil
	}
}
