package ingest

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rs/zerolog"

	"github.com/pyvorin/pyvorin-edge/wire"
)

const (
	childDatabase = "INGEST_TEST_DATABASE" // makes the test binary a server with that database
	childDies     = "INGEST_TEST_DIES"     // and makes it die after its first commit
)

// dying is a power cut between a commit and its answer.
type dying struct{ *Store }

func (d dying) Add(ctx context.Context, device string, rs []wire.Reading) (Result, error) {
	if _, err := d.Store.Add(ctx, device, rs); err != nil {
		return Result{}, err
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

func serveAsChild(path string) {
	fail := func(err error) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	s, err := OpenStore(path, StoreOptions{Log: zerolog.Nop()})
	if err != nil {
		fail(err)
	}
	go s.Run(context.Background())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fail(err)
	}
	var store Adder = s
	if os.Getenv(childDies) != "" {
		store = dying{s}
	}
	fmt.Println(listener.Addr())
	fail(http.Serve(listener, NewHandler(store, testKeys{}, Limits{}, zerolog.Nop())))
}

func startChild(t *testing.T, path string, dies bool) (url string) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childDatabase+"="+path)
	if dies {
		child.Env = append(child.Env, childDies+"=1")
	}
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = child.Process.Kill()
		_ = child.Wait()
	})
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal("the child did not start: ", err)
	}
	return "http://" + strings.TrimSpace(addr)
}

func TestKilledBetweenCommitAndAnswer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fleet.db")
	for round := uint64(0); round < 3; round++ {
		batch := ndjson(readings("d", round*50+1, round*50+100)...)
		if answer := send(t, startChild(t, path, true), batch, nil); answer.status != 0 {
			t.Fatalf("the dying server answered %+v", answer)
		}
	}
	url := startChild(t, path, false)
	if answer := send(t, url, ndjson(readings("d", 101, 200)...), nil); answer.status != 200 || answer.Accepted != 0 || answer.Duplicates != 100 {
		t.Errorf("the retry was answered %+v; want 100 duplicates", answer)
	}
	s, _ := runStore(t, path)
	if d := onlyDevice(t, s); d.Received != 200 || d.Duplicates != 200 || d.Missing != 0 {
		t.Errorf("device %+v; want 200 received, 50+50+100 duplicates", d)
	}
}
