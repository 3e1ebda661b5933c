package watchdog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pyvorin/pyvorin-edge/ota"
	"github.com/pyvorin/pyvorin-edge/wire"
)

// Probe asks a component how it is.
type Probe interface {
	// Look returns what the process pid says of itself, or an error when it
	// does not answer. It ends soon after ctx.
	Look(ctx context.Context, pid int) (Report, error)
}

// Report is what a component says of itself.
type Report struct {
	Version        string // "" where it does not say
	Checks         map[string]wire.CheckState
	CloudGood      bool // deliveries work, or were not needed yet
	CloudProven    bool // one did since it was started
	FleetConnected bool
}

// Baseline returns what of r a trial must keep.
func (r Report) Baseline() *ota.Baseline {
	b := &ota.Baseline{CloudGood: r.CloudGood && r.CloudProven, FleetConnected: r.FleetConnected, Checks: []string{}}
	for name, state := range r.Checks {
		if state == wire.CheckOK {
			b.Checks = append(b.Checks, name)
		} else {
			b.Unwell = append(b.Unwell, name)
		}
	}
	slices.Sort(b.Checks)
	slices.Sort(b.Unwell)
	return b
}

const (
	lookTimeout    = 3 * time.Second
	maxHealthBytes = 1 << 20
	maxHeaderBytes = 16 << 10

	// What a report may have is kept in the state, so it is bounded too.
	maxChecks     = 128
	maxCheckBytes = 128
)

// Agent is the Probe of an agent: the /health document on its unix socket. It
// believes only the process that the service manager started, so that a
// leftover of the version before cannot answer for the one on trial.
type Agent struct{ Socket string }

// Look implements Probe.
func (a Agent) Look(ctx context.Context, pid int) (Report, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	transport := &http.Transport{
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: maxHeaderBytes,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, "unix", a.Socket)
			if err != nil {
				return nil, err
			}
			if peer, err := peerOf(conn); err != nil || pid != 0 && peer != pid {
				conn.Close()
				return nil, errors.Join(err, fmt.Errorf("process %d answers, not %d", peer, pid))
			}
			return conn, nil
		},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/health", nil)
	if err != nil {
		return Report{}, err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return Report{}, fmt.Errorf("ask for health: %w", err)
	}
	defer resp.Body.Close()
	var h wire.Health
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxHealthBytes)).Decode(&h); err != nil {
		return Report{}, fmt.Errorf("ask for health: the answer is not valid: %w", err)
	}
	if err := checkHealth(&h); err != nil {
		return Report{}, fmt.Errorf("ask for health: %w", err)
	}
	return reportOf(&h, time.Now()), nil
}

func checkHealth(h *wire.Health) error {
	if h.Version == "" {
		return errors.New("the answer has no version")
	}
	if len(h.Checks) > maxChecks {
		return fmt.Errorf("the answer has more than %d checks", maxChecks)
	}
	for name := range h.Checks {
		if len(name) > maxCheckBytes {
			return fmt.Errorf("the answer has a check whose name has more than %d bytes", maxCheckBytes)
		}
	}
	return nil
}

// reportOf sums up a health document of now.
func reportOf(h *wire.Health, now time.Time) Report {
	// The queue remembers the last delivery across restarts. It proves something
	// only of the process that made it.
	began := now.Add(-time.Duration(h.UptimeSeconds+1) * time.Second)
	return Report{
		Version:        h.Version,
		Checks:         h.Checks,
		CloudGood:      h.Cloud.Enabled && h.Cloud.LastError == nil && h.Cloud.Paused == "",
		CloudProven:    h.Cloud.LastFlushTime != nil && h.Cloud.LastFlushTime.After(began),
		FleetConnected: h.Fleet.Connected,
	}
}

// peerOf returns the process at the other end.
func peerOf(conn net.Conn) (int, error) {
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, credErr); err != nil {
		return 0, fmt.Errorf("find out who answers: %w", err)
	}
	return int(cred.Pid), nil
}

// checkUp is the one check of an application that has a probe.
const checkUp = "up"

// Endpoint is the Probe of an application: an http or https URL that answers
// 2xx, or the address of a TCP port that accepts. An empty one asks nothing:
// then it is enough that the process runs.
type Endpoint struct {
	URL string
	TCP string
}

// Look implements Probe.
func (e Endpoint) Look(ctx context.Context, _ int) (Report, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	var err error
	switch {
	case e.URL != "":
		err = e.get(ctx)
	case e.TCP != "":
		var conn net.Conn
		if conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", e.TCP); err == nil {
			err = conn.Close()
		}
	default:
		return Report{}, nil
	}
	if err != nil {
		return Report{}, fmt.Errorf("probe: %w", err)
	}
	return Report{Checks: map[string]wire.CheckState{checkUp: wire.CheckOK}}, nil
}

func (e Endpoint) get(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.URL, nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: maxHeaderBytes}).RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}
