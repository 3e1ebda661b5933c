package serial

import (
	"errors"
	"math"
	"time"

	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// gpsCycle is how long a receiver takes for all of its sentences, with the one
// that was missed at the start: most send them once a second.
const gpsCycle = 2 * time.Second

// channel is one of what a receiver tells.
type channel int

const (
	fixChannel channel = iota
	latitudeChannel
	longitudeChannel
	altitudeChannel
	speedChannel
	courseChannel
	satellitesChannel
	hdopChannel
	channelCount
)

// channels describes them; decimals are those worth sending. Without a fix, a
// channel that is of the fix has no value.
var channels = [channelCount]struct {
	name, unit string
	decimals   int
	ofFix      bool
}{
	fixChannel:        {"fix", "", 0, false},
	latitudeChannel:   {"latitude", "deg", 8, true},
	longitudeChannel:  {"longitude", "deg", 8, true},
	altitudeChannel:   {"altitude", "m", 3, true},
	speedChannel:      {"speed", "m/s", 3, true},
	courseChannel:     {"course", "deg", 3, true},
	satellitesChannel: {"satellites", "", 0, false},
	hdopChannel:       {"hdop", "", 2, true},
}

// gps is the state of a receiver: of each channel, the newest value. It sends
// ten sentences a second and more, so they are no samples by themselves.
type gps struct {
	baudRate int // for complaints

	values  [channelCount]value
	quality int // of the fix: GGA's number
	flat    bool
	ggaAt   time.Time // when the last GGA came

	intact, damaged uint64 // sentences since the last take
	foreign         uint64 // intact ones of other kinds, since the last useful one
}

type value struct {
	number  float64
	at      time.Time
	fresh   bool // since the last take
	carried bool // some sentence of the receiver has a field for it
}

// ggaRules reports whether the fix and the position are GGA's to tell. A
// receiver that sends it says the same twice, and another's RMC or GLL on the
// same line must not make the position jump.
func (g *gps) ggaRules(now time.Time) bool {
	return !g.ggaAt.IsZero() && now.Sub(g.ggaAt) < rankTime
}

// set notes the newest value of c; NaN is none.
func (g *gps) set(c channel, number float64, at time.Time) {
	if math.IsNaN(number) || math.IsInf(number, 0) {
		return
	}
	v := &g.values[c]
	v.number, v.at, v.fresh = rounded(number, channels[c].decimals), at, true
}

func rounded(number float64, decimals int) float64 {
	unit := math.Pow10(decimals)
	return math.Round(number*unit) / unit
}

func (g *gps) setFix(quality int, at time.Time) {
	g.quality = quality
	g.set(fixChannel, float64(quality), at)
}

func (g *gps) carries(list ...channel) {
	for _, c := range list {
		g.values[c].carried = true
	}
}

// take returns the channels that a sentence told of since the last call. Where
// there is no fix, those that need one are bad.
func (g *gps) take() ([]sensors.Sample, sensors.Dropped, error) {
	var samples []sensors.Sample
	fix := g.values[fixChannel]
	without := !fix.at.IsZero() && g.quality == noFix
	for c := range channelCount {
		v, d := &g.values[c], channels[c]
		s := sensors.Sample{Channel: d.name, Type: d.name, Unit: d.unit, Time: v.at}
		switch {
		case without && d.ofFix:
			v.fresh = false
			if !fix.fresh || !v.carried {
				continue
			}
			s.Time, s.Quality, s.Reason = fix.at, wire.Bad, "no fix"
		case !v.fresh:
			continue
		default:
			s.Value = wire.NumberValue(v.number)
			if reason := g.doubt(c); reason != "" {
				s.Quality, s.Reason = wire.Uncertain, reason
			}
		}
		v.fresh = false
		samples = append(samples, s)
	}
	var err error
	if g.intact > 0 && g.damaged >= 3 && g.damaged > g.intact { // complaint tells of those that are all damaged
		err = errors.New("more than half of the sentences arrive damaged: check the wiring, its ground and baud_rate")
	}
	g.intact, g.damaged = 0, 0
	return samples, 0, err
}

// doubt says why a value of c is not to be taken at its word; "" when it is.
func (g *gps) doubt(c channel) string {
	switch {
	case !channels[c].ofFix:
		return ""
	case g.quality == estimated:
		return "estimated from the last fix (dead reckoning)"
	case g.quality == byHand:
		return "entered by hand at the receiver"
	case g.quality == simulated:
		return "simulated by the receiver"
	case c == altitudeChannel && g.flat:
		return "a 2D fix does not measure the altitude"
	}
	return ""
}
