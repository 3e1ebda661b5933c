package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"

	"github.com/pyvorin/pyvorin-edge/config"
	"github.com/pyvorin/pyvorin-edge/internal/procgroup"

	"github.com/pyvorin/pyvorin-edge/internal/human"
)

const (
	maxProbeBody   = 64 << 10 // bytes of an answer that are searched for expect_body
	maxProbeOutput = 1 << 10  // bytes of a program's output that are kept
	maxProbeReason = 160      // runes of them that are shown
)

// checkOf returns the function behind a probe. It must return soon after its
// context ends; its error is shown to everybody who reads /health.
func checkOf(c config.Probe) (func(context.Context) error, error) {
	if c.Type == "exec" {
		if len(c.Command) == 0 {
			return nil, errors.New("an exec probe needs command = [program, arguments…]")
		}
		return func(ctx context.Context) error { return probeExec(ctx, c.Command) }, nil
	}
	if c.Target == "" {
		return nil, errors.New("target is missing")
	}
	switch c.Type {
	case "http":
		u, err := url.Parse(c.Target)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, fmt.Errorf("target %q is not a URL such as http://localhost:9000/health", c.Target)
		}
		return func(ctx context.Context) error { return probeHTTP(ctx, c) }, nil
	case "tcp":
		if _, _, err := net.SplitHostPort(c.Target); err != nil {
			return nil, fmt.Errorf("target %q is not host:port", c.Target)
		}
		return func(ctx context.Context) error { return probeTCP(ctx, c.Target) }, nil
	case "systemd":
		return func(ctx context.Context) error { return probeUnit(ctx, c.Target) }, nil
	case "file_age":
		return func(context.Context) error { return probeFileAge(c.Target, config.Seconds(c.MaxAgeSeconds)) }, nil
	}
	return nil, fmt.Errorf("unknown type %q: use http, tcp, exec, systemd or file_age", c.Type)
}

// probeClient follows no redirect, because a probe judges the answer of its
// own target, and keeps no connection, because a new one is part of the probe.
var probeClient = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func probeHTTP(ctx context.Context, c config.Probe) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.Target, nil)
	if err != nil {
		return err
	}
	resp, err := probeClient.Do(req)
	if err != nil {
		var wrapped *url.Error // names the URL, whose query may hold a secret
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return err
	}
	defer resp.Body.Close()
	if c.ExpectStatus != 0 && resp.StatusCode != c.ExpectStatus {
		return fmt.Errorf("answered %d instead of %d", resp.StatusCode, c.ExpectStatus)
	}
	if c.ExpectStatus == 0 && resp.StatusCode/100 != 2 {
		return fmt.Errorf("answered %d", resp.StatusCode)
	}
	if c.ExpectBody == "" {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxProbeBody))
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if !strings.Contains(string(body), c.ExpectBody) {
		return fmt.Errorf("the answer does not contain %q", c.ExpectBody)
	}
	return nil
}

func probeTCP(ctx context.Context, target string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", target)
	if err != nil {
		return err
	}
	return conn.Close()
}

// probeExec runs a program without a shell and with nothing of the agent's
// environment, which may hold secrets, but the means to find programs. Its
// process group is killed when time is up, and whatever it left running.
func probeExec(ctx context.Context, argv []string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = procgroup.Environ(nil)
	procgroup.Contain(cmd)
	cmd.WaitDelay = time.Second // for what left the group and holds the output open
	output := &headWriter{limit: maxProbeOutput}
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		return err
	}
	err := cmd.Wait()
	procgroup.End(cmd)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		return nil // the program itself ended well
	}
	if line := output.firstLine(); err != nil && line != "" {
		return fmt.Errorf("%w: %s", err, line)
	}
	return err
}

// headWriter keeps the first bytes written to it and takes the rest.
type headWriter struct {
	limit int
	head  []byte
}

func (w *headWriter) Write(p []byte) (int, error) {
	w.head = append(w.head, p[:min(len(p), w.limit-len(w.head))]...)
	return len(p), nil
}

// firstLine returns the first line in a form fit for a message.
func (w *headWriter) firstLine() string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(w.head)), "\n")
	line = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(line, "\uFFFD"))
	return clip(strings.TrimSpace(line), maxProbeReason)
}

// probeUnit asks systemd for the state of a unit.
func probeUnit(ctx context.Context, unit string) error {
	if !strings.Contains(unit, ".") {
		unit += ".service"
	}
	conn, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return fmt.Errorf("ask systemd over the system bus: %w", err)
	}
	defer conn.Close()
	props, err := conn.GetUnitPropertiesContext(ctx, unit)
	if err != nil {
		return fmt.Errorf("ask systemd for %s: %w", unit, err)
	}
	loaded, _ := props["LoadState"].(string)
	active, _ := props["ActiveState"].(string)
	return judgeUnit(unit, loaded, active)
}

func judgeUnit(unit, loaded, active string) error {
	switch {
	case loaded == "not-found":
		return fmt.Errorf("systemd knows no %s", unit)
	case active == "active" || active == "reloading":
		return nil
	}
	return fmt.Errorf("%s is %s", unit, active)
}

// probeFileAge fails when the file is absent or older than maxAge; with a
// maxAge of 0 it only has to be there.
func probeFileAge(path string, maxAge time.Duration) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if age := time.Since(info.ModTime()); maxAge > 0 && age > maxAge {
		return fmt.Errorf("%s is %s old (at most %s)", path, human.Duration(age), human.Duration(maxAge))
	}
	return nil
}
