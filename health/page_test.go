package health

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pyvorin/pyvorin-edge/wire"
)

// page renders the page of a Server as loopback sees it.
func page(t *testing.T, o Options) (body string, policy string) {
	t.Helper()
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr, r.Host = "127.0.0.1:5000", "localhost:8080"
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	if w.Code != 200 {
		t.Fatal(w.Code, w.Body)
	}
	return w.Body.String(), w.Header().Get("Content-Security-Policy")
}

func TestPageShows(t *testing.T) {
	o := testOptions(t)
	o.Live = NewLive()
	o.Live.Add(cleared(t, number("boiler-flow", 61.25)))
	bad := number("cabinet", 0)
	bad.Value, bad.Quality, bad.Reason = wire.Value{}, wire.Bad, "no such file"
	o.Live.Add(cleared(t, bad))
	o.Source = func() Facts {
		f := exampleFacts()
		f.ClockSet = false
		f.Health.Cloud.QueueDepth = 12345
		return f
	}
	body, policy := page(t, o)
	for _, part := range []string{
		"<strong>degraded</strong>", "1 check needs attention", "<li>clock: the time is not set", ">61.25 C<", "no such file", "last 61.25, from 61.25 to 61.25",
		"12\u202f345 readings", "FLEET-0123456789ab", "2.3.0", "60 min", `<span class="tag warning">warning</span>`, `<th scope="row">disk_space</th>`,
	} {
		if !strings.Contains(body, part) {
			t.Errorf("no %q on the page", part)
		}
	}
	if strings.Index(body, "cabinet") > strings.Index(body, "boiler-flow") {
		t.Error("what is bad does not come first")
	}
	// The style must be the very bytes that the policy allows.
	style := body[strings.Index(body, "<style>")+len("<style>") : strings.Index(body, "</style>")]
	if style != pageStyle || !strings.Contains(policy, "style-src 'sha256-") || !strings.HasPrefix(policy, "default-src 'none';") {
		t.Errorf("policy %s does not allow the style", policy)
	}
	for _, foreign := range []string{"http://", "https://", "<script", " style=", "url("} {
		if strings.Contains(body, foreign) {
			t.Errorf("%q on the page", foreign)
		}
	}
}

// TestPageOfAFreshDevice has nothing on it that never happened.
func TestPageOfAFreshDevice(t *testing.T) {
	o := testOptions(t)
	o.Source = func() Facts {
		f := exampleFacts()
		f.Health.OTA = wire.OTAHealth{State: "committed", Active: "2.3.1"}
		f.Health.Agent.ClockSynchronized = false
		f.Health.Cloud.QueueDepth = 1
		return f
	}
	body, _ := page(t, o)
	for part, want := range map[string]bool{
		"<dt>Update</dt>": false, "<dt>Previous version</dt>": false, "not synchronized": false,
		"synchronization not reported by the kernel": true, "<dd>1 reading</dd>": true,
	} {
		if strings.Contains(body, part) != want {
			t.Errorf("%q on the page: %v", part, !want)
		}
	}
}

// TestPageOfAnUpdate says what is ordered and how far that is.
func TestPageOfAnUpdate(t *testing.T) {
	percent := 43.2
	for want, h := range map[string]wire.OTAHealth{
		"<dd>2.4.0, 43 % fetched</dd>":                                     {Target: "2.4.0", ProgressPercent: &percent},
		"<dd>2.4.0, waits for the watchdog; the last try: no network</dd>": {Target: "2.4.0", WaitingFor: "the watchdog", LastError: "no network"},
	} {
		o := testOptions(t)
		o.Source = func() Facts {
			f := exampleFacts()
			f.Health.OTA = h
			return f
		}
		if body, _ := page(t, o); !strings.Contains(body, want) {
			t.Errorf("%q is not on the page", want)
		}
	}
}

// TestPageHostile puts markup into everything that others can name, in as many
// sensors as there can be: it must come out as text, in less than 60 KB, on a
// page that has the very elements and attributes it has with harmless texts.
func TestPageHostile(t *testing.T) {
	pageSaying := func(text string) string {
		o := testOptions(t)
		o.Live = NewLive()
		for i := range liveSensors {
			r := number(fmt.Sprint(i, text), 0)
			r.Type, r.Unit, r.Reason, r.Quality = text, text, text, wire.Quality(text)
			for range livePoints {
				r.Value = wire.TextValue(text)
				o.Live.Add(cleared(t, r))
			}
		}
		o.Source = func() Facts {
			f := exampleFacts()
			f.Health.DeviceID, f.Health.Group, f.Health.Version, f.Health.Cloud.LastError, f.Health.OTA.LastOutcome = text, text, text, &text, &text
			f.Health.OTA.Target, f.Health.OTA.WaitingFor, f.Health.OTA.LastError = text, text, text
			f.Warnings = []string{text}
			return f
		}
		body, _ := page(t, o)
		return body
	}
	body := pageSaying(`"'><img src=x onerror=alert(1)><script>alert(2)</script>`)
	if len(body) > 60_000 {
		t.Errorf("%d bytes", len(body))
	}
	if !strings.Contains(body, "&lt;img src=x onerror") {
		t.Error("the attack is not on the page at all")
	}
	if !strings.Contains(body, fmt.Sprint(liveSensors-pageSensors, " more in")) {
		t.Error("the page does not say that there are more")
	}
	if diff := cmp.Diff(structure(t, pageSaying("harmless")), structure(t, body)); diff != "" {
		t.Errorf("others changed the page (-harmless +hostile):\n%s", diff)
	}
}

