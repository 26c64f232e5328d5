// Package testdb gives each test a database of its own on a real PostgreSQL.
//
// The server is the shared 'test' server of package devdb: the first test
// process starts it, the last one out stops it. SONIQ_TEST_DATABASE_URL names
// another one, whose user must be allowed to create databases. A database with
// the schema is a copy of a template that is made once for each state of the
// schema, so it costs some 30 ms. The server's data is in memory where there is room, in
// /dev/shm/soniq-UID; it stays there, some 100 MB, until the machine is started anew.
//
// A package that uses it has
//
//	func TestMain(m *testing.M) { testdb.Main(m) }
package testdb

import (
	"context"
	"flag"
	"fmt"
	"net/url"
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"soniq"
	"soniq/internal/devdb"
)

// urlEnv names the server to use instead of the embedded one.
const urlEnv = "SONIQ_TEST_DATABASE_URL"

// timeout bounds each step: a first run may have to download and initialise
// PostgreSQL, and a machine may run many packages' tests at once.
const timeout = 2 * time.Minute

// maxConns is what a test's pool may open. The embedded server allows 40
// connections for each processor, and 300 at least.
const maxConns = 10

// server is where the tests of this process have their databases. There is one
// for the process, because testing gives tests nothing else to share: it is
// opened by the first test that needs it, and closed by Main.
type server struct {
	mu    sync.Mutex
	url   string // empty until opened
	admin *pgxpool.Pool
	lease *devdb.Lease
	count int // of the databases made
}

var shared server

// Main runs a package's tests for its TestMain: afterwards no goroutine may be
// left, and the server is let go. It exits.
//
// Parallel tests run side by side, two for each processor unless -parallel says
// how many: most of a test's time is waiting for the database, for a signal or for a
// moment to pass.
func Main(m *testing.M) {
	flag.Parse()
	if err := runSideBySide(2 * runtime.GOMAXPROCS(0)); err != nil {
		fmt.Fprintln(os.Stderr, "testdb:", err)
		os.Exit(1)
	}
	code := m.Run()
	shared.disconnect()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, "testdb:", err)
		code = 1
	}
	if err := shared.close(); err != nil {
		fmt.Fprintln(os.Stderr, "testdb:", err)
		code = 1
	}
	os.Exit(code)
}

// runSideBySide sets -parallel, unless the command line has it.
func runSideBySide(tests int) error {
	const parallel = "test.parallel"
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == parallel })
	if given {
		return nil
	}
	if err := flag.Set(parallel, strconv.Itoa(tests)); err != nil {
		return fmt.Errorf("set -parallel: %w", err)
	}
	return nil
}

// New returns a pool of at most ten connections on a fresh database with the
// schema. Both go at the end of the test, which fails if it still holds a
// connection then.
func New(t testing.TB) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(NewURL(t))
	if err != nil {
		t.Fatalf("testdb: %v", err)
	}
	config.MaxConns = maxConns
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		t.Fatalf("testdb: %v", err)
	}
	t.Cleanup(func() { closePool(t, pool) })
	return pool
}

// NewURL returns the URL of a fresh database with the schema, which is dropped
// at the end of the test whoever is still connected.
func NewURL(t testing.TB) string {
	t.Helper()
	return create(t, true)
}

// EmptyURL is [NewURL] for a database with nothing in it.
func EmptyURL(t testing.TB) string {
	t.Helper()
	return create(t, false)
}

// NewInSchema is [New] with the tables in that schema and none in public. The
// search_path of the pool's sessions is empty, so that a statement which doesn't
// name the schema fails.
func NewInSchema(t testing.TB, schema string) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(EmptyURL(t))
	if err != nil {
		t.Fatalf("testdb: %v", err)
	}
	config.MaxConns = maxConns
	config.ConnConfig.RuntimeParams["search_path"] = ""
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		t.Fatalf("testdb: %v", err)
	}
	t.Cleanup(func() { closePool(t, pool) })
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if _, err := soniq.Setup(ctx, pool, soniq.Config{Schema: schema}); err != nil {
		t.Fatalf("testdb: %v", err)
	}
	return pool
}

// StartServer returns a server of the test's own, which it may kill and
// restart. Its database 'soniq' has the schema. It is stopped at the end of the
// test.
func StartServer(t testing.TB) *devdb.Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return startServer(ctx, t, devdb.Options{Fast: true})
}

