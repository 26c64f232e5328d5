// Command bench measures Soniq beside other queues on one PostgreSQL, in turns,
// and prints the ratios that docs/performance.md is about. It is a module of its
// own, so that what it compares with is no dependency of Soniq.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"

	"soniq"
	"soniq/internal/bench"
	"soniq/internal/devdb"
)

// flags are those of the command line.
type flags struct {
	url     string
	rounds  int
	only    string
	json    bool
	options bench.Options
}

func main() {
	var f flags
	flag.StringVar(&f.url, "database-url", "", "a server on which databases may be made; default is a private one")
	flag.IntVar(&f.rounds, "rounds", 5, "rounds, of whose figures the medians are shown")
	flag.StringVar(&f.only, "only", "", "workloads, with commas between them; default is all")
	flag.BoolVar(&f.json, "json", false, "print JSON")
	flag.IntVar(&f.options.Jobs, "jobs", 50_000, "jobs of a burn-down")
	flag.IntVar(&f.options.Samples, "samples", 200, "wakes that are measured")
	flag.IntVar(&f.options.Rate, "rate", 1000, "jobs a second of 'sustained'")
	flag.DurationVar(&f.options.For, "for", 3*time.Second, "how long 'sustained' and the single inserts last")
	flag.DurationVar(&f.options.Idle, "idle-for", time.Minute, "how long the idle workers are watched")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	// A second interrupt ends it at once.
	context.AfterFunc(ctx, stop)
	if err := f.run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func (f *flags) run(ctx context.Context, out io.Writer) (err error) {
	if f.rounds < 1 || f.options.Jobs < 1 || f.options.Samples < 1 || f.options.Rate < 1 ||
		f.options.For <= 0 || f.options.Idle <= 0 || flag.NArg() > 0 {
		return errors.New("give positive numbers, and nothing but flags; see -help")
	}
	graphile, err := newGraphile(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: going on without graphile-worker:", err)
	}
	matches, err := f.matches(graphile)
	if err != nil {
		return err
	}
	url := f.url
	if url == "" {
		lease, err := devdb.Acquire(ctx, devdb.Options{Dir: os.Getenv("SONIQ_DEV_DIR")})
		if err != nil {
			return fmt.Errorf("start the private database: %w", err)
		}
		defer func() { err = errors.Join(err, lease.Close()) }()
		url = lease.URL()
	}
	machine, err := describe(ctx, url)
	if err != nil {
		return err
	}
	results, err := bench.Run(ctx, url, matches, f.rounds, f.options, func(doing string, done, of int) {
		fmt.Fprintf(os.Stderr, "%3d of %d: %s\n", done+1, of, doing)
	})
	if err != nil {
		return err
	}
	if f.json {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(map[string]any{"machine": machine, "rounds": f.rounds, "results": results})
	}
	fmt.Fprintf(out, "%s; medians of %d rounds\n\n", machine, f.rounds)
	if err := table(out, results); err != nil {
		return err
	}
	return verdicts(out, results)
}

func describe(ctx context.Context, url string) (string, error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	var server string
	err = conn.QueryRow(ctx, `select split_part(current_setting('server_version'), ' ', 1)`).Scan(&server)
	return fmt.Sprintf("Soniq %s, River %s, PostgreSQL %s, Go %s, %s/%s with %d CPUs", soniq.Version, riverVersion, server,
		strings.TrimPrefix(runtime.Version(), "go"), runtime.GOOS, runtime.GOARCH, runtime.NumCPU()), err
}

// tunedWorkers is the concurrency of the tuned workers: that of River's own
// benchmark.
const tunedWorkers = 2000

// The systems by the names that the verdicts know them by.
var (
	plain          = bench.Plain{}
	plainDeleting  = bench.Plain{Delete: true}
	plainTold      = bench.Plain{Notify: true}
	soniqTuned     = bench.Soniq{Label: "soniq, tuned", Concurrency: tunedWorkers}
	soniqDeleting  = bench.Soniq{Label: "soniq, deleting", Concurrency: tunedWorkers, ResultTTL: -1}
	soniqHundred   = bench.Soniq{Label: "soniq, 100 workers", Concurrency: 100}
	riverHundred   = River{Label: "River, 100 workers", MaxWorkers: 100}
	soniqDefault   = bench.Soniq{Label: "soniq, defaults"}
	riverTuned     = River{Label: "River, tuned", MaxWorkers: tunedWorkers, FetchCooldown: 2 * time.Millisecond, FetchPollInterval: 20 * time.Millisecond}
	riverDefault   = River{Label: "River, defaults", MaxWorkers: 10}
	riverImpatient = River{Label: "River, 1 ms cooldown", MaxWorkers: 10, FetchCooldown: time.Millisecond, FetchPollInterval: time.Second}
)

// The fleets. Those of River have no member of 400: each of its clients keeps a connection to
// listen on.
var (
	soniqFleet1    = fleet("soniq, 1 worker", bench.Soniq{}, 1)
	soniqFleet10   = fleet("soniq, 10 workers", bench.Soniq{}, 10)
	soniqFleet40   = fleet("soniq, 40 workers", bench.Soniq{}, 40)
	soniqFleet400  = bench.Fleet{System: bench.Soniq{}, Label: "soniq, 400 workers", Workers: 400, Processes: 4, PoolSize: 16}
	soniqQueue     = bench.Soniq{Label: "soniq, 1 queue"}
	soniqQueues    = bench.Soniq{Label: "soniq, 1,000 queues", Queues: 1000}
	soniqStrangers = bench.Soniq{Label: "soniq, 10 jobs of others for each", Strangers: true}
	soniqUnlimited = bench.Soniq{Label: "soniq, no limits", Names: 30, Queues: 6}
	soniqLimited   = bench.Soniq{Label: "soniq, 36 limits", Names: 30, Queues: 6, Limited: true}
)

// fleet is a fleet in one process.
func fleet(label string, system bench.System, workers int) bench.Fleet {
	return bench.Fleet{System: system, Label: label, Workers: workers}
}

func (f *flags) matches(graphile *Graphile) ([]bench.Match, error) {
	burning := []bench.System{plain, soniqTuned, riverTuned, plainDeleting, soniqDeleting}
	if graphile != nil {
		burning = append(burning, graphile)
	}
	all := []bench.Match{
		{Workload: bench.BurnDown, Systems: burning},
		{Workload: bench.BurnDownFew, Systems: []bench.System{soniqDefault, riverDefault, soniqHundred, riverHundred}},
		{Workload: bench.BurnDownHeld, Systems: []bench.System{plain, soniqTuned, riverTuned}},
		{Workload: bench.Sustained, Systems: []bench.System{plainTold, soniqDefault, riverImpatient}},
		{Workload: bench.Enqueue, Systems: []bench.System{plain, soniqDefault, riverDefault}},
		{Workload: bench.EnqueueEight, Systems: []bench.System{plain, soniqDefault, riverDefault}},
		{Workload: bench.EnqueueAwake, Systems: []bench.System{plainTold, soniqDefault, riverImpatient}},
		{Workload: bench.EnqueueMany, Systems: []bench.System{plain, soniqDefault, riverDefault}},
		{Workload: bench.WakeIdle, Systems: []bench.System{plainTold, soniqDefault, riverImpatient}},
		{Workload: bench.WakePairs, Systems: []bench.System{plainTold, soniqDefault, riverImpatient}},
		{Workload: bench.WakeRollback, Systems: []bench.System{plainTold, soniqDefault, riverImpatient}},
		{Workload: bench.Idle, Systems: []bench.System{soniqDefault, riverDefault}},
		{Workload: bench.ManyWorkers, Systems: []bench.System{
			soniqFleet1, fleet("River, 1 client", riverImpatient, 1), soniqFleet10, fleet("River, 10 clients", riverImpatient, 10),
			soniqFleet40, fleet("River, 40 clients", riverImpatient, 40), soniqFleet400,
		}},
		{Workload: bench.ManyQueues, Systems: []bench.System{soniqQueue, soniqQueues, soniqStrangers}},
		{Workload: bench.Limits, Systems: []bench.System{soniqUnlimited, soniqLimited}},
	}
	if f.only == "" {
		return all, nil
	}
	only := strings.Split(f.only, ",")
	chosen := slices.DeleteFunc(slices.Clone(all), func(m bench.Match) bool { return !slices.Contains(only, m.Workload.Name) })
	for _, name := range only {
		if !slices.ContainsFunc(all, func(m bench.Match) bool { return m.Workload.Name == name }) {
			return nil, fmt.Errorf("there is no workload %q", name)
		}
	}
	return chosen, nil
}

func table(out io.Writer, results []bench.Result) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "workload\tsystem\tfigure\tvalue\tunit\tof the first")
	for _, r := range results {
		for _, f := range r.Figures {
			ratio := ""
			if f.Ratio != 0 {
				ratio = fmt.Sprintf("%.2f", f.Ratio)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%.5g\t%s\t%s\n", r.Workload, r.System, f.Name, f.Value, f.Unit, ratio)
		}
	}
	return w.Flush()
}
