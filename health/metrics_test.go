package health

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

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
	problems, err := testutil.GatherAndLint(s.registry())
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

// TestMetricsScrapedAtOnce must neither fail nor race; those beyond the bound
// are told to come back.
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
	seen := map[int]int{}
	for range 12 {
		seen[<-codes]++
	}
	for _, code := range slices.Collect(maps.Keys(seen)) {
		if code != 200 && code != 503 || seen[200] == 0 {
			t.Errorf("answers %v", seen)
		}
	}
}
