package command

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pyvorin/pyvorin-edge/trust"
	"github.com/pyvorin/pyvorin-edge/wire"
)

const (
	// maxCommandEnvelope is what a command of full size takes with as many
	// signatures as there can be.
	maxCommandEnvelope = 128 << 10

	// futureSkew is how far the controller's clock may be ahead of ours.
	futureSkew = 10 * time.Minute
)

// message is what arrived.
type message struct {
	topic    string
	payload  []byte
	retained bool
}

// moment is the time of one decision, fixed once for it.
type moment struct {
	now time.Time // never before what is known to have passed
	// disciplined says that now is right. Otherwise it may be too early by any
	// length, and nothing can be said to be of the future.
	disciplined bool
}

// future reports whether t cannot have come yet.
func (m moment) future(t time.Time) bool {
	return m.disciplined && t.After(m.now.Add(futureSkew))
}

// record is an order as the ledger knows it.
type record struct {
	key     string // the nonce; of a config a digest, after a slash, which no nonce has
	name    string // of the handler
	issued  time.Time
	expires time.Time // zero: never

	// series is "config" or "desired": of these only the newest counts.
	series string

	topic  string
	signed bool
	body   []byte // as it arrived
}

// rules decide what this device may obey.
type rules struct {
	topics          wire.Topics
	deviceID, group string
	anchor          func() *trust.Anchor
	allowUnsigned   bool
}

// judge verifies a message and says what it orders. Of a refusal that is to be
// told, the order and the record are complete. What it says never depends on
// what came before; that is the ledger's part.
func (r rules) judge(msg message, m moment) (Order, record, *refusal) {
	src, ok := r.source(msg.topic)
	if !ok {
		return Order{}, record{}, refuse(ReasonWrongTopic, errors.New("a topic that was not subscribed to"))
	}
	o, target, no := r.open(src, msg, m)
	if no != nil {
		return Order{}, record{}, no
	}
	rec := recordOf(o, msg)
	if target != nil && !target.Includes(r.deviceID, r.group) {
		no := refuse(ReasonOtherTarget, errors.New("it is for other devices"))
		no.tell = src.own // on a topic of many that is nothing special
		return o, rec, no
	}
	objection := func(reason Reason, format string, args ...any) (Order, record, *refusal) {
		return o, rec, &refusal{reason: reason, err: fmt.Errorf(format, args...), tell: true}
	}
	switch {
	case src.channel == commandChannel && o.Command.Command != src.name:
		return objection(ReasonWrongTopic, "the command %.64q came by the topic of %.64q", o.Command.Command, src.name)
	case src.channel == desiredChannel && o.Command.Command != wire.CommandUpdate:
		return objection(ReasonWrongTopic, "the desired document is the command %.64q, not update", o.Command.Command)
	case !rec.expires.IsZero() && !rec.expires.After(m.now):
		return objection(ReasonExpired, "it expired at %s, and now is %s", rec.expires.UTC().Format(time.RFC3339), m.now.UTC().Format(time.RFC3339))
	case m.future(rec.issued):
		return objection(ReasonFuture, "it was issued at %s, and now is %s; compare the clocks", rec.issued.UTC().Format(time.RFC3339), m.now.UTC().Format(time.RFC3339))
	}
	return o, rec, nil
}

