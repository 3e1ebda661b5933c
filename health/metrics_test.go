package health

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/pyvorin/pyvorin-edge/internal/promtext"
	"github.com/pyvorin/pyvorin-edge/sensors"
	"github.com/pyvorin/pyvorin-edge/wire"
)

func TestMetrics(t *testing.T) {
	o := testOptions(t)
	o.Live = NewLive()
	o.Source = func() Facts {
		f := exampleFacts()
		f.QueueFault = "disk full"
		return f
	}
	o.Live.Add(cleared(t, number("temp-01", 21.5)))
	bad := number("temp-02", 85)
	bad.Quality, bad.Reason = wire.Bad, "rejected"
	o.Live.Add(cleared(t, bad))
	o.Live.Add(cleared(t, sensors.Reading{Sensor: "broken\xffname", Value: wire.TextValue("x"), Quality: wire.Good, Time: time.Now()}))
	s := start(t, o)
	status, body := get(t, tcpClient(t), fmt.Sprintf("http://%s/metrics", s.Addr()))
	if status != 200 {
		t.Fatal(status, body)
	}
	for _, line := range []string{
		"pyvorin_edge_uptime_seconds 3600", `pyvorin_edge_status{status="unhealthy"} 1`, `pyvorin_edge_status{status="healthy"} 0`,
		`pyvorin_edge_check_state{check="queue"} 2`, `pyvorin_edge_check_state{check="cloud"} 0`,
		"pyvorin_edge_queue_depth 12", "pyvorin_edge_queue_bytes 4096", "pyvorin_edge_readings_total 2160", "pyvorin_edge_privacy_dropped_total 3",
		"pyvorin_edge_cloud_sent_today 1500", `pyvorin_edge_sensor_value{sensor="temp-01",type="temperature",unit="C"} 21.5`,
	} {
		if !strings.Contains(body, "\n"+line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
	for _, name := range []string{"pyvorin_edge_cpu_usage_ratio ", "pyvorin_edge_disk_usage_ratio ", "pyvorin_edge_queue_oldest_age_seconds ", "go_goroutines ", `pyvorin_edge_sensor_age_seconds{sensor="temp-02"}`} {
		if !strings.Contains(body, "\n"+name) {
			t.Errorf("no %s", name)
		}
	}
	if strings.Contains(body, `pyvorin_edge_sensor_value{sensor="temp-02"`) {
		t.Error("a bad value is exported")
	}
	problems, err := promlint.New(strings.NewReader(body)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// TestMetricsBounded has more sensors than are kept, all of them hostile.
func TestMetricsBounded(t *testing.T) {
	o := testOptions(t)
	o.Live = NewLive()
	for i := range 2 * liveSensors {
		o.Live.Add(cleared(t, number(fmt.Sprintf("%d\"}\n\xff", i), 1)))
	}
	s := start(t, o)
	status, body := get(t, tcpClient(t), fmt.Sprintf("http://%s/metrics", s.Addr()))
	if n := strings.Count(body, "\npyvorin_edge_sensor_value{"); status != 200 || n != liveSensors {
		t.Errorf("%d, %d sensors", status, n)
	}
	if want := fmt.Sprintf("\npyvorin_edge_live_omitted_total %d\n", liveSensors); !strings.Contains(body, want) {
		t.Errorf("no %s", want)
	}
}

// metricsText returns the metrics of a Server on an idle machine.
func metricsText(t *testing.T, o Options) string {
	t.Helper()
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	m := exampleMetrics()
	s.machine.current.Store(&m)
	var b bytes.Buffer
	s.writeMetrics(promtext.NewWriter(&b))
	return b.String()
}

// TestMetricsStay proves that no metric that dashboards may rest on is gone, or
// means something else: testdata/metrics.txt has what was promised.
func TestMetricsStay(t *testing.T) {
	o := testOptions(t)
	o.Live = NewLive()
	o.Live.Add(cleared(t, number("temp-01", 21.5)))
	body := metricsText(t, o)
	promised, err := os.ReadFile("testdata/metrics.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(promised)) {
		if !strings.Contains("\n"+body, "\n"+line) {
			t.Errorf("no line %s", line)
		}
	}
}

// TestMetricsReadBack has Prometheus' own parser read the answer.
func TestMetricsReadBack(t *testing.T) {
	const hostile = "a\"b\\c\nd} 1\xff"
	o := testOptions(t)
	o.Live = NewLive()
	o.Live.Add(cleared(t, number(hostile, -1e300)))
	body := metricsText(t, o)
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	values := families["pyvorin_edge_sensor_value"].GetMetric()
	if len(values) != 1 || values[0].GetGauge().GetValue() != -1e300 || values[0].GetLabel()[0].GetValue() != strings.ToValidUTF8(hostile, "\uFFFD") {
		t.Errorf("values of sensors: %v", values)
	}
	pauses := families["go_gc_duration_seconds"].GetMetric()
	if len(pauses) != 1 || len(pauses[0].GetSummary().GetQuantile()) != 5 || pauses[0].GetSummary().SampleCount == nil {
		t.Errorf("pauses: %v", pauses)
	}
	for name, family := range families {
		if m := family.GetMetric()[0]; strings.HasSuffix(name, "_sys_bytes") && m.GetGauge().GetValue() <= 0 {
			t.Errorf("%s is %v", name, m.GetGauge().GetValue())
		}
	}
}

// TestMetricsCompressed asks as different clients do.
func TestMetricsCompressed(t *testing.T) {
	s := start(t, testOptions(t))
	for accepted, want := range map[string]bool{
		"identity": false, "gzip": true, "zstd, GZIP;q=0.5": true, "gzip; q=0": false, "gzip;q=much": false, "gzipped": false,
	} {
		req, err := http.NewRequest("GET", fmt.Sprintf("http://%s/metrics", s.Addr()), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept-Encoding", accepted)
		resp, err := tcpClient(t).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var body io.Reader = resp.Body
		if want {
			if body, err = gzip.NewReader(resp.Body); err != nil {
				t.Fatalf("%q: %v", accepted, err)
			}
		}
		text, err := io.ReadAll(body)
		resp.Body.Close()
		if err != nil || !strings.HasPrefix(string(text), "# HELP ") || (resp.Header.Get("Content-Encoding") == "gzip") != want {
			t.Errorf("%q: %v, %.20q, %v", accepted, resp.Header, text, err)
		}
		if got := resp.Header.Get("Content-Type"); got != "text/plain; version=0.0.4; charset=utf-8" {
			t.Errorf("%q: %s", accepted, got)
		}
	}
}

// TestMetricsScrapedAtOnce must neither fail nor race.
func TestMetricsScrapedAtOnce(t *testing.T) {
	s := start(t, testOptions(t))
	client := tcpClient(t)
	codes := make(chan int)
	for range 12 {
		go func() {
			resp, err := client.Get(fmt.Sprintf("http://%s/metrics", s.Addr()))
			if err != nil {
				codes <- 0
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			codes <- resp.StatusCode
		}()
	}
	for range 12 {
		if code := <-codes; code != 200 {
			t.Errorf("answer %d", code)
		}
	}
}
