package command

import (
	"maps"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// Reason is why a message was not obeyed.
type Reason string

// The reasons. Up to and including ReasonInvalid nothing is known of the sender,
// or nothing of what was meant; nothing is written for these.
const (
	ReasonQueueFull     Reason = "queue_full"     // it had to make room for newer ones
	ReasonTooLarge      Reason = "too_large"      // longer than its kind can be
	ReasonMalformed     Reason = "malformed"      // not an envelope at all
	ReasonUnsigned      Reason = "unsigned"       // the seed's bare JSON, which is not allowed
	ReasonNoAnchor      Reason = "no_anchor"      // this device trusts nobody yet
	ReasonAnchorExpired Reason = "anchor_expired" // it trusts nobody any more
	ReasonWrongType     Reason = "wrong_type"     // an envelope of something else
	ReasonNotSigned     Reason = "not_signed"     // by no key that it trusts, or changed after
	ReasonWrongRole     Reason = "wrong_role"     // by a key that it trusts for something else
	ReasonTooFewSigned  Reason = "too_few_signatures"
	ReasonInvalid       Reason = "invalid" // signed, and not a command or a config

	ReasonOtherTarget Reason = "other_target" // for other devices
	ReasonWrongTopic  Reason = "wrong_topic"  // the topic is of another command
	ReasonDuplicate   Reason = "duplicate"    // heard before
	ReasonSuperseded  Reason = "superseded"   // a newer one was heard before
	ReasonExpired     Reason = "expired"
	ReasonFuture      Reason = "future"      // issued later than now
	ReasonUnknown     Reason = "unknown"     // no such command here
	ReasonBusy        Reason = "busy"        // the one before has not ended
	ReasonLedgerLost  Reason = "ledger_lost" // too old for a ledger that had to begin anew
	ReasonLedger      Reason = "ledger"      // nothing can be recorded, so nothing may be done
)

// refusal is a Reason in detail.
type refusal struct {
	reason Reason
	err    error

	// tell says that it is known who signed it, and that the controller should
	// know.
	tell bool
}

func refuse(r Reason, err error) *refusal { return &refusal{reason: r, err: err} }

// logPause keeps those who send nonsense from filling the log.
const logPause = time.Minute

// refusals counts them.
type refusals struct {
	log zerolog.Logger

	mu     sync.Mutex
	counts map[Reason]uint64
	logged map[Reason]time.Time
}

func (c *refusals) add(r *refusal, topic string) {
	c.mu.Lock()
	if c.counts == nil {
		c.counts, c.logged = map[Reason]uint64{}, map[Reason]time.Time{}
	}
	c.counts[r.reason]++
	quiet := time.Since(c.logged[r.reason]) < logPause
	if !quiet {
		c.logged[r.reason] = time.Now()
	}
	c.mu.Unlock()
	if quiet {
		return
	}
	event := c.log.Warn()
	if r.reason == ReasonDuplicate || r.reason == ReasonSuperseded || r.reason == ReasonOtherTarget {
		event = c.log.Debug() // usual with what is retained, or sent to all
	}
	event.Str("reason", string(r.reason)).AnErr("error", r.err).Str("topic", topic).Msg("message refused")
}

func (c *refusals) snapshot() map[Reason]uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.counts)
}
