package serial

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/adrianmo/go-nmea"
)

const (
	// clockTolerance is how far a receiver's clock may be from this device's
	// before it is not used.
	clockTolerance = 5 * time.Second

	// rankTime is for how long a GGA sentence tells of the fix instead of the
	// others.
	rankTime = 10 * time.Second

	metresPerSecond = 1852.0 / 3600 // in a knot
)

// The values of GGA's fix quality that matter here.
const (
	noFix     = 0
	someFix   = 1
	estimated = 6
	byHand    = 7
	simulated = 8
)

// modes gives the fix quality for the mode indicator that other sentences end
// with since NMEA 2.3.
var modes = map[string]int{"N": noFix, "A": someFix, "D": 2, "P": 3, "R": 4, "F": 5, "E": estimated, "M": byHand, "S": simulated}

// line takes an NMEA sentence. The library's whole parser would bring the code
// for eighty kinds of them, and take an empty field for 0 and an empty position
// for the equator; so only its parts are used.
func (g *gps) line(line []byte, now time.Time) bool {
	// Before the sentence there may be a tag block, or a receiver's binary
	// message, which has no end of line.
	start := bytes.LastIndexAny(line, "$!")
	content, checksum, _ := strings.Cut(string(line[start+1:]), nmea.ChecksumSep)
	intact, known := false, false
	if start >= 0 && strings.EqualFold(nmea.Checksum(content), strings.TrimSpace(checksum)) {
		intact, known = g.sentence(strings.Split(content, nmea.FieldSep), now)
	}
	switch {
	case !intact:
		g.damaged++
		return false
	case !known:
		g.intact++
		g.foreign++
		return false
	}
	g.intact++
	g.foreign = 0
	return true
}

// sentence takes the fields of one whose checksum is right, its address first.
// A field that cannot be understood makes it not intact, and nothing of it is
// taken.
func (g *gps) sentence(all []string, now time.Time) (intact, known bool) {
	_, kind, err := nmea.ParsePrefix(all[0])
	if err != nil {
		return false, false
	}
	f := fields{nmea.NewParser(nmea.BaseSentence{Type: kind, Fields: all[1:]})}
	var take func()
	switch kind {
	case nmea.TypeGGA:
		take = g.gga(f, now)
	case nmea.TypeRMC:
		take = g.rmc(f, now)
	case nmea.TypeGLL:
		take = g.gll(f, now)
	case nmea.TypeVTG:
		take = g.vtg(f, now)
	case nmea.TypeGSA:
		take = g.gsa(f, now)
	default:
		return true, false
	}
	if f.Err() != nil {
		return false, true
	}
	take()
	return true, true
}

// The functions below read the fields of one kind of sentence, and return what
// to do when all of them were good.

// gga: time, latitude, N/S, longitude, E/W, quality, satellites, HDOP,
// altitude, …
func (g *gps) gga(f fields, now time.Time) func() {
	at := f.time(0, now)
	latitude, longitude := f.position(1)
	quality, satellites := f.digit(5), f.number(6)
	hdop, altitude := f.number(7), f.number(8)
	return func() {
		g.ggaAt = now
		g.carries(latitudeChannel, longitudeChannel, altitudeChannel, hdopChannel)
		g.setFix(quality, at)
		g.set(latitudeChannel, latitude, at)
		g.set(longitudeChannel, longitude, at)
		g.set(altitudeChannel, altitude, at)
		g.set(satellitesChannel, satellites, at)
		g.set(hdopChannel, hdop, at)
	}
}

// rmc: time, A or V, latitude, N/S, longitude, E/W, knots, course, date,
// variation, E/W, mode, …
func (g *gps) rmc(f fields, now time.Time) func() {
	at := f.time(0, now)
	quality := f.quality(1, 11)
	latitude, longitude := f.position(2)
	knots, course := f.number(6), f.number(7)
	return func() {
		g.carries(latitudeChannel, longitudeChannel, speedChannel, courseChannel)
		if g.ggaRules(now) {
			quality = g.quality
		} else {
			g.setFix(quality, at)
			g.set(latitudeChannel, latitude, at)
			g.set(longitudeChannel, longitude, at)
		}
		if quality != noFix {
			g.set(speedChannel, knots*metresPerSecond, at)
			g.set(courseChannel, course, at)
		}
	}
}

