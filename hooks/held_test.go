package hooks_test

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"soniq/hooks"
	"soniq/internal/eventually"
	"soniq/internal/incarnation"
	"soniq/internal/pg"
	"soniq/internal/testdb"
)

// A copy of the database sends nothing, until somebody says that it is the one.
func TestDispatcher_onACopy_holdsUntilItIsAdopted(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	rc := newReceiver(t, nil)
	if _, err := pool.Exec(t.Context(), `insert into soniq_incarnations (system_identifier, database_oid, timeline, how) values ('1', 1, 1, 'first')`); err != nil {
		t.Fatal(err)
	}
	addHook(t, pool, "webhook", rc.URL)
	die(t, pool, 1, "app.job", "no")
	stop := dispatchWith(t, pool, hooks.Config{Allow: loopback})
	defer stop()
	// A dispatcher that stops sends what is due first: a copy's does not.
	dispatchWith(t, pool, hooks.Config{Allow: loopback})()
	if n := len(rc.requests()); n != 0 {
		t.Errorf("%d requests from a copy", n)
	}
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		_, _, err := incarnation.Adopt(t.Context(), tx, pg.Schema{}, incarnation.Options{})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	eventually.True(t, "a request once it is adopted", func() bool { return len(rc.requests()) == 1 })
}
