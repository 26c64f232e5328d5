package engine_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"soniq/engine"
	"soniq/internal/testdb"
)

func TestCompleteTx_workAndJobAreOneTransaction(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	exec(t, pool, `create table work (attempt int)`)
	reg := engine.NewRegistry()
	var fail bool // what the handler does on its first attempt
	var said error
	engine.HandleRaw(reg, "n", func(ctx context.Context, job *engine.Job) (any, error) {
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `insert into work values ($1)`, job.Attempts); err != nil {
				return err
			}
			if err := engine.CompleteTx(ctx, tx, map[string]int{"attempt": job.Attempts}); err != nil {
				return err
			}
			if fail && job.Attempts == 1 {
				return errors.New("rolled back")
			}
			return nil
		})
		return nil, errors.Join(err, said)
	}, soon)
	client := newClient(t, pool)
	for name, c := range map[string]struct {
		fail     bool
		said     error
		outcomes int
		result   string
	}{
		"commit":                     {false, nil, 1, `{"attempt": 1}`},
		"rollback":                   {true, nil, 2, `{"attempt": 2}`},
		"an error after the commit":  {false, errors.New("too late"), 1, `{"attempt": 1}`},
		"a snooze after the commit":  {false, engine.Snooze(0), 1, `{"attempt": 1}`},
		"permanent after the commit": {false, engine.Permanent(errors.New("too late")), 1, `{"attempt": 1}`},
	} {
		fail, said = c.fail, c.said
		exec(t, pool, `truncate work`)
		w := start(t, pool, reg, engine.WorkerConfig{})
		id := enqueue(t, client, "n", nil)
		outcomes := w.waitForJob(t, id)
		if err := w.stop(); err != nil {
			t.Fatal(err)
		}
		if len(outcomes) != c.outcomes || outcomes[len(outcomes)-1].Kind != engine.OutcomeDone {
			t.Errorf("%s: outcomes %+v", name, outcomes)
		}
		job := getJob(t, client, id)
		if job.Status != engine.StatusDone || string(job.Result) != c.result || job.ExpiresAt == nil {
			t.Errorf("%s: the job is %s with %s", name, job.Status, job.Result)
		}
		if n := queryValue[int](t, pool, `select count(*) from work`); n != 1 {
			t.Errorf("%s: the work was done %d times", name, n)
		}
	}
}

func TestCompleteTx_lostClaim_says_soThatTheWorkIsRolledBack(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	said := make(chan error, 1)
	engine.HandleRaw(reg, "n", func(ctx context.Context, job *engine.Job) (any, error) {
		exec(t, pool, `update soniq_jobs set claim_token = claim_token + 1 where id = $1`, job.ID)
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return engine.CompleteTx(ctx, tx, nil) })
		said <- err
		return nil, err
	})
	w := start(t, pool, reg, engine.WorkerConfig{})
	id := enqueue(t, newClient(t, pool), "n", nil)
	if err := receive(t, "its answer", said); !errors.Is(err, engine.ErrClaimLost) {
		t.Errorf("CompleteTx: %v, want ErrClaimLost", err)
	}
	w.waitFor(t, "the outcome", func(o []engine.Outcome) bool {
		return len(o) == 1 && o[0].Job.ID == id && o[0].Kind == engine.OutcomeLost
	})
}

func TestCompleteTx_mistakes(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	reg := engine.NewRegistry()
	said := make(chan error, 1)
	engine.HandleRaw(reg, "n", func(ctx context.Context, _ *engine.Job) (any, error) {
		return nil, pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			said <- engine.CompleteTx(ctx, tx, func() {})
			return nil
		})
	})
	w := start(t, pool, reg, engine.WorkerConfig{})
	id := enqueue(t, newClient(t, pool), "n", nil)
	var mistake *engine.ArgumentError
	if err := receive(t, "its answer", said); !errors.As(err, &mistake) {
		t.Errorf("a result that isn't JSON: %v", err)
	}
	if o := w.waitForJob(t, id); o[0].Kind != engine.OutcomeDone {
		t.Errorf("outcomes %+v", o)
	}
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error { return engine.CompleteTx(t.Context(), tx, nil) })
	if err == nil {
		t.Error("outside of a handler it works")
	}
}
