package cli_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// roleSettings are what an administrator may have set for the role, by what they have in common. Values
// are as far from the defaults as they go. A name that the server doesn't know is left out.
var roleSettings = map[string]map[string]string{
	"timeouts": {
		"statement_timeout": "1ms", "lock_timeout": "1ms", "idle_in_transaction_session_timeout": "1ms", "idle_session_timeout": "1ms",
		"deadlock_timeout": "1ms", "tcp_user_timeout": "60s", "client_connection_check_interval": "1s",
	},
	"timeout of transactions": {"transaction_timeout": "5s"},
	"repeatable read":         {"default_transaction_isolation": "repeatable read", "default_transaction_deferrable": "on"},
	"serializable":            {"default_transaction_isolation": "serializable"},
	"names":                   {"search_path": `"$user", nowhere`, "quote_all_identifiers": "on", "row_security": "off", "check_function_bodies": "off"},
	"forms": {
		"TimeZone": "Asia/Kathmandu", "DateStyle": "German, DMY", "IntervalStyle": "sql_standard", "bytea_output": "escape",
		"extra_float_digits": "-15", "client_encoding": "LATIN1", "lc_numeric": "C", "lc_messages": "C", "xmlbinary": "hex",
	},
	"syntax": {
		"standard_conforming_strings": "off", "backslash_quote": "on", "escape_string_warning": "on", "transform_null_equals": "on",
		"array_nulls": "off", "client_min_messages": "debug1", "xmloption": "document", "default_toast_compression": "pglz",
	},
	"memory": {
		"work_mem": "64kB", "maintenance_work_mem": "1MB", "hash_mem_multiplier": "1", "temp_buffers": "800kB", "commit_delay": "1000",
		"synchronous_commit": "off", "gin_pending_list_limit": "64kB", "logical_decoding_work_mem": "64kB", "temp_file_limit": "100MB",
	},
	"plans": {
		"enable_seqscan": "off", "enable_indexscan": "off", "enable_indexonlyscan": "off", "enable_bitmapscan": "off", "enable_hashjoin": "off",
		"enable_mergejoin": "off", "enable_hashagg": "off", "enable_sort": "off", "enable_material": "off", "enable_memoize": "off",
		// What is turned off seems so expensive that each statement would be compiled, for seconds.
		"jit": "off", "random_page_cost": "100", "join_collapse_limit": "1", "from_collapse_limit": "1", "geqo_threshold": "2",
		"constraint_exclusion": "on", "cursor_tuple_fraction": "0",
	},
	"parallel plans": {
		"jit": "off", "force_parallel_mode": "on", "debug_parallel_query": "on", "parallel_setup_cost": "0", "parallel_tuple_cost": "0",
		"max_parallel_workers_per_gather": "1", "plan_cache_mode": "force_generic_plan",
	},
	"kept plans never": {"plan_cache_mode": "force_custom_plan", "jit": "off"},
}

// together are groups that one run can have at once, since none hides what another does.
var together = [][]string{
	{"timeouts"},
	{"timeout of transactions", "repeatable read", "names", "forms"},
	{"serializable", "syntax", "memory"},
	{"plans"},
	{"parallel plans"},
	{"kept plans never"},
}

// settingsOfRuns are the settings of each run: of a group, or of several where tests are short.
func settingsOfRuns(t *testing.T) map[string]map[string]string {
	t.Helper()
	if testkit.Long() {
		return roleSettings
	}
	runs, groups := map[string]map[string]string{}, 0
	for _, names := range together {
		all := map[string]string{}
		for _, name := range names {
			groups++
			maps.Copy(all, roleSettings[name])
		}
		runs[strings.Join(names, ", ")] = all
	}
	if groups != len(roleSettings) {
		t.Fatalf("%d of %d groups are in a run", groups, len(roleSettings))
	}
	return runs
}

