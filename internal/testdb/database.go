package testdb

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq"
	"soniq/internal/pg"
)

// Databases of tests are soniq_test_HOST_PID_TIME_NUMBER, so that those of a
// killed run are known: HOST is a digest of the machine, PID the test process,
// TIME seconds since 1970, base 36. Templates are soniq_template_DIGEST, of the
// schema.
const (
	testPrefix     = "soniq_test_"
	templatePrefix = "soniq_template_"
)

var testName = regexp.MustCompile(`^soniq_test_([0-9a-f]{8})_(\d+)_([0-9a-z]+)_\d+$`)

// abandoned is the age at which a database is a leftover whoever made it: no
// test runs that long.
const abandoned = time.Hour

func databaseName(number int) string {
	return fmt.Sprintf("%s%s_%d_%s_%d", testPrefix, hostDigest(), os.Getpid(),
		strconv.FormatInt(time.Now().Unix(), 36), number)
}

// hostDigest stands for the space in which a pid means something: the machine,
// and on Linux the container.
func hostDigest() string {
	host, _ := os.Hostname()
	namespace, _ := os.Readlink("/proc/self/ns/pid")
	return digest(host + " " + namespace)[:8]
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func templateName() string {
	text := soniq.Version + "\n" + soniq.SchemaSQL()
	for _, m := range soniq.Migrations() {
		text += m.Checksum()
	}
	return templatePrefix + digest(text)[:16]
}

const createCopySQL = `create database %s template %s`

// byFiles is the cheaper way from PostgreSQL 15 on, which would write each page of the
// template to the log. It takes 12 ms less of the server's time: the files have the one
// from which a session reads what it knows of the catalogs.
const byFiles = ` strategy file_copy`

func (s *server) createDatabase(ctx context.Context, name string, schema bool) error {
	return s.withAdmin(ctx, func(conn *pgx.Conn) error { return createDatabase(ctx, conn, s.url, name, schema) })
}

// createDatabase creates one by a connection to the server's own database, whose URL is admin.
func createDatabase(ctx context.Context, conn *pgx.Conn, admin, name string, schema bool) error {
	template := "template0"
	if schema {
		template = templateName()
	}
	create := fmt.Sprintf(createCopySQL, quote(name), quote(template))
	if major, _, _ := strings.Cut(conn.PgConn().ParameterStatus("server_version"), "."); major != "14" {
		create += byFiles
	}
	err := whenFree(ctx, conn, create)
	if schema && pg.IsCode(err, pg.InvalidCatalogName) {
		if err := makeTemplate(ctx, conn, admin, template); err != nil {
			return fmt.Errorf("make template: %w", err)
		}
		err = whenFree(ctx, conn, create)
	}
	if err != nil {
		return fmt.Errorf("create database %s: %w", name, err)
	}
	return nil
}

// templateLock is the advisory lock under which a template is made: 'soniqtpl'
// in ASCII.
const templateLock int64 = 0x736f6e697174706c

const templateExistsSQL = `select exists (select from pg_database where datname = $1)`

// makeTemplate builds the template under another name, so that a killed build
// is never copied, and forbids connections to it: a database that someone is
// connected to can't be copied.
func makeTemplate(ctx context.Context, conn *pgx.Conn, admin, template string) (err error) {
	defer func() {
		if err != nil { // and the lock with it
			_ = conn.Close(ctx)
		}
	}()
	if _, err := conn.Exec(ctx, `select pg_advisory_lock($1)`, templateLock); err != nil {
		return err
	}
	var exists bool
	if err := conn.QueryRow(ctx, templateExistsSQL, template).Scan(&exists); err != nil {
		return err
	}
	if !exists {
		building := template + "_new"
		for _, sql := range []string{
			`drop database if exists ` + quote(building) + ` with (force)`,
			`create database ` + quote(building) + ` template template0`,
		} {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return err
			}
		}
		dsn, err := withDatabase(admin, building)
		if err != nil {
			return err
		}
		if err := setUp(ctx, dsn); err != nil {
			return err
		}
		for _, sql := range []string{
			`alter database ` + quote(building) + ` with allow_connections false`,
			`alter database ` + quote(building) + ` rename to ` + quote(template),
		} {
			if err := whenFree(ctx, conn, sql); err != nil {
				return err
			}
		}
	}
	_, err = conn.Exec(ctx, `select pg_advisory_unlock($1)`, templateLock)
	return err
}