// structure returns the elements of a page with the names of their attributes.
// It must be well-formed but for its <meta>.
func structure(t *testing.T, body string) (elements []string) {
	t.Helper()
	closed := regexp.MustCompile(`<meta [^>]*`).ReplaceAllString(body, "$0/")
	for d := xml.NewDecoder(strings.NewReader(closed)); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return elements
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok {
			name := e.Name.Local
			for _, a := range e.Attr {
				name += " " + a.Name.Local
			}
			elements = append(elements, name)
		}
	}
}

func TestPageSize(t *testing.T) {
	o := testOptions(t)
	o.Live = NewLive()
	for i := range liveSensors {
		for j := range livePoints {
			r := number(fmt.Sprintf("hall-%d-cabinet-temperature", i), 20+5*math.Sin(float64(i*j)))
			if i%8 == 0 && j > livePoints/2 {
				r.Quality, r.Reason = wire.Bad, "open /sys/bus/w1/devices/28-000005/w1_slave: no such file"
			}
			o.Live.Add(cleared(t, r))
		}
	}
	if body, _ := page(t, o); len(body) > 60_000 {
		t.Errorf("%d bytes", len(body))
	}
}

func TestTrend(t *testing.T) {
	v := func(values ...float64) (out []*float64) {
		for i := range values {
			if math.IsNaN(values[i]) {
				out = append(out, nil)
			} else {
				out = append(out, &values[i])
			}
		}
		return out
	}
	gap := math.NaN()
	for _, c := range []struct {
		name   string
		values []*float64
		want   trend
	}{
		{"nothing", nil, trend{"", "no values"}},
		{"only gaps", v(gap, gap), trend{"", "no values"}},
		{"one", v(7), trend{"M236 24h0", "last 7, from 7 to 7"}},
		{"flat", v(7, 7), trend{"M4 24h0L236 24", "last 7, from 7 to 7"}},
		{"rising", v(0, 5, 10), trend{"M4 44h0L120 24L236 4", "last 10, from 0 to 10"}},
		{"gap in the middle", v(0, gap, 10), trend{"M4 44h0M236 4h0", "last 10, from 0 to 10"}},
		{"gap at the end", v(10, 0, gap), trend{"M4 4h0L120 44", "last 0, from 0 to 10"}},
		{"huge", v(-math.MaxFloat64, math.MaxFloat64), trend{"M4 44h0L236 4", "last 1.798e+308, from -1.798e+308 to 1.798e+308"}},
	} {
		if got := trendOf(c.values); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
	if got := trendOf(v(make([]float64, 1000)...)); strings.Count(got.Path, "L") != trendPoints-1 {
		t.Errorf("%d lines", strings.Count(got.Path, "L"))
	}
}

func TestAPIReadings(t *testing.T) {
	o := testOptions(t)
	o.Live = NewLive()
	r := number(`a<b>`, 1.5)
	r.Time = time.Date(2026, 3, 1, 13, 0, 0, 5e6+1, time.FixedZone("", 3600))
	o.Live.Add(cleared(t, r))
	bad := number("c", 0)
	bad.Value, bad.Quality, bad.Reason, bad.Time = wire.Value{}, wire.Bad, "gone", r.Time
	o.Live.Add(cleared(t, bad))
	s := start(t, o)
	_, body := get(t, tcpClient(t), fmt.Sprintf("http://%s/api/readings", s.Addr()))
	want := `{"readings":[` +
		`{"sensor":"a<b>","type":"temperature","value":1.5,"unit":"C","timestamp":"2026-03-01T12:00:00.005Z","quality":"good","recent":[1.5]},` +
		`{"sensor":"c","type":"temperature","value":null,"unit":"C","timestamp":"2026-03-01T12:00:00.005Z","quality":"bad","reason":"gone","recent":[null]}` +
		`],"omitted_total":0}` + "\n"
	if body != want {
		t.Errorf("got  %s\nwant %s", body, want)
	}
}
