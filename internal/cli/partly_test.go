package cli_test

import (
	"io"
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"

	"soniq/deadletter"
	"soniq/internal/cli"
	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/testdb"
)

// stuckSQL makes the database refuse to change the dead letters of one name.
const stuckSQL = `
create function refuse() returns trigger language plpgsql as $$
begin
  raise exception 'this one is stuck';
end
$$;
create trigger refuse
  before update or delete on soniq_dead_letter_jobs
  for each row when (old.job_name = 'stuck')
  execute function refuse()`

// What was done before the database failed is told, in both forms, and by the
// exit code.
func TestDeadLetter_brokenMidway_tellsWhatWasDone(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	if _, err := pool.Exec(t.Context(), stuckSQL); err != nil {
		t.Fatal(err)
	}
	s := clitest.NewShell(t, pool.Config().ConnString())
	first, stuck, last := clitest.Seed(t, pool, clitest.Letter{}), clitest.Seed(t, pool, clitest.Letter{Job: "stuck"}), clitest.Seed(t, pool, clitest.Letter{})

	r := s.Run("dead-letter", "replay", first.String(), stuck.String(), last.String(), "--json")
	clitest.WantCode(t, r, app.ExitPartly)
	clitest.WantIn(t, "stderr", r.Err, "this one is stuck")
	replayed := clitest.Decode[struct{ Replayed []deadletter.Replayed }](t, r.Out).Replayed
	if len(replayed) != 1 || replayed[0].From != first || clitest.CountJobs(t, pool) != 1 {
		t.Errorf("replayed %+v, %d jobs", replayed, clitest.CountJobs(t, pool))
	}
	r = s.Run("dead-letter", "replay", stuck.String(), last.String())
	clitest.WantCode(t, r, app.ExitFailed) // nothing was done before

	r = s.Run("dead-letter", "delete", first.String(), stuck.String(), last.String(), "--json")
	clitest.WantCode(t, r, app.ExitPartly)
	clitest.WantIn(t, "stderr", r.Err, "this one is stuck")
	deleted := clitest.Decode[struct{ Deleted []uuid.UUID }](t, r.Out).Deleted
	if len(deleted) != 1 || deleted[0] != first || clitest.CountLetters(t, pool) != 2 {
		t.Errorf("deleted %v, %d left", deleted, clitest.CountLetters(t, pool))
	}
}

// 5,000 is a batch, the next one fails.
func TestDeadLetter_bulk_brokenMidway_tellsHowManyWereDone(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	if _, err := pool.Exec(t.Context(), stuckSQL); err != nil {
		t.Fatal(err)
	}
	const many = `
		with quiet as (select set_config('soniq.notify', 'off', true))
		insert into soniq_dead_letter_jobs (
		  id, job_name, args, queue, priority, max_attempts, attempts,
		  dead_letter_reason, original_created_at, moved_to_dead_letter_at
		)
		select gen_random_uuid(), case n when $1 then 'stuck' else 'free' end, '{}', 'default', 100, 3, 3,
		  'timeout', now(), now() - interval '90 days' + n * interval '1 second'
		from quiet, generate_series(1, 5001) n`
	s := clitest.NewShell(t, pool.Config().ConnString())
	for _, test := range []struct {
		stuck int // delete begins with the newest, cleanup with the oldest
		args  []string
		out   string
	}{
		{1, []string{"delete", "--all", "--yes"}, "Deleted 5,000 dead letters.\n"},
		{5001, []string{"cleanup"}, "Removed 5,000 dead letters older than 30 days.\n"},
		{1, []string{"delete", "--all", "--yes", "--json"}, "{\n  \"deleted\": 5000\n}\n"},
		{5001, []string{"cleanup", "--json"}, "{\n  \"removed\": 5000\n}\n"},
	} {
		if _, err := pool.Exec(t.Context(), "truncate soniq_dead_letter_jobs"); err != nil {
			t.Fatal(err)
		}
		if _, err := pool.Exec(t.Context(), many, test.stuck); err != nil {
			t.Fatal(err)
		}
		r := s.Run(append([]string{"dead-letter"}, test.args...)...)
		clitest.WantCode(t, r, app.ExitPartly)
		clitest.WantIn(t, "stderr", r.Err, "this one is stuck")
		if r.Out != test.out || clitest.CountLetters(t, pool) != 1 {
			t.Errorf("%q: %q, %d left", test.args, r.Out, clitest.CountLetters(t, pool))
		}
	}
}

// A dry run of ids says what the replay would say.
func TestReplay_dryRun_refusesWhatTheReplayWould(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	used, twin := clitest.Seed(t, pool, clitest.Letter{}), clitest.Seed(t, pool, clitest.Letter{})
	if _, err := pool.Exec(t.Context(), `update soniq_dead_letter_jobs set dedup_key = 'k' where id = $1`, twin); err != nil {
		t.Fatal(err)
	}
	s.OK("enqueue", "j", "--dedup-key", "k")
	for want, args := range map[string][]string{
		"needs --new-max-attempts above 3":                     {used.String(), "--keep-attempts"},
		"an equal job is queued already":                       {twin.String()},
		used.String() + ": it made 3 of 3 attempts":            {"--job", "emails.send", "--limit", "1", "--keep-attempts", "--yes"},
		"with --keep-attempts it needs --new-max-attempts abo": {"--all", "--keep-attempts", "--yes"},
	} {
		args = append([]string{"dead-letter", "replay"}, args...)
		preview, action := s.Run(append(args, "--dry-run")...), s.Run(args...)
		clitest.WantCode(t, preview, app.ExitFailed)
		clitest.WantIn(t, "preview", preview.Err, want)
		if preview != action {
			t.Errorf("%q: the preview says %+v, the replay %+v", args, preview, action)
		}
	}
	if n := clitest.CountJobs(t, pool); n != 1 {
		t.Errorf("%d jobs, want the one from before", n)
	}
}

func TestEnqueue_interruptedWhileReadingArguments_enqueuesNothing(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	var notes clitest.Stream
	w := s.Process(io.Discard, &notes)
	in, out := io.Pipe()
	w.Stdin = in
	code := make(chan int, 1)
	go func() { code <- cli.Run(w, []string{"enqueue", "j", "--args", "-"}) }()
	if _, err := io.WriteString(out, `{"a": `); err != nil {
		t.Fatal(err)
	}
	s.Signals <- syscall.SIGINT
	if c := <-code; c != app.ExitFailed || !strings.Contains(notes.String(), "interrupted") {
		t.Errorf("exit code %d, %s", c, notes.String())
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	if n := clitest.CountJobs(t, pool); n != 0 {
		t.Errorf("%d jobs were enqueued", n)
	}
}
