package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"soniq/internal/pause"
)

// A process is a program that the drill runs. Its pid stands in a file, so that .ci/ha can end
// it should the drill be killed.
type process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// bench is where the programs of a drill run: a folder with their files and logs.
type bench struct {
	dir string
	// server is the user of the database's programs, who may not be root.
	server *syscall.Credential
	// env is the environment without anything about other databases.
	env []string
}

func newBench(dir string) (*bench, error) {
	b := &bench{dir: dir}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "PG") && !strings.HasPrefix(kv, "SONIQ_") && !strings.HasPrefix(kv, "DATABASE_URL=") &&
			!strings.HasPrefix(kv, "PATRONI_") && !strings.HasPrefix(kv, "ETCD_") {
			b.env = append(b.env, kv)
		}
	}
	for _, sub := range []string{"run", "log"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	if os.Getuid() != 0 {
		return b, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
	gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(uidErr, gidErr); err != nil {
		return nil, err
	}
	b.server = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return b, nil
}

// ownedByServer gives a file or folder to the user of the database's programs.
func (b *bench) ownedByServer(path string) error {
	if b.server == nil {
		return nil
	}
	return os.Chown(path, int(b.server.Uid), int(b.server.Gid))
}

// command is a program with the drill's environment. As the server's user if asServer.
func (b *bench) command(asServer bool, argv ...string) *exec.Cmd {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = b.dir, b.env
	// A group of its own: Ctrl-C is for the drill, which ends the others in good order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if asServer {
		cmd.SysProcAttr.Credential = b.server
	}
	return cmd
}

// start runs a program until it is ended. Its output is appended to log/NAME.log.
func (b *bench) start(name string, cmd *exec.Cmd) (*process, error) {
	log, err := os.OpenFile(filepath.Join(b.dir, "log", name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	if cmd.Stdout == nil {
		cmd.Stdout = log
	}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	pid := []byte(strconv.Itoa(cmd.Process.Pid) + "\n")
	if err := os.WriteFile(filepath.Join(b.dir, "run", name+".pid"), pid, 0o644); err != nil {
		return nil, errors.Join(err, cmd.Process.Kill())
	}
	p := &process{name: name, cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		_ = cmd.Wait()
	}()
	return p, nil
}

// running reports whether the program has not ended.
func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// end sends a signal, and kills what has not ended after patience.
func (p *process) end(signal syscall.Signal, patience time.Duration) {
	if p == nil || !p.running() {
		return
	}
	_ = p.cmd.Process.Signal(signal)
	select {
	case <-p.done:
	case <-time.After(patience):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// output runs a program to its end, and returns what it printed.
func (b *bench) output(ctx context.Context, cmd *exec.Cmd) (string, error) {
	defer context.AfterFunc(ctx, func() {
		if cmd.Process != nil {
			_ = cmd.Process.Kill()
		}
	})()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, out)
	}
	return string(out), nil
}

// childrenOf lists the processes whose parent is pid.
func childrenOf(pid int) (children []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// After the name, which is in brackets: state and parent.
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(pid) {
			if child, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
				children = append(children, child)
			}
		}
	}
	return children
}

// gone waits until none of the processes is there.
func gone(ctx context.Context, pids []int) error {
	return until(ctx, 10*time.Second, "the end of killed processes", func(context.Context) error {
		for _, pid := range pids {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if err == nil && !strings.Contains(string(stat), ") Z ") {
				return fmt.Errorf("process %d is still there", pid)
			}
		}
		return nil
	})
}

// until asks again and again until there is no error, for as long as patience.
func until(ctx context.Context, patience time.Duration, what string, ask func(context.Context) error) error {
	deadline := time.Now().Add(patience)
	for {
		one, cancel := context.WithTimeout(ctx, 30*time.Second)
		err := ask(one)
		cancel()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: not within %s: %w", what, patience, err)
		}
		if err := pause.For(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// freeAddress is an address on loopback that nobody listens on, and that the system gives to
// nobody who doesn't ask for it: a node that is down must find it free.
func freeAddress() (string, error) {
	for range 1000 {
		address := fmt.Sprintf("127.0.0.1:%d", 20000+rand.IntN(12000))
		if listener, err := net.Listen("tcp", address); err == nil {
			return address, listener.Close()
		}
	}
	return "", errors.New("no free port between 20000 and 32000")
}

func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}
