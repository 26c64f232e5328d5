package devdb

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"soniq/internal/eventually"
)

func TestAcquire_manyProcesses_shareOneServerAndLastOneStopsIt(t *testing.T) {
	t.Parallel()
	dir := folder(t) // the first one makes the database
	var holders []*holder
	for range 4 {
		holders = append(holders, startHolder(t, dir))
	}
	for _, h := range holders {
		h.await(t)
		if h.url != holders[0].url {
			t.Fatalf("two servers: %s and %s", h.dir, holders[0].dir)
		}
	}
	pid := serverPID(t, dir)
	for _, h := range holders[1:] {
		h.finish(t)
		query(t, holders[0].url, `select 'still there'`)
	}
	holders[0].finish(t)
	if alive(pid) {
		t.Errorf("server %d outlives its last holder's Close", pid)
	}
	if exists(dir, "dev", "data", "postmaster.pid") {
		t.Error("the server was not shut down in good order")
	}
}

func TestAcquire_holderKilled_serverStaysForOthersAndEndsWithTheLast(t *testing.T) {
	t.Parallel()
	dir := initialised(t)
	first, second := startHolder(t, dir), startHolder(t, dir)
	first.await(t)
	second.await(t)
	pid := serverPID(t, dir)

	first.kill()
	lease := acquireIn(t, dir)
	if now := serverPID(t, dir); now != pid {
		t.Fatalf("server %d was replaced by %d", pid, now)
	}
	must(t, lease.Close())
	query(t, second.url, `select 'still there'`)

	second.kill()
	eventually.True(t, "the server ends after its last holder was killed", func() bool { return !alive(pid) })
}

func TestAcquire_serverCrashed_startsAgainOnSameDataAndPort(t *testing.T) {
	t.Parallel()
	dir := initialised(t)
	old := acquireIn(t, dir)
	memory := remember(t, old.URL())
	pid := serverPID(t, dir)

	must(t, syscall.Kill(pid, syscall.SIGKILL))
	eventually.True(t, "the server is gone", func() bool { return !alive(pid) })
	if !exists(dir, "dev", "data", "postmaster.pid") {
		t.Fatal("the crash left no pid file: the test tests nothing")
	}

	// The old lease is still held, and its watchdog with it.
	lease := acquireIn(t, dir)
	if lease.URL() != old.URL() {
		t.Error("another URL after a restart")
	}
	if !remembers(t, old.URL(), memory) {
		t.Error("data was lost")
	}
	pid = serverPID(t, dir)
	must(t, old.Close())
	if !alive(pid) {
		t.Error("the old watchdog stopped the new server")
	}
	must(t, lease.Close())
	must(t, lease.Close()) // once more does nothing
	if alive(pid) {
		t.Error("the server outlives its last holder's Close")
	}
}

func TestAcquire_watchdogKilled_serverIsReplaced(t *testing.T) {
	t.Parallel()
	dir := initialised(t)
	acquireIn(t, dir)
	pid := serverPID(t, dir)
	must(t, syscall.Kill(parent(t, pid), syscall.SIGKILL))

	lease := acquireIn(t, dir)
	if alive(pid) {
		t.Error("a server without a watchdog was left alone")
	}
	query(t, lease.URL(), `select 'a new one'`)
}

func TestAcquire_serverIsOutOfReachOfTheTerminal(t *testing.T) {
	t.Parallel()
	dir := initialised(t)
	acquireIn(t, dir)
	server := serverPID(t, dir)
	ours, err := unix.Getsid(0)
	must(t, err)
	for _, pid := range []int{server, parent(t, server)} {
		theirs, err := unix.Getsid(pid)
		must(t, err)
		if theirs == ours {
			t.Errorf("process %d is in this session", pid)
		}
	}
}

func parent(t *testing.T, pid int) int {
	t.Helper()
	out, err := exec.Command("ps", "-o", "ppid=", "-p", strconv.Itoa(pid)).Output()
	must(t, err)
	ppid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	must(t, err)
	return ppid
}

func TestAcquire_stalePidFileOfAnotherProgram_isOvercome(t *testing.T) {
	t.Parallel()
	dir := initialised(t)
	pidFile := filepath.Join(dir, "dev", "data", "postmaster.pid")
	// The pid of the crashed server is this process's by now.
	stale := strconv.Itoa(os.Getpid()) + "\n" + filepath.Dir(pidFile) + "\n"
	must(t, os.WriteFile(pidFile, []byte(stale), 0o600))
	query(t, acquireIn(t, dir).URL(), `select 'it runs'`)
}

// Joining and leaving at any moment: a lease must be good from Acquire to
// Close, however the server comes and goes.
func TestAcquire_hammered_leaseIsAlwaysGood(t *testing.T) {
	t.Parallel()
	dir := initialised(t)
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for round := range 6 {
				lease, err := Acquire(t.Context(), Options{Dir: dir, Fast: true})
				if err != nil {
					t.Errorf("worker %d, round %d: %v", worker, round, err)
					return
				}
				if _, err := tryQuery(t.Context(), lease.URL(), `select 'good'`); err != nil {
					t.Errorf("worker %d, round %d: %v", worker, round, err)
				}
				// Some let go as a killed process does.
				if (worker+round)%3 == 0 {
					lease.users.release()
					if err := lease.pipe.Close(); err != nil {
						t.Error(err)
					}
				} else if err := lease.Close(); err != nil {
					t.Errorf("worker %d, round %d: %v", worker, round, err)
				}
			}
		})
	}
	wg.Wait()
	eventually.True(t, "the server ends", func() bool { return serverPID(t, dir) == 0 })
}

func TestAcquire_contextOver_returnsAtOnce(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	must(t, os.Mkdir(filepath.Join(dir, "dev"), 0o711))
	lock, err := lockFile(t.Context(), filepath.Join(dir, "dev", "start.lock"), exclusive)
	must(t, err)
	defer lock.release()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := Acquire(ctx, Options{Dir: dir}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want a deadline", err)
	}
}

func TestAcquire_contextOverWhileInitialising_leavesNothingRunning(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := Acquire(ctx, Options{Dir: dir, Fast: true})
		done <- err
	}()
	fresh := filepath.Join(dir, "dev", "data.new-")
	eventually.True(t, "initdb runs", func() bool {
		found, err := filepath.Glob(fresh + "*/base")
		return err == nil && len(found) > 0
	})
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want cancelled", err)
	}
	eventually.True(t, "initdb and its children are gone", func() bool {
		return !slices.ContainsFunc(processes(t), func(line string) bool { return strings.Contains(line, fresh) })
	})
	// What it left is no obstacle.
	query(t, acquireIn(t, dir).URL(), `select 'it runs'`)
}

func processes(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	var lines []string
	for _, file := range files {
		if line, err := os.ReadFile(file); err == nil {
			lines = append(lines, string(line))
		}
	}
	return lines
}

func TestAcquire_badName_isRefused(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"..", ".", "a/b", "/"} {
		if _, err := Acquire(t.Context(), Options{Dir: t.TempDir(), Name: name}); err == nil {
			t.Errorf("name %q was accepted", name)
		}
	}
}
