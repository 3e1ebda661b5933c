package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/pyvorin/pyvorin-edge/wire"
)

// errNoAgent says that nobody listens on the agent's socket.
var errNoAgent = errors.New("no agent runs in this base dir (another one? see --base-dir)")

// callAgent makes a request to the running agent over its unix socket. The
// error is errNoAgent when none runs; the caller closes the answer's body.
func (a *app) callAgent(ctx context.Context, method, path string) (*http.Response, error) {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", a.socketPath())
	}
	transport := &http.Transport{DialContext: dial, DisableKeepAlives: true}
	req, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := transport.RoundTrip(req)
	switch {
	case errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED):
		return nil, errNoAgent
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("the agent's socket is not for this user: %w (try sudo)", err)
	case err != nil:
		return nil, fmt.Errorf("ask the agent: %w", err)
	}
	return resp, nil
}

// agentHealth asks the running agent for its /health document.
func (a *app) agentHealth(ctx context.Context) (wire.Health, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	resp, err := a.callAgent(ctx, http.MethodGet, "/health") // 503 comes with a document too
	if err != nil {
		return wire.Health{}, err
	}
	defer resp.Body.Close()
	var d wire.Health
	if err := json.NewDecoder(resp.Body).Decode(&d); err != nil {
		return d, fmt.Errorf("read the agent's /health: %w", err)
	}
	return d, nil
}
