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
