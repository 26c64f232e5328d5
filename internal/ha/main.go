package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// options are the flags.
type options struct {
	dir, soniq, bin, kinds, modes string
	times, rate, ttl              int
}

func main() {
	var o options
	flag.StringVar(&o.dir, "dir", "", "an empty folder for all files")
	flag.StringVar(&o.soniq, "soniq", "", "the program soniq")
	flag.StringVar(&o.bin, "postgres", "/usr/lib/postgresql/15/bin", "the folder of PostgreSQL's programs")
	flag.StringVar(&o.kinds, "faults", "kill,crash,switchover,partition,pgbouncer", "which faults")
	flag.StringVar(&o.modes, "modes", "async,sync", "how the nodes replicate: async, sync or both")
	flag.IntVar(&o.times, "times", 20, "how often each fault is injected, in each mode")
	flag.IntVar(&o.rate, "rate", 60, "jobs a second")
	flag.IntVar(&o.ttl, "ttl", 10, "Patroni's ttl, in seconds")
	flag.Parse()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	signals, enough := make(chan os.Signal, 2), make(chan struct{})
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		fmt.Fprintln(os.Stderr, "ha: no more faults; once more gives up")
		close(enough)
		<-signals
		cancel()
	}()
	ok, err := run(ctx, o, enough, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "ha:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

// assemble prepares the cluster and all that uses it, and starts nothing.
func assemble(o options) (*load, error) {
	if o.dir == "" || o.soniq == "" || o.times < 1 || o.rate < 6 || o.ttl < 8 {
		return nil, errors.New("-dir and -soniq are needed, -times 1, -rate 6, -ttl 8 or more")
	}
	b, err := newBench(o.dir)
	if err != nil {
		return nil, err
	}
	c, err := newCluster(b, o.bin, o.ttl)
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(o.dir, "log", "producers.log"))
	if err != nil {
		return nil, err
	}
	slog.SetDefault(slog.New(slog.NewTextHandler(log, nil))) // until the program ends
	return newLoad(c, o.soniq, o.rate)
}

// run makes the cluster, breaks it in each mode until enough is closed, and reports. It returns
// whether all promises were kept.
func run(ctx context.Context, o options, enough <-chan struct{}, out io.Writer) (ok bool, err error) {
	kinds, err := choose(o.kinds)
	if err != nil {
		return false, err
	}
	l, err := assemble(o)
	if err != nil {
		return false, err
	}
	began := time.Now()
	say := func(format string, args ...any) {
		fmt.Fprintf(out, "%s  %s\n", time.Since(began).Round(time.Second), fmt.Sprintf(format, args...))
	}
	// The links end last: what ends before them still speaks through them.
	linked, unlink := context.WithCancel(context.Background())
	links, linked := errgroup.WithContext(linked)
	l.pass(linked, links)
	using, leave := context.WithCancel(context.Background())
	users, using := errgroup.WithContext(using)
	defer func() {
		leave()
		err = errors.Join(err, users.Wait())
		l.end()
		l.cluster.end()
		unlink()
		err = errors.Join(err, links.Wait())
	}()
	say("making the cluster in %s", o.dir)
	if err := l.cluster.begin(ctx); err != nil {
		return false, err
	}
	if err := l.prepare(ctx); err != nil {
		return false, err
	}
	if err := errors.Join(l.checkpoint(ctx), l.begin(using, users)); err != nil {
		return false, err
	}
	return phases(ctx, &drill{load: l, say: say, times: o.times, kinds: kinds, enough: enough}, o.modes, out)
}

// phases goes through the modes, and writes a report of each.
func phases(ctx context.Context, d *drill, modes string, out io.Writer) (ok bool, err error) {
	ok = true
	for mode := range strings.SplitSeq(modes, ",") {
		if d.isEnough() && d.rounds != nil {
			break
		}
		d.say("%s replication", mode)
		r, err := d.phase(ctx, mode == "sync")
		if err != nil {
			return false, err
		}
		fmt.Fprintf(out, "\n%s\n", r)
		file := filepath.Join(d.dir, "log", "report-"+mode+".txt")
		if err := os.WriteFile(file, []byte(r.String()), 0o644); err != nil {
			return false, err
		}
		ok = ok && len(r.broken()) == 0
	}
	return ok, nil
}

// choose finds faults by their names.
func choose(names string) (chosen []fault, err error) {
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(faults, func(f fault) bool { return f.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no fault %q", name)
		}
		chosen = append(chosen, faults[i])
	}
	return chosen, nil
}
