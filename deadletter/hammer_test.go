package deadletter_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/internal/deadwrite"
	"soniq/internal/testdb"
)

// Workers whose replays end, in batches and in any order, beside people who
// replay, delete and clean up the same rows: nobody fails, and no dead letter
// is left with a state that isn't true.
func TestQueue_statesStayTrueUnderAllVerbsAtOnce(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	fill(t, pool, 2000)
	worker := insertWorker(t, pool)
	some := deadletter.Filter{All: true, Limit: 600}
	if _, err := q.ReplayAll(t.Context(), some, deadletter.ReplayAllOptions{}); err != nil {
		t.Fatal(err)
	}

	const rounds = 6
	together(6, func(i int) {
		for round := range rounds {
			var err error
			switch i {
			case 0:
				_, err = q.ReplayAll(t.Context(), some, deadletter.ReplayAllOptions{})
			case 1:
				_, err = q.DeleteAll(t.Context(), deadletter.Filter{State: deadletter.StateResolved})
			case 2:
				_, err = q.DeleteAll(t.Context(), deadletter.Filter{All: true, Limit: 100})
			case 3:
				_, err = q.Cleanup(t.Context(), 99*24*time.Hour+time.Duration(10-round)*time.Hour, deadletter.Filter{})
			default:
				err = work(t.Context(), pool, worker)
			}
			if err != nil {
				t.Errorf("%d, round %d: %v", i, round, err)
			}
		}
	})

	const untrue = `
		select count(*)
		from soniq_dead_letter_jobs d
		left join soniq_jobs j on j.id = d.replay_job_id
		where (d.state = 'replaying') <> coalesce(j.status in ('queued', 'processing'), false)
		   or j.status = 'done' and d.state <> 'resolved'`
	if n := value[int](t, pool, untrue); n != 0 {
		t.Errorf("%d dead letters tell a state that isn't true", n)
	}
	const twice = `select count(*) from (select from soniq_jobs group by replay_of having count(*) filter (where status in ('queued', 'processing', 'done')) > 1) x`
	if n := value[int](t, pool, twice); n != 0 {
		t.Errorf("%d dead letters were replayed twice", n)
	}
	if n := value[int](t, pool, "select count(*) from soniq_jobs where status = 'done'"); n == 0 {
		t.Error("no replay succeeded: the test tests nothing")
	}
}

// work claims replays and ends each as done, dead or cancelled, in one
// transaction.
func work(ctx context.Context, pool *pgxpool.Pool, worker uuid.UUID) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			update soniq_jobs
			set status = 'processing', worker_id = $1, attempts = 3, claim_token = 7
			where id in (select id from soniq_jobs where status = 'queued' order by random() limit 300 for update skip locked)
			returning id`, worker)
		if err != nil {
			return err
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		if err != nil {
			return err
		}
		third := len(ids) / 3
		if _, err := tx.Exec(ctx, "update soniq_jobs set status = 'done' where id = any($1)", ids[:third]); err != nil {
			return err
		}
		var deaths []deadwrite.Death
		for _, id := range ids[third : 2*third] {
			deaths = append(deaths, death(id))
		}
		moved, err := deadwrite.Move(ctx, tx, worker, deaths)
		if err != nil {
			return err
		}
		if len(moved) != len(deaths) {
			return errors.New("lost a claim")
		}
		_, err = tx.Exec(ctx, "update soniq_jobs set status = 'cancelled' where id = any($1)", ids[2*third:])
		return err
	})
}
