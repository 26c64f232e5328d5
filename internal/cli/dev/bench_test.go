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
	"soniq/internal/testkit"
)

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
	for _, part := range []string{"medians of 2 rounds", "OF THE FIRST", "soniq, defaults", "inserted", "jobs/s"} {
		if !strings.Contains(text, part) {
			t.Errorf("the table lacks %q:\n%s", part, text)
		}
	}
}

// Fleets, queues and limits are measured beside one of the same.
func TestBench_fleets_areMeasuredBesideOneWorker(t *testing.T) {
	t.Parallel()
	for workload, systems := range map[string][]string{
		"fleet":       {"1 worker", "10 workers", "10 processes"},
		"many-queues": {"1 queue", "100 queues", "1,000 queues", "10 jobs of others for each"},
		"limits":      {"no limits", "36 limits"},
	} {
		t.Run(workload, func(t *testing.T) {
			t.Parallel()
			sh := clitest.NewShell(t, testdb.New(t).Config().ConnString())
			r := sh.OK("bench", "--only", workload, "--workers", "10", "--rounds", "1", "--jobs", "50", "--samples", "2", "--idle-for", "1s", "--json")
			var report struct {
				Results []struct {
					System  string
					Figures []struct {
						Name         string
						Value, Ratio float64
					}
				}
			}
			if err := json.Unmarshal([]byte(r.Out), &report); err != nil {
				t.Fatalf("%v: %s", err, r.Out)
			}
			var got []string
			for i, result := range report.Results {
				got = append(got, result.System)
				for _, f := range result.Figures {
					// In a second little may happen at rest.
					if f.Value < 0 || f.Value == 0 && strings.HasPrefix(f.Name, "p") {
						t.Errorf("%s: %s is %v", result.System, f.Name, f.Value)
					}
					if i > 0 && f.Name == "p50" && f.Ratio <= 0 {
						t.Errorf("%s: %s has no ratio", result.System, f.Name)
					}
				}
			}
			if !slices.Equal(got, systems) {
				t.Errorf("measured %q, want %q", got, systems)
			}
		})
	}
}

func TestBench_interrupted_leavesNoDatabase(t *testing.T) {
	t.Parallel()
	for _, workload := range []string{"idle", "fleet"} {
		t.Run(workload, func(t *testing.T) {
			t.Parallel()
			pool := testdb.New(t)
			name := "bench-" + uuid.NewString()
			url, err := url.Parse(pool.Config().ConnString())
			if err != nil {
				t.Fatal(err)
			}
			query := url.Query()
			query.Set("application_name", name)
			url.RawQuery = query.Encode()
			sh := clitest.NewShell(t, url.String())
			r := sh.Start("bench", "--only", workload, "--workers", "1", "--idle-for", "1h")
			const workingSQL = `
				select coalesce(min(datname), '') from pg_stat_activity
				where application_name = $1 and datname like 'soniq_bench_%' and query like '%soniq_workers%'`
			var database string
			eventually.True(t, "the benchmark's worker", func() bool {
				database = testkit.Value[string](t, pool, workingSQL, name)
				return database != ""
			})
			sh.Signals <- syscall.SIGINT
			if code := r.Wait(t); code != 1 || r.Err.String() != "soniq: interrupted\n" {
				t.Errorf("exit %d: %s", code, r.Err.String())
			}
			if n := clitest.Count(t, pool, `select count(*) from pg_database where datname = $1`, database); n != 0 {
				t.Error("the benchmark's database is left")
			}
		})
	}
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
	for _, name := range []string{"burn-down", "sustained", "wake-pairs", "idle", "fleet", "many-queues", "limits"} {
		if !strings.Contains(r.Out, name) {
			t.Errorf("the list lacks %s:\n%s", name, r.Out)
		}
	}
}
