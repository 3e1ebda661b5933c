// Command bad is a release of the agent that passes its selftest and is bad in
// one of the ways in which releases are.
package main

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/pyvorin/pyvorin-edge/wire"
)

// What it is, and how it is bad: from the files beside it.
var version, mode string

func main() {
	if len(os.Args) > 1 && os.Args[1] != "run" {
		return // a selftest that tests nothing, and a watchdog that watches nothing
	}
	exe, _ := os.Executable()
	for name, to := range map[string]*string{"version": &version, "mode": &mode} {
		data, _ := os.ReadFile(filepath.Join(filepath.Dir(exe), name))
		*to = string(data)
	}
	base := os.Args[slices.Index(os.Args, "--base-dir")+1]
	switch mode {
	case "exits":
		os.Exit(1)
	case "refuses-config":
		os.Exit(78)
	case "killed":
		syscall.Kill(os.Getpid(), syscall.SIGKILL) // as when memory ran out
	case "breaks-queue":
		garbage := []byte(strings.Repeat("no database ", 1000))
		for _, name := range []string{"sync_queue.db", "sync_queue.seq", "sync_queue.db-wal"} {
			os.WriteFile(filepath.Join(base, name), garbage, 0o600)
		}
		os.Exit(1)
	}
	var health atomic.Pointer[wire.Health]
	health.Store(document(wire.CheckOK))
	socket := filepath.Join(base, "run", "health.sock")
	os.MkdirAll(filepath.Dir(socket), 0o750)
	os.Remove(socket)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		os.Exit(1)
	}
	go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(health.Load())
	}))
	daemon.SdNotify(false, daemon.SdNotifyReady)
	for second := 0; ; second++ {
		daemon.SdNotify(false, daemon.SdNotifyWatchdog)
		time.Sleep(500 * time.Millisecond)
		switch {
		case mode == "crashes" && second == 1:
			panic("as it had to come")
		case mode == "hangs":
			select {} // and its port goes on answering
		case mode == "turns-critical" && second == 2:
			health.Store(document(wire.CheckCritical))
		}
	}
}

func document(queue wire.CheckState) *wire.Health {
	h := &wire.Health{Status: wire.Healthy, Version: version, Warnings: []string{}}
	if mode == "lies" {
		h.Version = "9.9.9"
	}
	h.Checks = map[string]wire.CheckState{}
	for _, name := range []string{"sensors", "queue", "cloud", "disk_space", "memory", "temperature", "fleet", "clock"} {
		h.Checks[name] = wire.CheckOK
	}
	h.Checks["queue"] = queue
	return h
}
