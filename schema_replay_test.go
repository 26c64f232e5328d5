package soniq_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/testdb"
)

// newDeadLetter makes a dead letter; replayOf is the one that the dead job
// was a replay of, if any, and which says so too.
func newDeadLetter(t *testing.T, pool *pgxpool.Pool, replayOf *uuid.UUID) uuid.UUID {
	t.Helper()
	id := queryValue[uuid.UUID](t, pool, `
		insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts,
		  dead_letter_reason, original_created_at, moved_to_dead_letter_at, replay_of)
		values (gen_random_uuid(), 'n', '{}', 'default', 100, 3, 3, 'timeout', now(), now(), $1)
		returning id`, replayOf)
	exec(t, pool, `update soniq_dead_letter_jobs set replay_job_id = $1 where id = $2`, id, replayOf)
	return id
}

// newReplay makes a running job that replays a dead letter.
func newReplay(t *testing.T, pool *pgxpool.Pool, dead uuid.UUID) uuid.UUID {
	t.Helper()
	return queryValue[uuid.UUID](t, pool, `
		with job as (
		  insert into soniq_jobs (id, job_name, args, status, replay_of)
		  values (gen_random_uuid(), 'n', '{}', 'processing', $1)
		  returning id
		)
		update soniq_dead_letter_jobs d
		set state = 'replaying', replay_job_id = job.id
		from job
		where d.id = $1
		returning job.id`, dead)
}

func state(t *testing.T, pool *pgxpool.Pool, dead uuid.UUID) string {
	t.Helper()
	return queryValue[string](t, pool, `select state from soniq_dead_letter_jobs where id = $1`, dead)
}

func expectState(t *testing.T, pool *pgxpool.Pool, dead uuid.UUID, want string) {
	t.Helper()
	if got := state(t, pool, dead); got != want {
		t.Errorf("dead letter is %s, want %s", got, want)
	}
}

// Whoever ends a replay, in whatever language, its dead letter tells.
func TestReplayTrigger_outcome_isTheDeadLettersState(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	const bury = `
		with gone as (delete from soniq_jobs where id = $1 returning *)
		insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts,
		  dead_letter_reason, original_created_at, moved_to_dead_letter_at, replay_of)
		select id, job_name, args, queue, priority, max_attempts, attempts, 'timeout', created_at, now(), replay_of
		from gone`
	for _, c := range []struct {
		name string
		sql  []string
		want string
	}{
		{"done", []string{`update soniq_jobs set status = 'done' where id = $1`}, "resolved"},
		{"cancelled", []string{`update soniq_jobs set status = 'cancelled' where id = $1`}, "dead"},
		{"deleted while running", []string{`delete from soniq_jobs where id = $1`}, "dead"},
		{"deleted while queued", []string{
			`update soniq_jobs set status = 'queued' where id = $1`,
			`delete from soniq_jobs where id = $1`,
		}, "dead"},
		{"dead again", []string{bury}, "dead"},
		{"retried", []string{`update soniq_jobs set status = 'queued', attempts = 1 where id = $1`}, "replaying"},
		{"retried and done", []string{
			`update soniq_jobs set status = 'queued' where id = $1`,
			`update soniq_jobs set status = 'done' where id = $1`,
		}, "resolved"},
		{"done and expired", []string{
			`update soniq_jobs set status = 'done' where id = $1`,
			`delete from soniq_jobs where id = $1`,
		}, "resolved"},
		// The state is set back by hand, to see that the delete leaves it.
		{"done row deleted", []string{
			`update soniq_jobs set status = 'done' where id = $1`,
			`update soniq_dead_letter_jobs set state = 'replaying' where replay_job_id = $1`,
			`delete from soniq_jobs where id = $1`,
		}, "replaying"},
		{"cancelled row deleted", []string{
			`update soniq_jobs set status = 'cancelled' where id = $1`,
			`update soniq_dead_letter_jobs set state = 'replaying' where replay_job_id = $1`,
			`delete from soniq_jobs where id = $1`,
		}, "replaying"},
		{"done row touched", []string{
			`update soniq_jobs set status = 'done' where id = $1`,
			`update soniq_dead_letter_jobs set state = 'replaying' where replay_job_id = $1`,
			`update soniq_jobs set expires_at = now() where id = $1`,
		}, "replaying"},
	} {
		dead, bystander := newDeadLetter(t, pool, nil), newDeadLetter(t, pool, nil)
		newReplay(t, pool, bystander)
		job := newReplay(t, pool, dead)
		for _, sql := range c.sql {
			exec(t, pool, sql, job)
		}
		if got := state(t, pool, dead); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		expectState(t, pool, bystander, "replaying")
	}
}

