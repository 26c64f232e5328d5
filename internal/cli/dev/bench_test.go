package dev_test

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"

	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

// benchDatabasesSQL counts the databases of benchmarks.
const benchDatabasesSQL = `select count(*) from pg_database where datname like 'soniq_bench_%'`

func TestBench_smallRun_measuresWhatIsAsked(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	sh := clitest.NewShell(t, pool.Config().ConnString())
	args := []string{"bench", "--jobs", "300", "--rounds", "1", "--samples", "2", "--only", "burn-down,failures,bulk-replay,import,mass-death,wake"}
	r := sh.OK(append(args, "--json")...)
	var report struct {
		Machine struct {
			CPUs   int
			Server string
		}
		Results []struct {
			Workload, System string
			Figures          []struct {
				Name         string
				Value, Ratio float64
			}
		}
	}
	if err := json.Unmarshal([]byte(r.Out), &report); err != nil {
		t.Fatalf("%v: %s", err, r.Out)
	}
	if report.Machine.Server == "" || report.Machine.CPUs == 0 {
		t.Errorf("the machine is %+v", report.Machine)
	}
	// Plain SQL has no dead letters.
	alone := map[string]bool{"failures": true, "bulk-replay": true, "import": true, "mass-death": true}
	var got []string
	for _, result := range report.Results {
		got = append(got, result.Workload+": "+result.System)
		for i, f := range result.Figures {
			// The kernel counts hundredths of a second.
			if f.Value < 0 || f.Value == 0 && !strings.Contains(f.Name, "processor") {
				t.Errorf("%s, %s: %s is %v", result.Workload, result.System, f.Name, f.Value)
			}
			if i == 0 && strings.HasPrefix(result.System, "soniq") && !alone[result.Workload] && f.Ratio <= 0 {
				t.Errorf("%s, %s: %s has no ratio", result.Workload, result.System, f.Name)
			}
		}
	}
	want := []string{
		"burn-down: plain SQL", "burn-down: soniq, tuned",
		"burn-down: plain SQL, deleting", "burn-down: soniq, tuned, deleting",
		"wake: plain SQL", "wake: soniq, defaults",
		"failures: soniq, tuned", "bulk-replay: soniq, tuned", "import: soniq, tuned", "mass-death: soniq, tuned",
	}
	if !slices.Equal(got, want) {
		t.Errorf("measured %q, want %q", got, want)
	}
	if n := clitest.CountJobs(t, pool); n != 0 {
		t.Errorf("%d jobs went into the user's table", n)
	}

	text := sh.OK("bench", "--jobs", "300", "--rounds", "2", "--only", "enqueue-many").Out
	for _, part := range []string{"medians of 2 rounds", "OF PLAIN SQL", "soniq, defaults", "inserted", "jobs/s"} {
		if !strings.Contains(text, part) {
			t.Errorf("the table lacks %q:\n%s", part, text)
		}
	}
}

func TestBench_interrupted_leavesNoDatabase(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	sh := clitest.NewShell(t, pool.Config().ConnString())
	r := sh.Start("bench", "--only", "idle", "--idle-for", "1h")
	const workingSQL = `
		select count(*) from pg_stat_activity
		where datname like 'soniq_bench_%' and query like '%soniq_workers%'`
	eventually.True(t, "the benchmark's worker", func() bool { return clitest.Count(t, pool, workingSQL) > 0 })
	sh.Signals <- syscall.SIGINT
	if code := r.Wait(t); code != 1 || r.Err.String() != "soniq: interrupted\n" {
		t.Errorf("exit %d: %s", code, r.Err.String())
	}
	eventually.True(t, "no benchmark's database left", func() bool { return clitest.Count(t, pool, benchDatabasesSQL) == 0 })
}

func TestBench_roleMayNotCreateDatabases_saysSo(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	role := "poor_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	clitest.Exec(t, pool, `create role `+role+` login password 'secret'`)
	defer clitest.Exec(t, pool, `drop role `+role)
	poor, err := url.Parse(pool.Config().ConnString())
	if err != nil {
		t.Fatal(err)
	}
	poor.User = url.UserPassword(role, "secret")
	r := clitest.NewShell(t, poor.String()).Run("bench", "--only", "wake")
	if r.Code != 1 || !strings.Contains(r.Err, "may not create databases") || strings.Count(r.Err, "\n") != 1 {
		t.Errorf("exit %d: %s", r.Code, r.Err)
	}
}

func TestBench_list_namesEachWorkload(t *testing.T) {
	t.Parallel()
	r := clitest.NewShell(t, "").OK("bench", "--list")
	for _, name := range []string{"burn-down", "sustained", "wake-pairs", "idle"} {
		if !strings.Contains(r.Out, name) {
			t.Errorf("the list lacks %s:\n%s", name, r.Out)
		}
	}
}