// StartServerIn is [StartServer] with the server's data in a folder below dir.
func StartServerIn(t testing.TB, dir string) *devdb.Server {
	t.Helper()
	data, err := os.MkdirTemp(dir, "soniq-postgres-")
	if err != nil {
		t.Fatalf("testdb: %v", err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(data); err != nil {
			t.Errorf("testdb: %v", err)
		}
	})
	if err := os.Chmod(data, 0o711); err != nil { //nolint:gosec // The server may run as another user.
		t.Fatalf("testdb: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return startServer(ctx, t, devdb.Options{Fast: true, Dir: data})
}

func startServer(ctx context.Context, t testing.TB, options devdb.Options) *devdb.Server {
	t.Helper()
	options.Parent = inMemory()
	s, err := devdb.Start(ctx, options)
	if err != nil {
		t.Fatalf("testdb: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			t.Errorf("testdb: %v", err)
		}
	})
	if err := setUp(ctx, s.URL()); err != nil {
		t.Fatalf("testdb: %v", err)
	}
	return s
}

func create(t testing.TB, schema bool) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	url, number, err := shared.open(ctx)
	if err != nil {
		t.Fatalf("testdb: %v", err)
	}
	name := databaseName(number)
	if err := shared.createDatabase(ctx, name, schema); err != nil {
		t.Fatalf("testdb: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		if err := shared.dropDatabase(ctx, name); err != nil {
			t.Errorf("testdb: %v", err)
		}
	})
	made, err := withDatabase(url, name)
	if err != nil {
		t.Fatalf("testdb: %v", err)
	}
	return made
}

// closePool waits for the connections of a test that has ended. One that never
// comes back is the test's mistake, and not worth hanging for.
func closePool(t testing.TB, pool *pgxpool.Pool) {
	t.Helper()
	closed := make(chan struct{})
	go func() {
		pool.Close()
		close(closed)
	}()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	select {
	case <-closed:
	case <-deadline.C:
		t.Errorf("testdb: %d connections were not given back to the pool", pool.Stat().AcquiredConns())
	}
}

// open returns the URL of the server and the number of the next database.
func (s *server) open(ctx context.Context) (string, int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count++
	if s.url != "" {
		return s.url, s.count, nil
	}
	admin := os.Getenv(urlEnv)
	if admin == "" {
		lease, err := devdb.Acquire(ctx, devdb.Options{Dir: inMemory(), Name: "test", Fast: true})
		if err != nil {
			return "", 0, err
		}
		s.lease = lease
		admin = lease.URL()
	}
	if err := sweep(ctx, admin); err != nil {
		return "", 0, err
	}
	config, err := pgxpool.ParseConfig(admin)
	if err != nil {
		return "", 0, fmt.Errorf("parse %s: %w", urlEnv, err)
	}
	// One for each test that may run at once.
	config.MaxConns = int32(2 * runtime.GOMAXPROCS(0)) //nolint:gosec // Not so many.
	if s.admin, err = pgxpool.NewWithConfig(context.Background(), config); err != nil {
		return "", 0, err
	}
	s.url = admin
	return s.url, s.count, nil
}

// disconnect closes the connections to the server.
func (s *server) disconnect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.admin != nil {
		s.admin.Close()
	}
}

func (s *server) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	lease := s.lease
	if s.admin != nil {
		s.admin.Close()
	}
	s.url, s.lease, s.admin = "", nil, nil
	if lease == nil {
		return nil
	}
	return lease.Close()
}

func setUp(ctx context.Context, dsn string) error {
	pool, err := pgxpool.New(ctx, dsn)
	if err != nil {
		return err
	}
	defer pool.Close()
	_, err = soniq.Setup(ctx, pool, soniq.Config{})
	return err
}

// withDatabase points a URL, or a DSN of keywords, at another database.
func withDatabase(dsn, name string) (string, error) {
	if _, err := pgx.ParseConfig(dsn); err != nil {
		return "", fmt.Errorf("parse %s: %w", urlEnv, err)
	}
	u, err := url.Parse(dsn)
	if err != nil || u.Scheme == "" {
		// Keywords: the last one of a name counts.
		return dsn + " dbname=" + name, nil
	}
	query := u.Query()
	query.Del("dbname")
	query.Del("database")
	u.RawQuery = query.Encode()
	u.Path = "/" + name
	return u.String(), nil
}
