package byindex_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/byindex"
	"soniq/internal/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m) }

// single is a database with a table, and a pool of one connection.
func single(t *testing.T) *pgxpool.Pool {
	t.Helper()
	config := testdb.New(t).Config()
	config.MaxConns = 1
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	exec(t, pool, "create table things (id int primary key deferrable initially deferred, name text)")
	return pool
}

func exec(t *testing.T, pool *pgxpool.Pool, sql string) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func collect(ctx context.Context, pool *pgxpool.Pool, sql string, args ...any) ([]string, error) {
	rows, _ := byindex.Query(ctx, pool, sql, args...)
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

func TestQuery_tableWasEmptyWhenPlanned_readsByIndex(t *testing.T) {
	t.Parallel()
	pool := single(t)
	exec(t, pool, "vacuum analyze things")
	const sql = "select name from things where id = any ((select $1::int[])::int[]) order by id"
	for range 10 {
		if names, err := collect(t.Context(), pool, sql, []int{1}); len(names) != 0 || err != nil {
			t.Fatal(names, err)
		}
	}
	exec(t, pool, "insert into things select n, n from generate_series(1, 1000) n")
	if names, err := collect(t.Context(), pool, sql, []int{7, 8}); !slices.Equal(names, []string{"7", "8"}) || err != nil {
		t.Error(names, err)
	}
	var kept int
	if err := pool.QueryRow(t.Context(), "select generic_plans from pg_prepared_statements where statement = $1", sql).Scan(&kept); err != nil || kept < 5 {
		t.Errorf("%d runs with a kept plan, %v", kept, err)
	}
	exec(t, pool, "select pg_stat_force_next_flush()")
	var seqScans, indexScans int
	err := pool.QueryRow(t.Context(), "select seq_scan, idx_scan from pg_stat_user_tables where relname = 'things'").Scan(&seqScans, &indexScans)
	// The one is the creation of the index.
	if err != nil || seqScans > 1 || indexScans < 11 {
		t.Errorf("%d scans of the table, %d of the index, %v", seqScans, indexScans, err)
	}
}

func TestQuery_settingsEndWithIt(t *testing.T) {
	t.Parallel()
	pool := single(t)
	exec(t, pool, "set jit = on") // the server of the tests compiles nothing
	if _, err := collect(t.Context(), pool, "select name from things"); err != nil {
		t.Fatal(err)
	}
	tag, err := byindex.Exec(t.Context(), pool, "insert into things values (1, 'a'), (2, 'b')")
	if err != nil || tag.RowsAffected() != 2 {
		t.Errorf("%d rows, %v", tag.RowsAffected(), err)
	}
	var sort string
	if err := byindex.LookupRow(t.Context(), pool, "select current_setting('enable_sort')", nil, &sort); err != nil || sort != "off" {
		t.Errorf("within a look-up enable_sort is %q, %v", sort, err)
	}
	for _, setting := range []string{"enable_seqscan", "jit", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin", "enable_sort"} {
		var value string
		if err := pool.QueryRow(t.Context(), "select current_setting($1)", setting).Scan(&value); err != nil || value != "on" {
			t.Errorf("%s is %q, %v", setting, value, err)
		}
	}
}

// Nothing is told of that isn't committed.
func TestQuery_errors(t *testing.T) {
	t.Parallel()
	pool := single(t)
	for name, c := range map[string]struct{ sql, code string }{
		"not valid":       {"select nothing", "42703"},
		"while it runs":   {"select (1 / (select 0))::text", "22012"},
		"when it commits": {"insert into things values (1, 'a'), (1, 'b') returning name", "23505"},
	} {
		names, err := collect(t.Context(), pool, c.sql)
		var pgErr *pgconn.PgError
		if names != nil || !errors.As(err, &pgErr) || pgErr.Code != c.code {
			t.Errorf("%s: %v, %v", name, names, err)
		}
	}
	// Who is told of an error closes nothing; who isn't closes again.
	rows, err := byindex.Query(t.Context(), pool, "select nothing")
	if held := pool.Stat().AcquiredConns(); err == nil || held != 0 {
		t.Errorf("%v, and %d connections are not given back", err, held)
	}
	rows.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := collect(ctx, pool, "select name from things"); !errors.Is(err, context.Canceled) {
		t.Errorf("without a context: %v", err)
	}
	// The connection is none the worse.
	if n := pool.Stat().AcquiredConns(); n != 0 {
		t.Errorf("%d connections are not given back", n)
	}
	if names, err := collect(t.Context(), pool, "select 'well'"); err != nil || !slices.Equal(names, []string{"well"}) {
		t.Error(names, err)
	}
}