func (s *server) dropDatabase(ctx context.Context, name string) error {
	return s.withAdmin(ctx, func(conn *pgx.Conn) error {
		if err := whenFree(ctx, conn, `drop database if exists `+quote(name)+` with (force)`); err != nil {
			return fmt.Errorf("drop database %s: %w", name, err)
		}
		return nil
	})
}

// whenFree runs a statement that needs a database nobody is connected to. A
// backend may take a moment to end after its client has gone.
func whenFree(ctx context.Context, conn *pgx.Conn, sql string) error {
	for {
		_, err := conn.Exec(ctx, sql)
		if !pg.IsCode(err, pg.ObjectInUse) {
			return err
		}
		timer := time.NewTimer(20 * time.Millisecond)
		select {
		case <-ctx.Done():
			timer.Stop()
			return err
		case <-timer.C:
		}
	}
}

// A database that someone is connected to is still wanted.
const testDatabasesSQL = `
select d.datname
from pg_database d
where starts_with(d.datname, $1)
  and not exists (select from pg_stat_activity a where a.datid = d.oid)`

// Templates of former states of the schema: all but the newest few, which the
// tests of other branches may be using. They would be made again.
const oldTemplatesSQL = `
select datname
from pg_database
where starts_with(datname, $1)
order by oid desc
offset 5`

// sweep drops what earlier runs left: databases of killed ones, and templates.
func sweep(ctx context.Context, admin string) error {
	return withConn(ctx, admin, func(conn *pgx.Conn) error {
		names, err := list(ctx, conn, testDatabasesSQL, testPrefix)
		if err != nil {
			return err
		}
		names = slices.DeleteFunc(names, func(name string) bool { return !isLeftover(name, time.Now()) })
		templates, err := list(ctx, conn, oldTemplatesSQL, templatePrefix)
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := rollBackPrepared(ctx, conn, admin, name); err != nil && !pg.IsCode(err, pg.InvalidCatalogName) {
				return fmt.Errorf("roll back what is prepared in leftover database %s: %w", name, err)
			}
		}
		for _, name := range append(names, templates...) {
			// Another process may be sweeping too, or have connected just now.
			_, err := conn.Exec(ctx, `drop database if exists `+quote(name))
			if err != nil && !pg.IsCode(err, pg.ObjectInUse, pg.InvalidCatalogName) {
				return fmt.Errorf("drop leftover database %s: %w", name, err)
			}
		}
		return nil
	})
}

const preparedSQL = `
select gid
from pg_prepared_xacts
where database = $1`

// rollBackPrepared ends the transactions that a killed run prepared: they outlive
// it, keep the database from being dropped, and hold back for all databases of
// the server what pg_snapshot_xmin says. Only their own database takes the order.
func rollBackPrepared(ctx context.Context, conn *pgx.Conn, admin, name string) error {
	prepared, err := list(ctx, conn, preparedSQL, name)
	if err != nil || len(prepared) == 0 {
		return err
	}
	dsn, err := withDatabase(admin, name)
	if err != nil {
		return err
	}
	return withConn(ctx, dsn, func(conn *pgx.Conn) error {
		for _, id := range prepared {
			// Another process may be sweeping too.
			_, err := conn.Exec(ctx, `rollback prepared '`+strings.ReplaceAll(id, `'`, `''`)+`'`)
			if err != nil && !pg.IsCode(err, pg.UndefinedObject, pg.ObjectNotInPrerequisiteState) {
				return err
			}
		}
		return nil
	})
}

func list(ctx context.Context, conn *pgx.Conn, sql, prefix string) ([]string, error) {
	rows, err := conn.Query(ctx, sql, prefix)
	if err != nil {
		return nil, fmt.Errorf("list leftovers: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("list leftovers: %w", err)
	}
	return names, nil
}

func isLeftover(name string, now time.Time) bool {
	match := testName.FindStringSubmatch(name)
	if match == nil {
		return false
	}
	made, err := strconv.ParseInt(match[3], 36, 64)
	if err != nil {
		return false
	}
	if now.Sub(time.Unix(made, 0)) > abandoned {
		return true
	}
	pid, err := strconv.Atoi(match[2])
	return err == nil && match[1] == hostDigest() && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

// withAdmin runs do on a connection to the server's own database. A new one for each
// statement would take a quarter of what a test's database takes.
func (s *server) withAdmin(ctx context.Context, do func(*pgx.Conn) error) error {
	return s.admin.AcquireFunc(ctx, func(c *pgxpool.Conn) error { return do(c.Conn()) })
}

// withConn runs do on a connection of its own.
func withConn(ctx context.Context, dsn string, do func(*pgx.Conn) error) (err error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	return do(conn)
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }
