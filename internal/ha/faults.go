package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"soniq/internal/pause"
)

// A fault is a way to break the cluster.
type fault struct {
	name string
	// inject breaks it, and returns once the database can be had again: what comes after that
	// moment must flow. mend makes the cluster whole again.
	inject func(ctx context.Context, d *drill, n int, old *node) error
	mend   func(ctx context.Context, d *drill, old *node) error
	// loses: what the old primary had alone is lost.
	loses bool
}

// patience is how long anything may take. It is for busy machines; what it took is reported.
const patience = 3 * time.Minute

var faults = []fault{
	{name: "kill", inject: kill, mend: revive, loses: true},
	{name: "crash", inject: crash},
	{name: "switchover", inject: switchover},
	{name: "partition", inject: partition, mend: heal, loses: true},
	{name: "pgbouncer", inject: restartPooler},
}

// behind is for how long the standbys of every other killed primary have heard nothing.
const behind = 500 * time.Millisecond

// kill ends a whole machine with kill -9: Patroni, the server and each of its processes. Every other
// time the standbys are behind: asynchronous ones have not what was acknowledged last.
func kill(ctx context.Context, d *drill, n int, old *node) error {
	postmaster := old.postmaster()
	if postmaster == 0 {
		return errors.New("the primary has no server")
	}
	if n%2 == 1 {
		if err := holdBack(ctx, postmaster); err != nil {
			return err
		}
	}
	_ = old.patroni.cmd.Process.Kill()
	if err := killServer(ctx, postmaster); err != nil {
		return err
	}
	return d.promoted(ctx, old)
}

// holdBack stops the processes of a server that send to standbys, for a while.
func holdBack(ctx context.Context, postmaster int) error {
	held := 0
	for _, pid := range childrenOf(postmaster) {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && strings.Contains(string(line), "walsender") && syscall.Kill(pid, syscall.SIGSTOP) == nil {
			held++
		}
	}
	if held < nodes-1 {
		return fmt.Errorf("%d processes send to standbys, want %d", held, nodes-1)
	}
	return pause.For(ctx, behind)
}

// killServer stops the postmaster first, so that it starts nothing more.
func killServer(ctx context.Context, postmaster int) error {
	if err := syscall.Kill(postmaster, syscall.SIGSTOP); err != nil {
		return err
	}
	all := append(childrenOf(postmaster), postmaster)
	for _, pid := range all {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	return gone(ctx, all)
}

// revive starts the killed machine again, once its log was read.
func revive(ctx context.Context, d *drill, old *node) error {
	<-old.patroni.done
	lost, err := d.ofTheDead(ctx, old, d.viaHAProxy(), d.since)
	if err != nil {
		return err
	}
	d.lose(lost)
	return d.startPatroni(old)
}

// crash ends the server alone with kill -9. Its Patroni has it recover where it was, and promotes it
// again, on a timeline of its own.
func crash(ctx context.Context, d *drill, _ int, old *node) error {
	postmaster := old.postmaster()
	if postmaster == 0 {
		return errors.New("the primary has no server")
	}
	if err := killServer(ctx, postmaster); err != nil {
		return err
	}
	return until(ctx, patience, "the restart of the server", func(ctx context.Context) error {
		if now := old.postmaster(); now == postmaster || now == 0 {
			return errors.New("it has not started")
		}
		_, err := d.leader(ctx)
		return err
	})
}

// switchover is one that an operator asks for.
func switchover(ctx context.Context, d *drill, _ int, old *node) error {
	err := until(ctx, patience, "a switchover", func(ctx context.Context) error {
		return send(ctx, http.MethodPost, "http://"+old.rest+"/switchover", map[string]string{"leader": old.name})
	})
	if err != nil {
		return err
	}
	return d.promoted(ctx, old)
}

// partition cuts the primary off from all others: clients, standbys, HAProxy's checks and etcd.
func partition(ctx context.Context, d *drill, _ int, old *node) error {
	for _, l := range old.links() {
		l.freeze()
	}
	return d.promoted(ctx, old)
}

// heal lets the old primary be one of them again, once it takes no writes and its log was read.
func heal(ctx context.Context, d *drill, old *node) error {
	var lost loss
	err := until(ctx, patience, "the end of the cut-off primary's reign", func(ctx context.Context) (err error) {
		var standby bool
		if err := query(ctx, old.direct(), "select pg_is_in_recovery()", []any{&standby}); err != nil {
			return err
		}
		if !standby {
			return fmt.Errorf("%s still takes writes", old.name)
		}
		lost, err = compare(ctx, old.direct(), d.viaHAProxy(), d.since)
		return err
	})
	for _, l := range old.links() {
		l.thaw()
	}
	if err != nil {
		return err
	}
	d.lose(lost)
	return nil
}

// restartPooler ends PgBouncer, in turns as an operator does and with kill -9.
func restartPooler(ctx context.Context, d *drill, n int, _ *node) error {
	signal := syscall.SIGTERM
	if n%2 == 1 {
		signal = syscall.SIGKILL
	}
	d.pooler.restart(signal)
	return until(ctx, patience, "PgBouncer", func(ctx context.Context) error {
		return execute(ctx, d.viaPgBouncer(), "")
	})
}

// promoted waits until another node is the primary, and HAProxy leads to it.
func (d *drill) promoted(ctx context.Context, old *node) error {
	return until(ctx, patience, "another primary", func(ctx context.Context) error {
		if _, err := d.leader(ctx, old); err != nil {
			return err
		}
		now, err := timeline(ctx, d.viaHAProxy())
		if err == nil && now <= d.timeline {
			err = fmt.Errorf("the primary is on timeline %d", now)
		}
		return err
	})
}
