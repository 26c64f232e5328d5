// Compare measures two builds of soniq in turns on one machine: the working tree and
// an older commit. It prints the median of each figure of both, and the median of the
// pairs' ratios; only ratios of one run mean something.
//
//	go run .ci/compare.go [-rounds N] [-only WORKLOAD,...] [-jobs N] [-idle-for D] [-workloads] COMMIT
//	go run .ci/compare.go [-rounds N] [-only WORKLOAD,...] [-jobs N] [-idle-for D] -servers 15,17,18,18:io_method=sync
//
// With -workloads the older commit runs the workloads of the working tree: for those that it hasn't.
// With -servers the working tree is measured on several versions of PostgreSQL, which are downloaded,
// in turns, each beside the first one; a setting follows a colon.
//
// It starts private PostgreSQL servers as --dev does, unless SONIQ_DATABASE_URL is set.
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

type report struct {
	Results []struct {
		Workload string   `json:"workload"`
		System   string   `json:"system"`
		Figures  []figure `json:"figures"`
	} `json:"results"`
}

type figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

func main() {
	rounds := flag.Int("rounds", 5, "pairs of runs")
	only := flag.String("only", "burn-down,wake,enqueue", "workloads of 'soniq bench --list'")
	jobs := flag.Int("jobs", 0, "jobs of a burn-down; 0 is the default of 'soniq bench'")
	idle := flag.Duration("idle-for", 0, "how long idle workers are watched; 0 is the default of 'soniq bench'")
	workloads := flag.Bool("workloads", false, "the older commit runs the workloads of this tree")
	servers := flag.String("servers", "", "versions of PostgreSQL to compare, instead of a commit")
	flag.Parse()
	args := []string{"--only=" + *only}
	if *jobs > 0 {
		args = append(args, fmt.Sprint("--jobs=", *jobs))
	}
	if *idle > 0 {
		args = append(args, fmt.Sprint("--idle-for=", *idle))
	}
	var err error
	switch {
	case *servers != "" && flag.NArg() == 0:
		err = compareServers(strings.Split(*servers, ","), *rounds, args)
	case *servers == "" && flag.NArg() == 1:
		err = compare(flag.Arg(0), *rounds, args, *workloads)
	default:
		fmt.Fprintln(os.Stderr, "usage: go run .ci/compare.go [flags] COMMIT, or: go run .ci/compare.go [flags] -servers VERSION,...")
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

func compare(commit string, rounds int, args []string, workloads bool) error {
	dir, err := os.MkdirTemp("", "soniq-compare-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	base, now := filepath.Join(dir, "base"), filepath.Join(dir, "now")
	if err := build(dir, commit, base, now, workloads); err != nil {
		return err
	}
	values := map[string][2][]float64{}
	var names []string
	for round := range rounds {
		for turn := range 2 {
			which := (round + turn) % 2 // who goes first changes
			figures, err := measure([]string{base, now}[which], args, nil)
			if err != nil {
				return err
			}
			for name, value := range figures {
				both := values[name]
				both[which] = append(both[which], value)
				values[name] = both
				if !slices.Contains(names, name) {
					names = append(names, name)
				}
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d done\n", round+1, rounds)
	}
	slices.Sort(names)
	fmt.Printf("%-64s %12s %12s %8s %8s\n", "median of "+fmt.Sprint(rounds), commit, "now", "ratio", "of pairs")
	for _, name := range names {
		old, new := values[name][0], values[name][1]
		if len(old) != rounds || len(new) != rounds {
			continue
		}
		pairs := make([]float64, rounds)
		for i := range pairs {
			pairs[i] = new[i] / old[i]
		}
		fmt.Printf("%-64s %12.4g %12.4g %8.3f %8.3f\n", name, median(old), median(new), median(new)/median(old), median(pairs))
	}
	return nil
}

// build makes the program of both; that of the commit from a worktree of its own.
func build(dir, commit, base, now string, workloads bool) error {
	tree := filepath.Join(dir, "tree")
	if err := run("git", "worktree", "add", "--detach", tree, commit); err != nil {
		return err
	}
	defer func() { _ = run("git", "worktree", "remove", "--force", tree) }()
	if workloads {
		if err := overlay(tree); err != nil {
			return fmt.Errorf("give %s the workloads of this tree: %w", commit, err)
		}
	}
	old := exec.Command("go", "build", "-o", base, "./cmd/soniq")
	old.Dir, old.Stderr = tree, os.Stderr
	if err := old.Run(); err != nil {
		return fmt.Errorf("build %s: %w", commit, err)
	}
	return run("go", "build", "-o", now, "./cmd/soniq")
}

// overlay puts the workloads of this tree into another one, whose command knows its own.
func overlay(tree string) error {
	if err := run("cp", "-RT", "internal/bench", filepath.Join(tree, "internal/bench")); err != nil {
		return err
	}
	const command = "internal/cli/dev/bench.go"
	now, err := os.ReadFile(command)
	if err != nil {
		return err
	}
	old, err := os.ReadFile(filepath.Join(tree, command))
	if err != nil {
		return err
	}
	const list, entry = "all := []bench.Match{\n", "{Workload: bench."
	var more []byte
	for line := range bytes.Lines(now) {
		if bytes.Contains(line, []byte(entry)) && !bytes.Contains(old, bytes.TrimSpace(line)) {
			more = append(more, line...)
		}
	}
	old = bytes.Replace(old, []byte(list), append([]byte(list), more...), 1)
	return os.WriteFile(filepath.Join(tree, command), old, 0o600)
}

func run(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w", name, args[0], err)
	}
	return nil
}

// compareServers measures the working tree on each of some servers, in turns.
func compareServers(servers []string, rounds int, args []string) error {
	dir, err := os.MkdirTemp("", "soniq-servers-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	// The server's user enters the folder.
	if err := os.Chmod(dir, 0o711); err != nil {
		return err
	}
	program := filepath.Join(dir, "soniq")
	if err := run("go", "build", "-o", program, "./cmd/soniq"); err != nil {
		return err
	}
	environments := make([][]string, len(servers))
	for i, server := range servers {
		env, stop, err := startServer(program, filepath.Join(dir, fmt.Sprint(i)), server)
		if err != nil {
			return fmt.Errorf("PostgreSQL %s: %w", server, err)
		}
		defer stop()
		environments[i] = env
	}
	values := map[string][][]float64{}
	for round := range rounds {
		for turn := range servers {
			which := (round + turn) % len(servers)
			figures, err := measure(program, args, environments[which])
			if err != nil {
				return fmt.Errorf("PostgreSQL %s: %w", servers[which], err)
			}
			for name, value := range figures {
				if values[name] == nil {
					values[name] = make([][]float64, len(servers))
				}
				values[name][which] = append(values[name][which], value)
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d done\n", round+1, rounds)
	}
	fmt.Printf("%-64s", "median of "+fmt.Sprint(rounds)+", and the ratio to the first")
	for _, server := range servers {
		fmt.Printf(" %24s", server)
	}
	fmt.Println()
	for _, name := range slices.Sorted(maps.Keys(values)) {
		fmt.Printf("%-64s", name)
		for _, v := range values[name] {
			fmt.Printf(" %16.4g %7.3f", median(v), median(v)/median(values[name][0]))
		}
		fmt.Println()
	}
	return nil
}

// startServer starts a server of a version, with a setting after a colon. It returns the
// environment of those who use it, and what stops it.
func startServer(program, dir, server string) (env []string, stop func(), err error) {
	version, setting, _ := strings.Cut(server, ":")
	env = append(os.Environ(), "SONIQ_DEV_DIR="+dir, "SONIQ_DEV_POSTGRES=download:"+version, "SONIQ_DATABASE_URL=", "DATABASE_URL=")
	var up *exec.Cmd
	stop = func() {
		_ = up.Process.Signal(os.Interrupt)
		_ = up.Wait()
	}
	begin := func() error {
		up = exec.Command(program, "dev", "up")
		up.Env = env
		said, err := up.StderrPipe()
		if err != nil {
			return err
		}
		if err := up.Start(); err != nil {
			return err
		}
		for lines := bufio.NewScanner(said); lines.Scan(); {
			if strings.Contains(lines.Text(), " runs on ") {
				go func() { _, _ = io.Copy(io.Discard, said) }()
				return nil
			}
		}
		return cmp.Or(up.Wait(), errors.New("it ended"))
	}
	if err := begin(); err != nil || setting == "" {
		return env, stop, err
	}
	name, value, _ := strings.Cut(setting, "=")
	url := exec.Command(program, "dev", "url")
	url.Env, url.Stderr = env, os.Stderr
	out, err := url.Output()
	if err == nil {
		err = alter(strings.TrimSpace(string(out)), name, value)
	}
	stop() // some settings need a restart
	if err == nil {
		err = begin()
	}
	return env, stop, err
}

func alter(url, name, value string) error {
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.Background()) }()
	_, err = conn.Exec(context.Background(), "alter system set "+pgx.Identifier{name}.Sanitize()+" = '"+value+"'")
	return err
}

// measure runs one round of the workloads and returns each figure by its name.
func measure(program string, args, env []string) (map[string]float64, error) {
	args = append([]string{"bench", "--json", "--rounds=1"}, args...)
	if os.Getenv("SONIQ_DATABASE_URL") == "" || env != nil {
		args = append(args, "--dev")
	}
	cmd := exec.Command(program, args...)
	cmd.Env = env
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", program, err, stderr.String())
	}
	return figuresOf(out)
}

func figuresOf(out []byte) (map[string]float64, error) {
	var r report
	if err := json.Unmarshal(out, &r); err != nil {
		return nil, err
	}
	figures := map[string]float64{}
	for _, r := range r.Results {
		for _, f := range r.Figures {
			figures[fmt.Sprintf("%s, %s: %s, %s", r.Workload, r.System, f.Name, f.Unit)] = f.Value
		}
	}
	if len(figures) == 0 {
		return nil, fmt.Errorf("no figures in %.200s", out)
	}
	return figures, nil
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
