package deadletter_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/deadletter"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

// gateSQL makes each change of a dead letter wait for an advisory lock.
const gateSQL = `
create function wait_at_gate() returns trigger language plpgsql as $$
begin
  perform pg_advisory_xact_lock(4711);
  return coalesce(new, old);
end
$$;
create trigger wait_at_gate
  before insert or update or delete on soniq_dead_letter_jobs
  for each row when (pg_trigger_depth() = 0)
  execute function wait_at_gate()`

// closeGate makes changes wait until the returned connection is closed.
func closeGate(t *testing.T, pool *pgxpool.Pool) *pgx.Conn {
	t.Helper()
	conn, err := pgx.ConnectConfig(t.Context(), pool.Config().ConnConfig)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	if _, err := conn.Exec(t.Context(), `select pg_advisory_lock(4711)`); err != nil {
		t.Fatal(err)
	}
	return conn
}

// pg_locks has the locks of all databases.
const (
	waitingSQL = `from pg_locks where locktype = 'advisory' and objid = 4711 and not granted and database = (select oid from pg_database where datname = current_database())`
	waitersSQL = `select count(*) ` + waitingSQL
)

// Whatever stops a bulk change halfway, its record says that it has stopped, and why.
// The changes are those of every verb; each waits in the middle when it is stopped.
func TestQueue_bulkChange_stopped_isRecordedAsStopped(t *testing.T) {
	t.Parallel()
	errGone := errors.New("nobody reads the output any more")
	verbs := map[string]func(context.Context, *deadletter.Queue) error{
		"replay": func(ctx context.Context, q *deadletter.Queue) error {
			_, err := q.ReplayAll(ctx, deadletter.Filter{All: true}, deadletter.ReplayAllOptions{})
			return err
		},
		"delete": func(ctx context.Context, q *deadletter.Queue) error {
			_, err := q.DeleteAll(ctx, deadletter.Filter{All: true})
			return err
		},
		"cleanup": func(ctx context.Context, q *deadletter.Queue) error {
			_, err := q.CleanupTo(ctx, time.Hour, deadletter.Filter{}, testArchive{}, deadletter.FormatJSONL)
			return err
		},
	}
	for verb, change := range verbs {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			pool := testdb.New(t)
			q := newQueue(t, pool)
			exec(t, pool, gateSQL)
			for _, by := range []string{"the caller", "a cause", "the server"} {
				exec(t, pool, `truncate soniq_dead_letter_jobs`)
				fill(t, pool, 3)
				ctx, cancel := context.WithCancelCause(t.Context())
				gate := closeGate(t, pool)
				ended := make(chan error, 1)
				go func() { ended <- change(ctx, q) }()
				eventually.True(t, "the change in its middle", func() bool { return value[int](t, pool, waitersSQL) == 1 })
				want := deadletter.StoppedByCaller
				switch by {
				case "the caller":
					cancel(nil)
				case "a cause":
					want = errGone.Error()
					cancel(errGone)
				case "the server":
					want = "57P01"
					exec(t, pool, `select pg_terminate_backend(pid) `+waitingSQL)
				}
				err := <-ended
				cancel(nil)
				if err == nil {
					t.Errorf("stopped by %s: no error", by)
				}
				ops, err := q.Operations(t.Context(), 1)
				if err != nil || len(ops) != 1 || ops[0].State != deadletter.OperationStopped || !bytes.Contains([]byte(ops[0].StoppedBy), []byte(want)) {
					t.Errorf("stopped by %s: %+v, %v", by, ops, err)
				}
				if err := gate.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
				eventually.True(t, "the end of the statement", func() bool { return value[int](t, pool, waitersSQL) == 0 })
			}
		})
	}
}

// testArchive is an archive that keeps nothing.
type testArchive struct{}

func (testArchive) Write(p []byte) (int, error) { return len(p), nil }
func (testArchive) Commit() error               { return nil }