func TestReplayTrigger_success_resolvesTheWholeChain(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	first := newDeadLetter(t, pool, nil)
	sibling := newDeadLetter(t, pool, &first)
	second := newDeadLetter(t, pool, &first)
	third := newDeadLetter(t, pool, &second)
	exec(t, pool, `update soniq_jobs set status = 'done' where id = $1`, newReplay(t, pool, third))
	for _, dead := range []uuid.UUID{first, second, third} {
		expectState(t, pool, dead, "resolved")
	}
	expectState(t, pool, sibling, "dead")
}

// Hand-made rows may go in a circle, or lead to a row that has been deleted.
func TestReplayTrigger_brokenChain_ends(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	first := newDeadLetter(t, pool, nil)
	second := newDeadLetter(t, pool, &first)
	job := newReplay(t, pool, first)
	exec(t, pool, `update soniq_dead_letter_jobs set replay_of = $1 where id = $2`, second, first)
	exec(t, pool, `update soniq_dead_letter_jobs set replay_job_id = $1 where id = $2`, first, second)
	exec(t, pool, `update soniq_jobs set status = 'done' where id = $1`, job)
	expectState(t, pool, first, "resolved")
	expectState(t, pool, second, "resolved")

	gone := uuid.New()
	orphan := newDeadLetter(t, pool, &gone)
	exec(t, pool, `update soniq_jobs set status = 'done' where id = $1`, newReplay(t, pool, orphan))
	expectState(t, pool, orphan, "resolved")

	// A replay whose dead letter has been deleted.
	job = newReplay(t, pool, newDeadLetter(t, pool, nil))
	exec(t, pool, `delete from soniq_dead_letter_jobs`)
	exec(t, pool, `update soniq_jobs set status = 'done' where id = $1`, job)
}

func TestReplayTrigger_olderReplay_doesNotUndoANewer(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	for _, end := range []string{
		`update soniq_jobs set status = 'cancelled' where id = $1`,
		`delete from soniq_jobs where id = $1`,
	} {
		dead := newDeadLetter(t, pool, nil)
		older := newReplay(t, pool, dead)
		newer := newReplay(t, pool, dead)
		exec(t, pool, end, older)
		expectState(t, pool, dead, "replaying")
		exec(t, pool, end, newer)
		expectState(t, pool, dead, "dead")
	}
	// The success of one that was replaced is no longer the dead letter's.
	dead := newDeadLetter(t, pool, nil)
	older := newReplay(t, pool, dead)
	newer := newReplay(t, pool, dead)
	exec(t, pool, `update soniq_jobs set status = 'done' where id = $1`, older)
	expectState(t, pool, dead, "replaying")
	exec(t, pool, `update soniq_jobs set status = 'done' where id = $1`, newer)
	expectState(t, pool, dead, "resolved")
}

// Whoever may enqueue can say of a job that it replays a dead letter. The dead
// letter knows better.
func TestReplayTrigger_claimOfAJob_changesNoDeadLetter(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	parent := newDeadLetter(t, pool, nil)
	child := newDeadLetter(t, pool, &parent)
	replaying := newDeadLetter(t, pool, nil)
	newReplay(t, pool, replaying)
	ended := newDeadLetter(t, pool, nil)
	over := newReplay(t, pool, ended)
	exec(t, pool, `delete from soniq_jobs where id = $1`, over)
	before := queryColumn[string](t, pool, `select to_jsonb(d)::text from soniq_dead_letter_jobs d order by id`)
	for _, end := range []string{
		`update soniq_jobs set status = 'done' where id = $1`,
		`update soniq_jobs set status = 'cancelled' where id = $1`,
		`delete from soniq_jobs where id = $1`,
	} {
		for _, dead := range []uuid.UUID{parent, child, replaying, ended} {
			// Under an id of its own, and under that of a replay which is over.
			for _, id := range []uuid.UUID{uuid.New(), over} {
				exec(t, pool, `insert into soniq_jobs (id, job_name, args, status, replay_of) values ($1, 'n', '{}', 'processing', $2)`, id, dead)
				exec(t, pool, end, id)
				exec(t, pool, `delete from soniq_jobs where id = $1`, id)
			}
		}
		if d := difference(before, queryColumn[string](t, pool, `select to_jsonb(d)::text from soniq_dead_letter_jobs d order by id`)); len(d) > 0 {
			t.Errorf("%s:\n%s", end, strings.Join(d, "\n"))
		}
	}

	// A dead letter that claims to come of another one, as 0.1.0 leaves it of
	// such a job: its success is its own.
	liar := newDeadLetter(t, pool, nil)
	exec(t, pool, `update soniq_dead_letter_jobs set replay_of = $1 where id = $2`, child, liar)
	exec(t, pool, `update soniq_jobs set status = 'done' where id = $1`, newReplay(t, pool, liar))
	expectState(t, pool, liar, "resolved")
	expectState(t, pool, child, "dead")
	expectState(t, pool, parent, "dead")
}