// gll: latitude, N/S, longitude, E/W, time, A or V, mode.
func (g *gps) gll(f fields, now time.Time) func() {
	at := f.time(4, now)
	quality := f.quality(5, 6)
	latitude, longitude := f.position(0)
	return func() {
		g.carries(latitudeChannel, longitudeChannel)
		if !g.ggaRules(now) {
			g.setFix(quality, at)
			g.set(latitudeChannel, latitude, at)
			g.set(longitudeChannel, longitude, at)
		}
	}
}

// vtg: course, T, magnetic course, M, knots, N, km/h, K, mode.
func (g *gps) vtg(f fields, now time.Time) func() {
	course, knots := f.number(0), f.number(4)
	valid := f.mode(8) != noFix
	return func() {
		g.carries(speedChannel, courseChannel)
		if valid {
			g.set(speedChannel, knots*metresPerSecond, now)
			g.set(courseChannel, course, now)
		}
	}
}

// gsa: A or M, 1 to 3 dimensions, twelve satellites, PDOP, HDOP, VDOP, …
func (g *gps) gsa(f fields, now time.Time) func() {
	dimensions, hdop := f.digit(1), f.number(15)
	return func() {
		g.carries(hdopChannel)
		g.flat = dimensions == 2
		g.set(hdopChannel, hdop, now)
	}
}

// fields reads the fields of a sentence. The first that cannot be understood
// stays in Err, which holds the field and must not be shown.
type fields struct{ *nmea.Parser }

// number returns field i, NaN when it is empty.
func (f fields) number(i int) float64 {
	n := f.NullFloat64(i, "number")
	if !n.Valid {
		return math.NaN()
	}
	return n.Value
}

// digit returns field i, a code, and 0 when it is empty.
func (f fields) digit(i int) int {
	n := f.Int64(i, "code")
	if n < 0 || n > 9 {
		f.SetErr("code", "out of range")
	}
	return int(n)
}

// position returns the latitude and the longitude that begin at field i, NaN
// where they are empty.
func (f fields) position(i int) (latitude, longitude float64) {
	return f.angle(i, nmea.North, nmea.South, 90), f.angle(i+2, nmea.East, nmea.West, 180)
}

func (f fields) angle(i int, positive, negative string, limit float64) float64 {
	digits, side := f.String(i, "angle"), f.String(i+1, "side")
	if digits == "" {
		return math.NaN()
	}
	angle, err := nmea.ParseGPS(digits + " " + side)
	isSide := side == positive || side == negative
	if strings.Trim(digits, "0123456789.") != "" || err != nil || !isSide || math.Abs(angle) > limit {
		f.SetErr("angle", digits)
	}
	return angle
}

// quality returns the fix quality of a sentence whose field status is A or V,
// and which may have a mode indicator.
func (f fields) quality(status, mode int) int {
	if f.EnumString(status, "status", nmea.StatusValid, nmea.StatusInvalid) != nmea.StatusValid {
		return noFix
	}
	return f.mode(mode)
}

// mode returns the fix quality that mode indicator i tells. Sentences before
// NMEA 2.3 have none.
func (f fields) mode(i int) int {
	if i < len(f.Fields) {
		if quality, known := modes[f.Fields[i]]; known {
			return quality
		}
	}
	return someFix
}

// time returns when the sentence's measurement was made, by the time of day in
// field i and the day of its arrival. A receiver's date is not looked at: that
// of many jumps back by 1024 weeks one day. The time of arrival stands in when
// the sentence tells none, or one too far from it; the result keeps its
// monotonic part either way.
func (f fields) time(i int, arrival time.Time) time.Time {
	t := f.Time(i, "time")
	if !t.Valid {
		return arrival
	}
	const day = 24 * time.Hour
	told := time.Duration(t.Hour)*time.Hour + time.Duration(t.Minute)*time.Minute +
		time.Duration(t.Second)*time.Second + time.Duration(t.Millisecond)*time.Millisecond
	utc := arrival.UTC()
	difference := told - utc.Sub(utc.Truncate(day))
	switch {
	case difference > day/2:
		difference -= day
	case difference < -day/2:
		difference += day
	}
	if difference.Abs() > clockTolerance {
		return arrival
	}
	return arrival.Add(difference)
}

func (g *gps) complaint(lines string) error {
	if g.foreign > 0 {
		return fmt.Errorf("sentences come, but no GGA, RMC, VTG, GLL or GSA: is it a GPS receiver, and set to send them")
	}
	return fmt.Errorf("%s, but no intact NMEA sentence: check baud_rate (%d), parity and that the receiver is not set to a binary protocol", lines, g.baudRate)
}