// A process that was killed says nothing: its operation counts as stopped once its
// heartbeats are old, and can be resumed. One of 0.1.0, which has no heartbeats, gets a
// day.
func TestQueue_Operations_killedProcess_isStopped(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	q := newQueue(t, pool)
	fill(t, pool, 3)
	ctx, cancel := context.WithCancel(t.Context())
	replay, err := q.ReplayAll(ctx, deadletter.Filter{All: true}, deadletter.ReplayAllOptions{
		OnProgress: func(deadletter.Operation, []deadletter.Replayed) { cancel() },
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	id := replay.Operation.ID
	for _, test := range []struct {
		heartbeat, updated string
		want               deadletter.OperationState
	}{
		{"now()", "now() - interval '2 days'", deadletter.OperationRunning},
		{"now() - interval '110 seconds'", "now()", deadletter.OperationRunning},
		{"now() - interval '130 seconds'", "now()", deadletter.OperationStopped},
		{"null", "now() - interval '23 hours'", deadletter.OperationRunning},
		{"null", "now() - interval '25 hours'", deadletter.OperationStopped},
	} {
		exec(t, pool, fmt.Sprintf(`
			update soniq_dead_letter_operations
			set state = 'running', stopped_by = null, heartbeat_at = %s, updated_at = %s`, test.heartbeat, test.updated))
		op, err := q.Operation(t.Context(), id)
		if err != nil || op.State != test.want || (op.StoppedBy == deadletter.StoppedByLoss) != (test.want == deadletter.OperationStopped) {
			t.Errorf("heartbeat %s, updated %s: %s by %q, %v", test.heartbeat, test.updated, op.State, op.StoppedBy, err)
		}
		if err := q.PruneHistory(t.Context(), deadletter.MaintenanceOptions{}); err != nil {
			t.Fatal(err)
		}
		if got := value[string](t, pool, `select state from soniq_dead_letter_operations`); got != string(test.want) {
			t.Errorf("heartbeat %s, updated %s: a worker has written %s", test.heartbeat, test.updated, got)
		}
	}
	if result, err := q.ResumeReplay(t.Context(), id, nil); err != nil || len(result.Replayed) != 3 {
		t.Errorf("resumed: %+v, %v", result, err)
	}
}

// accountSQL makes each commit that deletes dead letters fail unless the history says, at
// that commit, how many are gone.
const accountSQL = `
create table deaths_before as select count(*) as n from soniq_dead_letter_jobs;
create function accounted() returns trigger language plpgsql as $$
begin
  if (select n from deaths_before) - (select count(*) from soniq_dead_letter_jobs)
    <> (select coalesce(sum(done), 0) from soniq_dead_letter_operations)
  then
    raise exception 'the history doesn''t say what is gone';
  end if;
  return null;
end
$$;
create constraint trigger accounted
  after delete on soniq_dead_letter_jobs
  deferrable initially deferred
  for each row when ((old.args ->> 'n')::integer % 100 = 0)
  execute function accounted()`

// Whoever kills a process that deletes can choose any moment. So what is gone stands in
// the history at each commit, also if rows are refused, and are deleted one by one.
func TestQueue_bulkDelete_killedAtAnyMoment_historySaysWhatIsGone(t *testing.T) {
	t.Parallel()
	verbs := map[string]func(context.Context, *deadletter.Queue) (int64, error){
		"delete": func(ctx context.Context, q *deadletter.Queue) (int64, error) {
			return q.DeleteAll(ctx, deadletter.Filter{All: true})
		},
		"cleanup": func(ctx context.Context, q *deadletter.Queue) (int64, error) {
			return q.Cleanup(ctx, time.Hour, deadletter.Filter{})
		},
		"cleanup to a file": func(ctx context.Context, q *deadletter.Queue) (int64, error) {
			return q.CleanupTo(ctx, time.Hour, deadletter.Filter{}, testArchive{}, deadletter.FormatJSONL)
		},
		"retention": func(ctx context.Context, q *deadletter.Queue) (int64, error) {
			return q.ApplyRetention(ctx, []deadletter.Retention{{Keep: time.Hour}}, deadletter.MaintenanceOptions{Lock: 4712})
		},
	}
	for name, verb := range verbs {
		for _, refused := range []int64{0, 1} {
			t.Run(fmt.Sprintf("%s, %d refused", name, refused), func(t *testing.T) {
				t.Parallel()
				pool := testdb.New(t)
				q := newQueue(t, pool)
				const n = 5200 // more than a batch
				fill(t, pool, n)
				exec(t, pool, accountSQL)
				if refused > 0 {
					last := "5150" // of the last batch: the oldest go first, or the newest
					if name == "delete" {
						last = "50"
					}
					exec(t, pool, `create table cases (letter uuid references soniq_dead_letter_jobs)`)
					exec(t, pool, `insert into cases select id from soniq_dead_letter_jobs where args ->> 'n' = $1`, last)
				}
				gone, err := verb(t.Context(), q)
				if gone != n-refused || (err != nil) != (refused > 0) {
					t.Fatalf("deleted %d, %v", gone, err)
				}
				ops, err := q.Operations(t.Context(), 0)
				if err != nil || len(ops) != 1 || ops[0].Done != gone {
					t.Errorf("the history has %+v, %v", ops, err)
				}
			})
		}
	}
}
