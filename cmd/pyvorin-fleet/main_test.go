package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/pyvorin/pyvorin-edge/internal/cli"
)

// asProgram makes the test binary the program.
const asProgram = "PYVORIN_FLEET_TEST_PROGRAM"

// TestMain also lets the scripts in testdata/script run this program as a
// command.
func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	testscript.Main(m, map[string]func(){"pyvorin-fleet": main})
}

func TestUsageErrors(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct{ args, want string }{
		{"", "a verb is missing"},
		{"nonsense", "nonsense"},
		{"serve extra", "extra"},
		{"serve --listen", "--listen"},
		{"serve --listen 8090 --data " + dir, "host:port"},
		{"serve --database postgres://db/fleet", "SQLite"},
		{"serve --retention 0s --data " + dir, "--retention"},
		{"serve --tls-cert cert.pem --data " + dir, "TLS needs both"},
	} {
		err := run(context.Background(), strings.Fields(tt.args), nil, io.Discard, io.Discard)
		if err == nil || cli.ExitCode(err) != cli.ExitUsage || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: %v; want a usage error with %q", tt.args, err, tt.want)
		}
	}
}

// process is a running `pyvorin-fleet serve`.
type process struct {
	*exec.Cmd
	printed string // up to the line that names the database
	stderr  *bytes.Buffer
	url     string // of the page
	exited  chan error
}

func serve(t *testing.T, args ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(os.Args[0], append([]string{"serve"}, args...)...), stderr: &bytes.Buffer{}, exited: make(chan error, 1)}
	p.Env = append(os.Environ(), asProgram+"=1")
	p.Stderr = p.stderr
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		p.printed += lines.Text() + "\n"
		if name, value, _ := strings.Cut(strings.TrimSpace(lines.Text()), " "); name == "page" {
			p.url = strings.TrimSpace(value)
		} else if name == "database" {
			break
		}
	}
	go func() { p.exited <- p.Wait() }()
	t.Cleanup(func() { _ = p.Process.Kill() })
	return p
}

// wait returns how the process ended.
func (p *process) wait(t *testing.T) error {
	t.Helper()
	select {
	case err := <-p.exited:
		return err
	case <-time.After(8 * time.Second): // less than the shutdown deadline
		t.Fatal("the process does not end")
		return nil
	}
}

func TestServe(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	p := serve(t, "--listen", "127.0.0.1:0", "--data", data)
	keyFile := filepath.Join(data, "api-keys")
	for _, want := range []string{p.url + "v1/ingest", keyFile + " (created", filepath.Join(data, "fleet.db")} {
		if !strings.Contains(p.printed, want) {
			t.Errorf("%q is not in %q", want, p.printed)
		}
	}
	res, err := http.Get(p.url)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("the page: %v, %v", res, err)
	}
	res.Body.Close()

	second := serve(t, "--listen", strings.TrimSuffix(strings.Replace(p.url, "http://localhost", "127.0.0.1", 1), "/"), "--data", data)
	var exit *exec.ExitError
	if err := second.wait(t); !errors.As(err, &exit) || exit.ExitCode() != cli.ExitFailure {
		t.Errorf("a second controller on the same port ended with %v", err)
	}
	if text := second.stderr.String(); !strings.Contains(text, "pyvorin-fleet: port in use") || !strings.Contains(text, "--listen") {
		t.Errorf("a second controller said %q", text)
	}

	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.wait(t); err != nil {
		t.Errorf("SIGTERM ended it with %v: %s", err, p.stderr)
	}
	key, err := os.ReadFile(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	if text := p.printed + p.stderr.String(); strings.Contains(text, strings.TrimSpace(string(key))) {
		t.Error("the API key was printed or logged")
	}
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	data := t.TempDir()
	p := serve(t, "--listen", "127.0.0.1:0", "--data", data)
	key, err := os.ReadFile(filepath.Join(data, "api-keys"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", strings.TrimSuffix(strings.Replace(p.url, "http://localhost", "127.0.0.1", 1), "/"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// The server asks for a body that never comes, which shows that the request is under way.
	fmt.Fprintf(conn, "POST /v1/ingest HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/x-ndjson\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n", bytes.TrimSpace(key))
	if reply, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(reply, "100 Continue") {
		t.Fatalf("%q, %v", reply, err)
	}
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	// The first signal closes the port; a little later the next one is final.
	for refused := false; !refused; {
		other, err := net.Dial("tcp", conn.RemoteAddr().String())
		if refused = err != nil; !refused {
			other.Close()
		}
	}
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline) && len(p.exited) == 0; time.Sleep(20 * time.Millisecond) {
		_ = p.Process.Signal(syscall.SIGTERM)
	}
	if err := p.wait(t); err == nil {
		t.Error("the second signal waited for the request under way")
	}
}
