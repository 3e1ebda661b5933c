package serial

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// sentence makes one of its content.
func sentence(content string) string {
	sum := byte(0)
	for _, b := range []byte(content) {
		sum ^= b
	}
	return fmt.Sprintf("$%s*%02X\r\n", content, sum)
}

var arrival = time.Date(2026, 5, 6, 12, 35, 20, 0, time.UTC)

// tell gives the receiver's lines to g.
func tell(g *gps, lines ...string) (useful int) {
	for _, line := range lines {
		if g.line([]byte(strings.TrimSpace(line)), arrival) {
			useful++
		}
	}
	return useful
}

// show puts what g tells into one line.
func show(g *gps) string {
	samples, _, err := g.take()
	var out []string
	for _, s := range samples {
		text := s.Channel + "=" + s.Value.String()
		if s.Quality != "" {
			text += fmt.Sprintf(" %s (%s)", s.Quality, s.Reason)
		}
		out = append(out, text)
	}
	if err != nil {
		out = append(out, err.Error())
	}
	return strings.Join(out, ", ")
}

// Sentences of real receivers, with the checksums they came with.
func TestSentences(t *testing.T) {
	const noFix = "latitude=- bad (no fix), longitude=- bad (no fix)"
	tests := []struct {
		name, lines, want string
	}{
		{"GPS", "$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*47",
			"fix=1, latitude=48.1173, longitude=11.51666667, altitude=545.4, satellites=8, hdop=0.9"},
		{"all constellations", "$GNGGA,203415.000,6325.6138,N,01021.4290,E,1,8,2.42,72.5,M,41.5,M,,*7C",
			"fix=1, latitude=63.42689667, longitude=10.35715, altitude=72.5, satellites=8, hdop=2.42"},
		{"RMC before NMEA 2.3", "$GPRMC,123519,A,4807.038,N,01131.000,E,022.4,084.4,230394,003.1,W*6A",
			"fix=1, latitude=48.1173, longitude=11.51666667, speed=11.524, course=84.4"},
		{"RMC with a differential fix, south and west", sentence("GLRMC,123519,A,3351.500,S,07030.000,W,0.0,,230324,,,D"),
			"fix=2, latitude=-33.85833333, longitude=-70.5, speed=0"},
		{"GLL", "$GNGLL,4404.14012,N,12118.85993,W,001037.00,A,A*67",
			"fix=1, latitude=44.069002, longitude=-121.31433217"},
		{"VTG", "$GPVTG,220.86,T,,M,2.550,N,4.724,K,A*34", "speed=1.312, course=220.86"},
		{"GSA", "$GNGSA,A,3,80,71,73,79,69,,,,,,,,1.83,1.09,1.47*17", "hdop=1.09"},
		{"no fix: GGA", "$GPGGA,,,,,,0,00,99.99,,,,,,*48",
			"fix=0, " + noFix + ", altitude=- bad (no fix), satellites=0, hdop=- bad (no fix)"},
		{"no fix: RMC", "$GPRMC,,V,,,,,,,,,,N*53",
			"fix=0, " + noFix + ", speed=- bad (no fix), course=- bad (no fix)"},
		{"no fix: GLL", "$GPGLL,,,,,,V,N*64", "fix=0, " + noFix},
		{"no fix: VTG", "$GPVTG,,,,,,,,,N*30", ""},
		{"no fix: the last position is repeated", sentence("GPGGA,123519,4807.038,N,01131.000,E,0,00,99.9,545.4,M,46.9,M,,"),
			"fix=0, " + noFix + ", altitude=- bad (no fix), satellites=0, hdop=- bad (no fix)"},
		{"no fix: zeros", sentence("GPRMC,000000,V,0000.0000,N,00000.0000,E,0.0,0.0,060180,,,N"),
			"fix=0, " + noFix + ", speed=- bad (no fix), course=- bad (no fix)"},
		{"dead reckoning", sentence("GPGGA,123519,4807.038,N,01131.000,E,6,00,9.9,545.4,M,46.9,M,,"),
			"fix=6, latitude=48.1173 uncertain (estimated from the last fix (dead reckoning)), longitude=11.51666667 uncertain (estimated from the last fix (dead reckoning)), altitude=545.4 uncertain (estimated from the last fix (dead reckoning)), satellites=0, hdop=9.9 uncertain (estimated from the last fix (dead reckoning))"},
		{"simulated", sentence("GPGLL,4807.038,N,01131.000,E,123519,A,S"),
			"fix=8, latitude=48.1173 uncertain (simulated by the receiver), longitude=11.51666667 uncertain (simulated by the receiver)"},
		{"an RTK fix", sentence("GBGGA,123519,4807.03800012,N,01131.000,E,4,20,0.5,,M,46.9,M,,"),
			"fix=4, latitude=48.1173, longitude=11.51666667, satellites=20, hdop=0.5"},
		{"after a tag block", `\s:r3669961,c:1120959341*hh\` + "$GPVTG,220.86,T,,M,2.550,N,4.724,K,A*34", "speed=1.312, course=220.86"},
		{"after a binary message", "\xb5b\x01\x07$\x00\xff$GPVTG,220.86,T,,M,2.550,N,4.724,K,A*34", "speed=1.312, course=220.86"},
		{"lower case checksum", strings.ToLower("$GPVTG,") + "220.86", ""},
		{"a wrong checksum", "$GPVTG,220.86,T,,M,2.551,N,4.724,K,A*34", ""},
		{"no checksum", "$GPVTG,220.86,T,,M,2.550,N,4.724,K,A", ""},
		{"AIS", "!AIVDM,1,1,,B,177KQJ5000G?tO`K>RA1wUbN0TKH,0*5C", ""},
		{"proprietary", sentence("PUBX,00,081350.00"), ""},
		{"only an address", sentence(""), ""},
	}
	for _, tt := range tests {
		g := &gps{}
		tell(g, tt.lines)
		if diff := cmp.Diff(tt.want, show(g)); diff != "" {
			t.Errorf("%s:\n%s", tt.name, diff)
		}
		if got := show(g); got != "" {
			t.Errorf("%s: told twice: %s", tt.name, got)
		}
	}
}

// A field that cannot be understood is damage, whatever the checksum says, and
// nothing of its sentence is taken.
func TestDamage(t *testing.T) {
	for _, content := range []string{
		"GPGGA,123519,4807.038,N,01131.000,E,one,08,0.9,545.4,M,46.9,M,,",
		"GPGGA,123519,48O7.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,",
		"GPGGA,123519,4807.038,E,01131.000,N,1,08,0.9,545.4,M,46.9,M,,",
		"GPGGA,123519,4807.038,,01131.000,E,1,08,0.9,545.4,M,46.9,M,,",
		"GPGGA,123519,9107.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,",
		"GPGGA,123519,4807.038,N,18131.000,E,1,08,0.9,545.4,M,46.9,M,,",
		"GPGGA,123519,-4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,",
		"GPGGA,123519,NaN,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,",
		"GPGGA,noon,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,",
		"GPGGA,123519,4807.038,N",
		"GPRMC,123519,X,4807.038,N,01131.000,E,022.4,084.4,230394,003.1,W",
		"GPVTG,x,T,,M,2.550,N,4.724,K,A",
	} {
		g := &gps{baudRate: 4800}
		if n := tell(g, sentence(content), sentence(content), sentence(content)); n != 0 || g.damaged != 3 {
			t.Errorf("%s: %d useful, %d damaged", content, n, g.damaged)
		}
		if err := g.complaint("lines came").Error(); !strings.Contains(err, "baud_rate (4800)") {
			t.Errorf("%s: %s", content, err)
		}
		tell(g, sentence("PUBX,00"))
		if got := show(g); !strings.HasPrefix(got, "more than half") {
			t.Errorf("%s: %s", content, got)
		}
		tell(g, sentence("PUBX,00"))
		if got := show(g); got != "" {
			t.Errorf("told twice: %s", got)
		}
	}
}

// NaN and infinity are numbers to the library.
func TestNumbersAreFinite(t *testing.T) {
	g := &gps{}
	tell(g, sentence("GPVTG,NaN,T,,M,Inf,N,,K,A"))
	if got := show(g); got != "" {
		t.Error(got)
	}
}

// A receiver that says it twice is believed once: the same channels never come
// from two kinds of sentences that may differ.
func TestGGARules(t *testing.T) {
	g := &gps{}
	gga := sentence("GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,")
	rmc := sentence("GPRMC,123519,V,4900.000,N,01200.000,E,022.4,084.4,230394,003.1,W")
	gll := sentence("GPGLL,4900.000,N,01200.000,E,123519,A")
	tell(g, gga, rmc, gll)
	const want = "fix=1, latitude=48.1173, longitude=11.51666667, altitude=545.4, speed=11.524, course=84.4, satellites=8, hdop=0.9"
	if diff := cmp.Diff(want, show(g)); diff != "" {
		t.Error(diff)
	}
	later := arrival.Add(rankTime)
	g.line([]byte(strings.TrimSpace(gll)), later)
	if got := show(g); got != "fix=1, latitude=49, longitude=12" {
		t.Errorf("without GGA: %s", got)
	}
}

func TestTheFixIsLostAndFound(t *testing.T) {
	g := &gps{}
	good := []string{"$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*47", "$GPVTG,220.86,T,,M,2.550,N,4.724,K,A*34"}
	lost := []string{"$GPGGA,,,,,,0,00,99.99,,,,,,*48", "$GPVTG,,,,,,,,,N*30"}
	tell(g, good...)
	before := show(g)
	tell(g, good...)
	tell(g, lost...) // before the good ones were read
	const without = "fix=0, latitude=- bad (no fix), longitude=- bad (no fix), altitude=- bad (no fix), speed=- bad (no fix), course=- bad (no fix), satellites=0, hdop=- bad (no fix)"
	if diff := cmp.Diff(without, show(g)); diff != "" {
		t.Error(diff)
	}
	tell(g, good...)
	if diff := cmp.Diff(before, show(g)); diff != "" {
		t.Error(diff)
	}
}

func TestAFlatFixHasNoAltitude(t *testing.T) {
	g := &gps{}
	tell(g, "$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*47", sentence("GPGSA,A,2,80,71,73,,,,,,,,,,1.83,1.09,1.47"))
	if got := show(g); !strings.Contains(got, "altitude=545.4 uncertain (a 2D fix") || strings.Count(got, "uncertain") != 1 {
		t.Error(got)
	}
}

func TestTimes(t *testing.T) {
	tests := []struct {
		name, told string
		arrival    time.Time
		want       time.Duration // from the arrival
	}{
		{"a second ago", "123519.25", arrival, -750 * time.Millisecond},
		{"ahead", "123523", arrival, 3 * time.Second},
		{"none", "", arrival, 0},
		{"a wrong hour", "113520", arrival, 0},
		{"no such hour", "993520", arrival, 0},
		{"just before midnight, it came after", "235959", time.Date(2026, 5, 6, 0, 0, 1, 0, time.UTC), -2 * time.Second},
		{"just after midnight, it came before", "000001", time.Date(2026, 5, 6, 23, 59, 59, 0, time.UTC), 2 * time.Second},
		{"another zone", "123519", arrival.In(time.FixedZone("", 7200)), -time.Second},
		{"a leap second", "235960", time.Date(2026, 5, 6, 0, 0, 1, 0, time.UTC), -time.Second},
	}
	for _, tt := range tests {
		g := &gps{}
		g.line([]byte(strings.TrimSpace(sentence("GPGLL,4807.038,N,01131.000,E,"+tt.told+",A,A"))), tt.arrival)
		samples, _, _ := g.take()
		if len(samples) != 3 {
			t.Fatalf("%s: %+v", tt.name, samples)
		}
		for _, s := range samples {
			if got := s.Time.Sub(tt.arrival); got != tt.want {
				t.Errorf("%s: %s is %v from its arrival, want %v", tt.name, s.Channel, got, tt.want)
			}
		}
	}
	// The monotonic part stays: by it the queue corrects a clock that is set later.
	g, now := &gps{}, time.Now()
	g.line([]byte(strings.TrimSpace(sentence("GPGLL,4807.038,N,01131.000,E,"+now.UTC().Format("150405")+",A,A"))), now)
	if samples, _, _ := g.take(); !strings.Contains(samples[0].Time.String(), "m=") {
		t.Error("the time has no monotonic part")
	}
}

// A receiver whose day jumps by 1024 weeks is as good as any.
func TestTheDateIsNotLookedAt(t *testing.T) {
	g := &gps{}
	tell(g, sentence("GPRMC,123519,A,4807.038,N,01131.000,E,022.4,084.4,200906,003.1,W,A"))
	samples, _, _ := g.take()
	want := sensors.Sample{Channel: "fix", Type: "fix", Value: wire.NumberValue(1), Time: arrival.Add(-time.Second)}
	equal := cmp.Comparer(func(a, b wire.Value) bool { return a == b })
	if diff := cmp.Diff(want, samples[0], equal); diff != "" {
		t.Error(diff)
	}
}
