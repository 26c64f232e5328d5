package soniq_test

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq"
	"soniq/internal/pg"
	"soniq/internal/testdb"
)

// migrateAs makes the test binary a program that migrates the database of beURL: tests kill it.
const (
	migrateAs = "SONIQ_TEST_MIGRATE"
	beURL     = "SONIQ_TEST_MIGRATE_URL"
)

func TestMain(m *testing.M) {
	if as := os.Getenv(migrateAs); as != "" {
		if err := migrate(as, os.Getenv(beURL)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	testdb.Main(m)
}

// migrate does one thing: 'up', 'prebuild', or 'down VERSION'.
func migrate(as, url string) error {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return err
	}
	defer pool.Close()
	what, version, _ := strings.Cut(as, " ")
	switch what {
	case "up":
		_, err = soniq.Setup(ctx, pool, soniq.Config{})
	case "down":
		_, err = soniq.MigrateDown(ctx, pool, soniq.Config{}, version)
	case "prebuild":
		_, err = soniq.Prebuild(ctx, pool, soniq.Config{})
	}
	return err
}

// patience bounds every wait of the tests. Nothing waits for it to pass.
const patience = 30 * time.Second

// pythonSchema makes the database that Python Soniq would have made.
//
//go:embed testdata/python_0001_0002.sql
var pythonSchema string

// openPool returns a pool on url whose sessions have this search_path, if any.
func openPool(t *testing.T, url, searchPath string) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	if searchPath != "" {
		config.ConnConfig.RuntimeParams["search_path"] = searchPath
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// emptyPool is on a database with nothing in it.
func emptyPool(t *testing.T) *pgxpool.Pool {
	t.Helper()
	return openPool(t, testdb.EmptyURL(t), "")
}

// pythonPool is on a database that Python Soniq made.
func pythonPool(t *testing.T) *pgxpool.Pool {
	t.Helper()
	pool := emptyPool(t)
	exec(t, pool, pythonSchema)
	return pool
}

// setup sets up the schema with this name, or else 'public'.
func setup(t *testing.T, pool *pgxpool.Pool, schema ...string) soniq.SetupResult {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	result, err := soniq.Setup(ctx, pool, soniq.Config{Schema: strings.Join(schema, "")})
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// db is a pool, a connection or a transaction.
type db interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// exec runs SQL; without arguments it may be several statements.
func exec(t *testing.T, db db, sql string, args ...any) {
	t.Helper()
	if len(args) == 0 {
		args = []any{pgx.QueryExecModeSimpleProtocol}
	}
	rows, err := db.Query(t.Context(), sql, args...)
	if err == nil {
		rows.Close()
		err = rows.Err()
	}
	if err != nil {
		t.Fatalf("%.200s: %v", sql, err)
	}
}

func queryValue[T any](t *testing.T, db db, sql string, args ...any) T {
	t.Helper()
	rows, err := db.Query(t.Context(), sql, args...)
	if err != nil {
		t.Fatalf("%.200s: %v", sql, err)
	}
	v, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("%.200s: %v", sql, err)
	}
	return v
}

func queryColumn[T any](t *testing.T, db db, sql string, args ...any) []T {
	t.Helper()
	rows, err := db.Query(t.Context(), sql, args...)
	if err != nil {
		t.Fatalf("%.200s: %v", sql, err)
	}
	values, err := pgx.CollectRows(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("%.200s: %v", sql, err)
	}
	return values
}

// await runs a query that answers with a boolean until it is true.
func await(t *testing.T, pool *pgxpool.Pool, what, sql string, args ...any) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !queryValue[bool](t, pool, sql, args...) {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not within %s", what, patience)
		}
	}
}

// listener hears what is sent on channels.
type listener struct {
	conn    *pgx.Conn
	channel string
}

// channel is the name of one of Soniq's in a schema.
func channel(t *testing.T, schema, name string) string {
	t.Helper()
	s, err := pg.NewSchema(schema)
	if err != nil {
		t.Fatal(err)
	}
	return s.Channel(name)
}

func listen(t *testing.T, pool *pgxpool.Pool, channel string) *listener {
	t.Helper()
	conn, err := pgx.ConnectConfig(t.Context(), pool.Config().ConnConfig)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(context.Background()); err != nil {
			t.Errorf("close listener: %v", err)
		}
	})
	exec(t, conn, "listen "+pgx.Identifier{channel}.Sanitize())
	return &listener{conn, channel}
}

// heard returns the payloads since the last call. It sends a mark after them
// and reads up to that: notifications come in the order of their commits, so
// one that is not there by then was not sent.
func (l *listener) heard(t *testing.T, pool *pgxpool.Pool) []string {
	t.Helper()
	const mark = "end of what was heard"
	exec(t, pool, `select pg_notify($1, $2)`, l.channel, mark)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	payloads := []string{}
	for {
		n, err := l.conn.WaitForNotification(ctx)
		if err != nil {
			t.Fatal(errors.Join(errors.New("wait for the mark"), err))
		}
		if n.Payload == mark {
			return payloads
		}
		payloads = append(payloads, n.Payload)
	}
}

// setupMeanwhile runs Setup in the background, and sends its error.
func setupMeanwhile(pool *pgxpool.Pool) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := soniq.Setup(context.Background(), pool, soniq.Config{})
		done <- err
	}()
	return done
}
