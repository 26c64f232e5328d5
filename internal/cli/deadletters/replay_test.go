package deadletters_test

import (
	"strings"
	"syscall"
	"testing"

	"soniq/deadletter"
	"soniq/internal/cli/app"
	"soniq/internal/cli/clitest"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

// Ctrl-C stops a bulk replay between two batches, says how to go on, and going
// on does the rest; the history tells all of it.
func TestReplay_bulk_interrupted_isResumed(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	clitest.SeedMany(t, pool, 30)
	s := clitest.NewShell(t, pool.Config().ConnString())
	if r := s.OK("dead-letter", "history"); r.Err != "nothing was done yet\n" {
		t.Errorf("%+v", r)
	}
	running := s.Start("dead-letter", "replay", "--all", "--yes", "--rate", "10/s", "--comment", "the \x1b[31mstore is back")
	eventually.True(t, "the first replays", func() bool { return strings.Contains(running.Out.String(), "Replayed ") })
	s.Signals <- syscall.SIGINT
	if code := running.Wait(t); code != app.ExitPartly {
		t.Errorf("exit %d", code)
	}
	_, rest, _ := strings.Cut(running.Err.String(), "--resume ")
	id, _, _ := strings.Cut(rest, "'")
	clitest.WantIn(t, "stderr", running.Err.String(), "interrupted; replayed ", " of 30 dead letters", "goes on")
	jobs := clitest.CountJobs(t, pool)
	if jobs == 0 || jobs == 30 || strings.Count(running.Out.String(), "Replayed ") != jobs {
		t.Errorf("%d jobs, %q", jobs, running.Out.String())
	}
	r := s.OK("dead-letter", "history")
	clitest.CheckSafe(t, r.Out)
	clitest.WantIn(t, "history", r.Out, "replay", "stopped: interrupted", "tester@host", `the \x1b[31mstore is back`, id)

	var op deadletter.Operation
	if op = clitest.Decode[[]deadletter.Operation](t, s.OK("dead-letter", "history", "--json").Out)[0]; op.ID.String() != id || op.Done != int64(jobs) {
		t.Errorf("%+v", op)
	}
	r = s.OK("dead-letter", "replay", "--resume", id, "--as", "bob")
	if n := clitest.CountJobs(t, pool); n != 30 || strings.Count(r.Out, "Replayed ") != 30-jobs {
		t.Errorf("%d jobs, %+v", n, r)
	}
	clitest.WantIn(t, "history", s.OK("dead-letter", "history").Out, "done")
	r = s.Run("dead-letter", "replay", "--resume", id)
	clitest.WantCode(t, r, app.ExitFailed)
	clitest.WantIn(t, "stderr", r.Err, "no replay that can go on")
	last := clitest.Decode[[]deadletter.Job](t, s.OK("dead-letter", "list", "--json", "--limit", "1").Out)[0]
	clitest.WantIn(t, "its history", s.OK("dead-letter", "history", last.ID.String()).Out, "replay as job "+last.ReplayJobID.String(), "by bob")
}

func TestReplay_canary_thatDies_savesTheOthers(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	for range 5 {
		clitest.Seed(t, pool, clitest.Letter{})
	}
	s := clitest.NewShell(t, pool.Config().ConnString())
	running := s.Start("dead-letter", "replay", "--all", "--yes", "--canary", "1", "--json")
	eventually.True(t, "the canary", func() bool { return clitest.CountJobs(t, pool) == 1 })
	if _, err := pool.Exec(t.Context(), "update soniq_jobs set status = 'cancelled'"); err != nil {
		t.Fatal(err)
	}
	if code := running.Wait(t); code != app.ExitPartly {
		t.Errorf("exit %d", code)
	}
	clitest.WantIn(t, "stderr", running.Err.String(), "replaying 1 first", "stopped: 1 of the first replays did not succeed; replayed 1 of 5 dead letters")
	got := clitest.Decode[struct {
		State     deadletter.OperationState
		StoppedBy string
		Total     int
		Replayed  []deadletter.Replayed
	}](t, strings.ReplaceAll(running.Out.String(), "stopped_by", "stoppedby"))
	if got.State != deadletter.OperationStopped || got.StoppedBy != deadletter.StoppedByCanary || got.Total != 5 || len(got.Replayed) != 1 {
		t.Errorf("%+v", got)
	}
	if n := clitest.CountJobs(t, pool); n != 1 {
		t.Errorf("%d jobs", n)
	}
}

// The question says what will be left alone, and why.
func TestReplay_question_namesWhatIsLeftAlone(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	for _, state := range []string{"dead", "dead", "replaying", "resolved"} {
		clitest.Seed(t, pool, clitest.Letter{State: state})
	}
	for _, sql := range []string{
		"update soniq_dead_letter_jobs set dedup_key = 'k' where state = 'dead'",
		`insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts, dead_letter_reason,
		   original_created_at, moved_to_dead_letter_at, resurrection_count, last_resurrection_at, replay_job_id)
		 values (gen_random_uuid(), 'often', '{}', 'q', 1, 1, 1, 'timeout', now(), now() - interval '1 hour', 3, now(), gen_random_uuid())`,
	} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	s := clitest.NewShell(t, pool.Config().ConnString())
	s.TTY = true
	s.Stdin = "y\n"
	r := s.Run("dead-letter", "replay", "--all")
	clitest.WantCode(t, r, app.ExitPartly)
	clitest.WantIn(t, "question", r.Err, "queue 1 dead letter again.",
		"Left alone: 1 equal to a queued job, 1 being replayed, 1 resolved, 1 replayed too often (--max-replays).")
	if n := clitest.CountJobs(t, pool); n != 1 {
		t.Errorf("%d jobs", n)
	}
	r = s.Run("dead-letter", "replay", "--job", "often", "--yes")
	clitest.WantCode(t, r, app.ExitNothing)
	clitest.WantIn(t, "stderr", r.Err, "no dead letter to replay; left alone: 1 replayed too often")
	s.OK("dead-letter", "replay", "--job", "often", "--yes", "--max-replays", "0", "--delay", "2h")
	if n := clitest.Count(t, pool, "select count(*) from soniq_jobs where job_name = 'often' and scheduled_at > now() + interval '1 hour'"); n != 1 {
		t.Errorf("%d jobs of it", n)
	}
}

func TestTag_isFoundByFilters(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := clitest.NewShell(t, pool.Config().ConnString())
	one, two := clitest.Seed(t, pool, clitest.Letter{}), clitest.Seed(t, pool, clitest.Letter{})
	if r := s.OK("dead-letter", "tag", one.String(), "ticket=OPS-7", two.String(), "owner=a=b"); r.Out != "Tagged "+one.String()+"\nTagged "+two.String()+"\n" {
		t.Errorf("%+v", r)
	}
	s.OK("dead-letter", "tag", two.String(), "ticket=")
	if jobs := clitest.Decode[[]deadletter.Job](t, s.OK("dead-letter", "list", "--tag", "ticket=OPS-7", "--tag", "owner=a=b", "--json").Out); len(jobs) != 1 || jobs[0].ID != one {
		t.Errorf("%+v", jobs)
	}
}