// Whatever is set for the role, setup, enqueue, claim, death, hook, replay and every look work, and what is
// read is what was written.
func TestCommands_anySettingOfTheRole(t *testing.T) {
	t.Parallel()
	for group, settings := range settingsOfRuns(t) {
		t.Run(group, func(t *testing.T) {
			t.Parallel()
			url := testdb.EmptyURL(t)
			if setForRole(t, url, settings) == 0 {
				return // a group of one that this server doesn't know
			}
			s := clitest.NewShell(t, url)
			s.OK("setup")
			s.OK("setup")
			s.OK("hooks", "add", "log", "--name", "log")
			const args = `{"text": "naïve 日本 \\ '' \"", "n": 0.1, "list": [1e+2, null], "big": 12345678901234567890}`
			worker := s.Start("worker", "--handle", "done=exec:cat", "--handle", "dies=exec:echo 'naïve \\ error' >&2; exit 78", "--log-format=json")
			done := clitest.Decode[struct{ Result json.RawMessage }](t, s.OK("enqueue", "done", "--args", args, "--wait", "--json").Out)
			if !sameJSON(t, string(done.Result), args) {
				t.Errorf("the result is %s", done.Result)
			}
			id := strings.TrimSpace(s.OK("enqueue", "dies", "--args", args, "--delay", "100ms", "--queue", "default").Out)
			lines := strings.Repeat(`{"job_name": "dies"}`+"\n", 3)
			from := *s
			from.Stdin = lines
			from.OK("enqueue", "--from", "-")
			eventually.Count(t, "dead letters", 4, func() int { return len(letters(t, s)) })
			show := clitest.Decode[struct {
				Args      json.RawMessage
				LastError string    `json:"last_error"`
				MovedAt   time.Time `json:"moved_to_dead_letter_at"`
				State     string
				Errors    []struct {
					At time.Time `json:"failed_at"`
				}
			}](t, s.OK("dead-letter", "show", id, "--json").Out)
			if !sameJSON(t, string(show.Args), args) || !strings.Contains(show.LastError, `naïve \ error`) {
				t.Errorf("the dead letter has %s, %q", show.Args, show.LastError)
			}
			if off := time.Since(show.MovedAt).Abs(); off > 10*time.Minute || len(show.Errors) != 1 || time.Since(show.Errors[0].At).Abs() > 10*time.Minute {
				t.Errorf("it died at %s, its attempts are %v", show.MovedAt, show.Errors)
			}
			eventually.Count(t, "deliveries of the hook", 4, func() int {
				return strings.Count(s.OK("hooks", "deliveries", "--state", "delivered", "--json").Out, `"delivered_at"`)
			})
			replayAndLook(t, s, id)
			s.Signals <- syscall.SIGTERM
			if code := worker.Wait(t); code != app.ExitDone {
				t.Errorf("the worker's exit code is %d", code)
			}
			for line := range strings.Lines(worker.Err.String()) {
				if strings.Contains(line, `"level":"ERROR"`) {
					t.Errorf("the worker's log has %s", line)
				}
			}
		})
	}
}

// replayAndLook replays one dead letter, then all, and runs what reads and what deletes.
func replayAndLook(t *testing.T, s *clitest.Shell, id string) {
	t.Helper()
	s.OK("dead-letter", "replay", id)
	eventually.Count(t, "dead letters after a replay", 5, func() int { return len(letters(t, s)) })
	s.OK("dead-letter", "replay", "--all", "--yes", "--filter", "dies")
	eventually.Count(t, "dead letters after a bulk replay", 9, func() int { return len(letters(t, s)) })
	for _, line := range []string{
		"dead-letter list --since 1h", "dead-letter stats --hours 1", "dead-letter groups", "dead-letter history", "dead-letter check --max 100 --max-age 1h",
		"dead-letter export --format csv", "dead-letter export --format jsonl", "status", "worker list", "queue list", "job list", "hooks list",
		"hooks deliveries", "dead-letter tag " + id + " ticket=1", "queue pause default", "queue resume default", "migrate check",
	} {
		s.OK(strings.Fields(line)...)
	}
	s.OK("dead-letter", "delete", id)
	s.OK("dead-letter", "cleanup", "--days", "1")
	if r := s.OK("dead-letter", "delete", "--all", "--yes"); !strings.Contains(r.Out, "Deleted 8") {
		t.Errorf("delete --all: %q", r.Out)
	}
}

// letters are the ids of all dead letters.
func letters(t *testing.T, s *clitest.Shell) []json.RawMessage {
	t.Helper()
	return clitest.Decode[[]json.RawMessage](t, s.OK("dead-letter", "list", "--limit", "0", "--json").Out)
}

// setForRole sets what the server knows, for the role in this database, and returns how many.
func setForRole(t *testing.T, url string, settings map[string]string) (known int) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	for name, value := range settings {
		var there bool
		if err := conn.QueryRow(t.Context(), `select exists (select from pg_settings where lower(name) = lower($1))`, name).Scan(&there); err != nil {
			t.Fatal(err)
		}
		if !there {
			continue
		}
		known++
		if name != "search_path" { // which is a list of names
			value = "'" + value + "'"
		}
		sql := fmt.Sprintf("do $do$ begin execute format('alter role %%I in database %%I set %s = %s', current_user, current_database()); end $do$",
			name, strings.ReplaceAll(value, "'", "''"))
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	return known
}

// sameJSON reports whether two texts are the same JSON, numbers by their digits.
func sameJSON(t *testing.T, a, b string) bool {
	t.Helper()
	canonical := func(text string) string {
		dec := json.NewDecoder(strings.NewReader(strings.ReplaceAll(text, "1e+2", "100")))
		dec.UseNumber()
		var v any
		if err := dec.Decode(&v); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		out, _ := json.Marshal(v)
		return string(out)
	}
	return canonical(a) == canonical(b)
}