// open verifies and parses a message. The target is nil where the topic alone
// says whom it is for.
func (r rules) open(src source, msg message, m moment) (Order, *wire.Target, *refusal) {
	t, limit := trust.CommandType, maxCommandEnvelope
	if src.channel == configChannel {
		t, limit = trust.ConfigType, trust.MaxEnvelopeBytes
	}
	if len(msg.payload) > limit {
		return Order{}, nil, refuse(ReasonTooLarge, fmt.Errorf("%d bytes, more than %d", len(msg.payload), limit))
	}
	if looksUnsigned(msg.payload) {
		if o, ok, err := r.openUnsigned(src, msg.payload); ok {
			if err != nil {
				return Order{}, nil, refuse(ReasonInvalid, err)
			}
			return o, nil, nil
		}
		return Order{}, nil, refuse(ReasonUnsigned, errors.New("it is bare JSON, not an envelope; sign it (pyvorin-fleet sign)"))
	}
	anchor := r.anchor()
	if anchor == nil {
		return Order{}, nil, refuse(ReasonNoAnchor, errors.New("no trust anchor is installed"))
	}
	v, err := anchor.Verify(msg.payload, t, m.now)
	if err != nil {
		return Order{}, nil, refuse(whyNotTrusted(anchor, msg.payload, err), err)
	}
	o, target, err := parse(t, v.Payload())
	if err != nil {
		return Order{}, nil, refuse(ReasonInvalid, err)
	}
	o.Envelope, o.Signed, o.Desired = msg.payload, true, src.channel == desiredChannel
	return o, target, nil
}

// parse reads a payload whose signatures hold.
func parse(t trust.PayloadType, payload []byte) (Order, *wire.Target, error) {
	if t == trust.ConfigType {
		push, file, err := wire.ParseConfigPush(payload)
		return configOrder(push, file), push.Target, err
	}
	c, err := wire.ParseCommand(payload)
	return Order{Command: c}, &c.Target, err
}

func configOrder(push wire.ConfigPush, file []byte) Order {
	return Order{
		Command: wire.Command{Command: ConfigName, IssuedAt: push.Timestamp, Version: push.Version},
		Config:  &Config{ConfigPush: push, File: file},
	}
}

// whyNotTrusted says which of the Reasons it is.
func whyNotTrusted(a *trust.Anchor, data []byte, err error) Reason {
	switch {
	case errors.Is(err, trust.ErrExpired):
		return ReasonAnchorExpired
	case errors.Is(err, trust.ErrWrongType):
		return ReasonWrongType
	case errors.Is(err, trust.ErrThreshold):
		return ReasonTooFewSigned
	case !errors.Is(err, trust.ErrNotSigned):
		return ReasonMalformed
	}
	keys := a.Keys()
	u, _ := trust.Inspect(data)
	known := slices.ContainsFunc(u.KeyIDs, func(id string) bool { return keys[id] != nil && !a.Allows(trust.CommandRole, id) })
	if known && !slices.ContainsFunc(u.KeyIDs, func(id string) bool { return a.Allows(trust.CommandRole, id) }) {
		return ReasonWrongRole
	}
	return ReasonNotSigned
}

func recordOf(o Order, msg message) record {
	rec := record{
		key: o.Nonce, name: o.Command.Command, issued: o.IssuedAt, expires: o.ExpiresAt,
		topic: msg.topic, signed: o.Signed, body: msg.payload,
	}
	switch {
	case o.Config != nil:
		sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%d", o.Config.ChecksumSHA256, o.Config.Version, o.IssuedAt.UnixMicro()))
		rec.key, rec.series = ConfigName+"/"+hex.EncodeToString(sum[:16]), string(configChannel)
	case o.Desired:
		rec.series = string(desiredChannel)
	}
	return rec
}

// reopen reads again what the ledger kept of an order that was interrupted. It
// was verified before it got there, and is not verified again: the anchor may be
// another by now, and have been replaced by this very command.
func (r rules) reopen(rec record) (Order, error) {
	src, ok := r.source(rec.topic)
	if !ok { // the group or the prefix is another by now
		src = source{channel: commandChannel}
		if rec.name == ConfigName {
			src.channel = configChannel
		}
	}
	if !rec.signed {
		r.allowUnsigned = true
		o, ok, err := r.openUnsigned(src, rec.body)
		if err == nil && !ok {
			err = errors.New("it is not the seed's JSON")
		}
		return o, err
	}
	u, err := trust.Inspect(rec.body)
	if err != nil {
		return Order{}, err
	}
	o, _, err := parse(u.Type, u.Payload)
	o.Envelope, o.Signed, o.Desired = rec.body, true, rec.series == string(desiredChannel)
	return o, err
}
