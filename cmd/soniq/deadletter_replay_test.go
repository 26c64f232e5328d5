package main

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"soniq/deadletter"
	"soniq/internal/cli/app"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

// Ctrl-C stops a bulk replay between two batches, says how to go on, and going
// on does the rest; the history tells all of it.
func TestReplay_bulk_interrupted_isResumed(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	for i := range 30 {
		seed(t, pool, letter{age: time.Duration(i+1) * time.Minute})
	}
	s := newShell(t, pool.Config().ConnString())
	if r := s.ok("dead-letter", "history"); r.err != "no operations yet\n" {
		t.Errorf("%+v", r)
	}
	running := s.start("dead-letter", "replay", "--all", "--yes", "--rate", "10/s", "--comment", "the \x1b[31mstore is back")
	eventually.True(t, "the first replays", func() bool { return strings.Contains(running.out.String(), "Replayed ") })
	s.signals <- syscall.SIGINT
	if code := running.wait(t); code != app.ExitPartly {
		t.Errorf("exit %d", code)
	}
	_, rest, _ := strings.Cut(running.err.String(), "--resume ")
	id, _, _ := strings.Cut(rest, "'")
	wantIn(t, "stderr", running.err.String(), "interrupted; replayed ", " of 30 dead letters", "goes on")
	jobs := countJobs(t, pool)
	if jobs == 0 || jobs == 30 || strings.Count(running.out.String(), "Replayed ") != jobs {
		t.Errorf("%d jobs, %q", jobs, running.out.String())
	}
	r := s.ok("dead-letter", "history")
	checkSafe(t, r.out)
	wantIn(t, "history", r.out, "replay", "stopped by interrupted", "tester@host", `the \x1b[31mstore is back`, id)

	var op deadletter.Operation
	if op = decode[[]deadletter.Operation](t, s.ok("dead-letter", "history", "--json").out)[0]; op.ID.String() != id || op.Done != int64(jobs) {
		t.Errorf("%+v", op)
	}
	r = s.ok("dead-letter", "replay", "--resume", id, "--as", "bob")
	if n := countJobs(t, pool); n != 30 || strings.Count(r.out, "Replayed ") != 30-jobs {
		t.Errorf("%d jobs, %+v", n, r)
	}
	wantIn(t, "history", s.ok("dead-letter", "history").out, "done")
	r = s.run("dead-letter", "replay", "--resume", id)
	wantCode(t, r, app.ExitFailed)
	wantIn(t, "stderr", r.err, "no replay that can go on")
	last := decode[[]deadletter.Job](t, s.ok("dead-letter", "list", "--json", "--limit", "1").out)[0]
	wantIn(t, "its history", s.ok("dead-letter", "history", last.ID.String()).out, "replay as job "+last.ReplayJobID.String(), "by bob")
}

func TestReplay_canary_thatDies_savesTheOthers(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	for range 5 {
		seed(t, pool, letter{})
	}
	s := newShell(t, pool.Config().ConnString())
	running := s.start("dead-letter", "replay", "--all", "--yes", "--canary", "1", "--json")
	eventually.True(t, "the canary", func() bool { return countJobs(t, pool) == 1 })
	if _, err := pool.Exec(t.Context(), "update soniq_jobs set status = 'cancelled'"); err != nil {
		t.Fatal(err)
	}
	if code := running.wait(t); code != app.ExitPartly {
		t.Errorf("exit %d", code)
	}
	wantIn(t, "stderr", running.err.String(), "replaying 1 first", "stopped: 1 of the first replays did not succeed; replayed 1 of 5 dead letters")
	got := decode[struct {
		State     deadletter.OperationState
		StoppedBy string
		Total     int
		Replayed  []deadletter.Replayed
	}](t, strings.ReplaceAll(running.out.String(), "stopped_by", "stoppedby"))
	if got.State != deadletter.OperationStopped || got.StoppedBy != deadletter.StoppedByCanary || got.Total != 5 || len(got.Replayed) != 1 {
		t.Errorf("%+v", got)
	}
	if n := countJobs(t, pool); n != 1 {
		t.Errorf("%d jobs", n)
	}
}

// The question says what will be left alone, and why.
func TestReplay_question_namesWhatIsLeftAlone(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	for _, state := range []string{"dead", "dead", "replaying", "resolved"} {
		seed(t, pool, letter{state: state})
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
	s := newShell(t, pool.Config().ConnString())
	s.tty = true
	s.stdin = "y\n"
	r := s.run("dead-letter", "replay", "--all")
	wantCode(t, r, app.ExitPartly)
	wantIn(t, "question", r.err, "queue 1 dead letter again.",
		"Left alone: 1 equal to a queued job, 1 being replayed, 1 resolved, 1 replayed too often (--max-replays).")
	if n := countJobs(t, pool); n != 1 {
		t.Errorf("%d jobs", n)
	}
	r = s.run("dead-letter", "replay", "--job", "often", "--yes")
	wantCode(t, r, app.ExitNothing)
	wantIn(t, "stderr", r.err, "no dead letter to replay; left alone: 1 replayed too often")
	s.ok("dead-letter", "replay", "--job", "often", "--yes", "--max-replays", "0", "--delay", "2h")
	if n := count(t, pool, "select count(*) from soniq_jobs where job_name = 'often' and scheduled_at > now() + interval '1 hour'"); n != 1 {
		t.Errorf("%d jobs of it", n)
	}
}

func TestTag_isFoundByFilters(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	s := newShell(t, pool.Config().ConnString())
	one, two := seed(t, pool, letter{}), seed(t, pool, letter{})
	if r := s.ok("dead-letter", "tag", one.String(), "ticket=OPS-7", two.String(), "owner=a=b"); r.out != "Tagged "+one.String()+"\nTagged "+two.String()+"\n" {
		t.Errorf("%+v", r)
	}
	s.ok("dead-letter", "tag", two.String(), "ticket=")
	if jobs := decode[[]deadletter.Job](t, s.ok("dead-letter", "list", "--tag", "ticket=OPS-7", "--tag", "owner=a=b", "--json").out); len(jobs) != 1 || jobs[0].ID != one {
		t.Errorf("%+v", jobs)
	}
}
