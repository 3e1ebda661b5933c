package agent

import (
	"net/http"

	"github.com/pyvorin/pyvorin-edge/syncqueue"
)

// api serves /api/ of the /health listener, which has checked who asks.
func (a *Agent) api() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g := a.generation()
		q := g.queue.Load()
		if q == nil {
			http.Error(w, errQueueClosed.Error(), http.StatusServiceUnavailable)
			return
		}
		syncqueue.API(q, g.flush).ServeHTTP(w, r)
	})
}
