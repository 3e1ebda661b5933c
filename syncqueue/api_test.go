package syncqueue_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/syncqueue"
)

func TestAPI(t *testing.T) {
	o := options(t.TempDir())
	q := open(t, o)
	enqueue(t, q, 250, config.PriorityNormal)
	b, _ := lease(t, q, syncqueue.Want{})
	for seq := uint64(1); seq <= 3; seq++ {
		if err := q.DeadLetter(context.Background(), b, seq, 422, "no"); err != nil {
			t.Fatal(err)
		}
	}
	ack(t, q, b)
	var flushErr error
	flushed := 0
	api := syncqueue.API(q, func(context.Context) error { flushed++; return flushErr })
	ask := func(method, path string) (int, string) {
		w := httptest.NewRecorder()
		api.ServeHTTP(w, httptest.NewRequest(method, path, nil))
		body, err := io.ReadAll(w.Result().Body)
		if err != nil {
			t.Fatal(err)
		}
		return w.Code, string(body)
	}
	for _, c := range []struct {
		method, path string
		code, lines  int
		has          string
	}{
		{"GET", "/api/queue/stats", 200, 1, `"depth":150`},
		{"GET", "/api/queue/stats", 200, 1, `"dead_letters":3`},
		{"GET", "/api/queue/peek", 200, 10, `"seq":101,`},
		{"GET", "/api/queue/peek?n=120", 200, 120, `"seq":220,`},
		{"GET", "/api/queue/peek?n=0", 400, 1, "1 to 1000"},
		{"GET", "/api/queue/peek?n=x", 400, 1, "1 to 1000"},
		{"GET", "/api/queue/export", 200, 150, `"seq":250,`},
		{"GET", "/api/queue/dead", 200, 1, `"seq":3,`},
		{"GET", "/api/queue/dead?limit=1", 200, 1, `"status":422`},
		{"POST", "/api/queue/dead/retry?seq=x", 400, 1, "not a sequence number"},
		{"POST", "/api/queue/dead/retry?seq=1&seq=2&seq=99", 200, 1, `{"retried":2}`},
		{"POST", "/api/queue/dead/retry", 200, 1, `{"retried":1}`},
		{"GET", "/api/queue/dead", 200, 1, `[]`},
		{"GET", "/api/queue/export", 200, 153, `"seq":1,`},
		{"POST", "/api/queue/flush", 200, 1, `{}`},
		{"GET", "/api/queue/flush", 405, 1, ""},
		{"POST", "/api/queue/export", 405, 1, ""},
	} {
		code, body := ask(c.method, c.path)
		if code != c.code || strings.Count(body, "\n") != c.lines || !strings.Contains(body, c.has) {
			t.Errorf("%s %s: %d, %d lines: %.300s", c.method, c.path, code, strings.Count(body, "\n"), body)
		}
	}
	flushErr = errors.New("the link is down")
	if code, body := ask("POST", "/api/queue/flush"); code != http.StatusInternalServerError || !strings.Contains(body, "link is down") || flushed != 2 {
		t.Errorf("%d %s", code, body)
	}
}

// A Reader sees the same as the queue itself, while it is open and afterwards.
func TestReader(t *testing.T) {
	o := options(t.TempDir())
	if _, err := syncqueue.OpenReader(o.Path); err == nil {
		t.Error("opened a queue that is not there")
	}
	q := open(t, o)
	enqueue(t, q, 120, config.PriorityNormal)
	b, _ := lease(t, q, syncqueue.Want{})
	ack(t, q, b)
	look := func(when string) {
		r, err := syncqueue.OpenReader(o.Path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		got, err := r.Stats(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if want := q.Stats(); got.Depth != want.Depth || got.Bytes != want.Bytes || !got.OldestAt.Equal(want.OldestAt) {
			t.Errorf("%s: %+v, the queue says %+v", when, got, want)
		}
		var out strings.Builder
		if skipped, err := r.Export(context.Background(), &out, 0); skipped != 0 || err != nil {
			t.Errorf("%s: export: %d, %v", when, skipped, err)
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		for i, line := range lines {
			if !json.Valid([]byte(line)) || !strings.Contains(line, fmt.Sprintf(`"seq":%d,`, 101+i)) {
				t.Fatalf("%s: line %d: %s", when, i, line)
			}
		}
		if len(lines) != 20 {
			t.Errorf("%s: %d lines", when, len(lines))
		}
	}
	look("open")
	shut(t, q)
	look("closed")
}
