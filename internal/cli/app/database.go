package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq"
	"soniq/deadletter"
	"soniq/engine"
	"soniq/internal/devdb"
	"soniq/internal/pg"
)

// connectTimeout is how long one server may take to answer, unless the URL
// says connect_timeout. A person waits no longer than that before looking
// whether the host is right.
const connectTimeout = 5 * time.Second

// ErrNoDatabase names both ways out. Falling back to a private database would
// let a misspelt variable enqueue into an empty one.
var ErrNoDatabase = &ExitError{ExitUsage, errors.New(
	"no database: give --database-url (or set SONIQ_DATABASE_URL or DATABASE_URL), or use --dev for a private one on this machine",
)}

// Database is where a command's tables are.
type Database struct {
	URL    string
	Source string // what named it, for messages
	Dev    bool
}

// Database chooses among the flags and the environment. A flag beats a
// variable, and what is Soniq's own beats DATABASE_URL, which other programs
// read too.
func (a *App) Database() (Database, error) {
	devVariable := false
	if v := a.Getenv("SONIQ_DEV"); v != "" {
		var err error
		if devVariable, err = strconv.ParseBool(v); err != nil {
			return Database{}, Usagef("SONIQ_DEV is neither 1 nor 0: %q", v)
		}
	}
	own, shared := a.Getenv("SONIQ_DATABASE_URL"), a.Getenv("DATABASE_URL")
	switch {
	case a.Dev && a.DatabaseURL != "":
		return Database{}, Usagef("--dev and --database-url exclude each other")
	case a.Dev:
		return Database{Source: "--dev", Dev: true}, nil
	case a.DatabaseURL != "":
		return Database{URL: a.DatabaseURL, Source: "--database-url"}, nil
	case devVariable && own != "":
		return Database{}, Usagef("SONIQ_DEV and SONIQ_DATABASE_URL are both set: unset one of them, or say --dev or --database-url")
	case devVariable:
		return Database{Source: "SONIQ_DEV", Dev: true}, nil
	case own != "":
		return Database{URL: own, Source: "SONIQ_DATABASE_URL"}, nil
	case shared != "":
		return Database{URL: shared, Source: "DATABASE_URL"}, nil
	default:
		return Database{}, ErrNoDatabase
	}
}

// TableSchema is the schema of Soniq's tables: --schema, else SONIQ_SCHEMA, else
// that of the worker's configuration, else public.
//
// Errors: a usage error, which names where the wrong name comes from.
func (a *App) TableSchema() (pg.Schema, error) {
	name, source := a.FileSchema, a.FileSchemaSource
	if v := a.Getenv("SONIQ_SCHEMA"); v != "" {
		name, source = v, "SONIQ_SCHEMA"
	}
	if a.Schema != nil {
		name, source = *a.Schema, "--schema"
	}
	schema, err := pg.NewSchema(name)
	if err != nil {
		return schema, Usagef("%s: %w", source, err)
	}
	return schema, nil
}

// SchemaName is what the configurations of this module's packages call Schema:
// empty where nothing names one. [App.Open] has checked it.
func (a *App) SchemaName() string {
	if a.Schema != nil {
		return *a.Schema
	}
	return cmp.Or(a.Getenv("SONIQ_SCHEMA"), a.FileSchema)
}

// Open connects to the database, and checks that it answers. The pool has one
// connection until a command needs more. The private database is started, and
// gets its tables. All is closed when the command ends. Further calls return the
// same pool.
//
// Statements are not prepared by name, which some poolers can't handle, unless the URL
// sets a mode. If no server takes writes, it connects to a read-only one: most commands
// only read.
func (a *App) Open() (*pgxpool.Pool, error) { return a.open(false) }

// OpenService is [App.Open] for a long-running program that writes. It refuses a
// read-only server, and prepares statements as the URL or pgx says.
func (a *App) OpenService() (*pgxpool.Pool, error) { return a.open(true) }

func (a *App) open(service bool) (*pgxpool.Pool, error) {
	if a.pool != nil {
		return a.pool, nil
	}
	db, err := a.Database()
	if err != nil {
		return nil, err
	}
	if _, err := a.TableSchema(); err != nil {
		return nil, err
	}
	if db.Dev {
		if db.Source == "SONIQ_DEV" && a.Getenv("DATABASE_URL") != "" {
			a.Note("SONIQ_DEV is set: using the private database, not the one of DATABASE_URL")
		}
		lease, err := devdb.Acquire(a.Ctx, devdb.Options{Logger: a.Log})
		if err != nil {
			return nil, fmt.Errorf("start the private database: %w", err)
		}
		a.AtExit(lease.Close)
		a.AtExit(a.endWith(lease))
		db.URL = lease.URL()
	}
	config, err := poolConfig(db.URL, db.Source)
	if err != nil {
		return nil, err
	}
	if !service && !strings.Contains(db.URL, "default_query_exec_mode") {
		config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	}
	if !service { // programs that run for long say what they wait for by themselves
		watchLocks(config.ConnConfig, a.Log)
	}
	pool, err := a.openPool(config, service)
	if err != nil {
		return nil, err
	}
	if db.Dev {
		if _, err := soniq.Setup(a.Ctx, pool, soniq.Config{Schema: a.SchemaName()}); err != nil {
			return nil, fmt.Errorf("set up the private database: %w", err)
		}
	}
	a.pool = pool
	if !service && !db.Dev {
		a.readClock(pool)
	}
	return pool, nil
}

// openPool opens a pool that leads to a server that answers. A pooler may refuse what the
// connections ask for.
func (a *App) openPool(config *pgxpool.Config, writes bool) (*pgxpool.Pool, error) {
	for {
		pool, err := pgxpool.NewWithConfig(a.Ctx, config)
		if err != nil {
			return nil, fmt.Errorf("open the database: %w", err)
		}
		err = pool.Ping(a.Ctx)
		if err == nil {
			a.AtExit(func() error { pool.Close(); return nil })
			pg.Schema{}.Pool(pool).SetLogger(a.Log)
			return pool, nil
		}
		pool.Close()
		config = config.Copy()
		switch {
		case pg.Unpin(config.ConnConfig, err):
		case errors.Is(err, pgconn.ErrReadOnlyConnection) && !writes && config.ConnConfig.ValidateConnect != nil && !namesTarget(config.ConnConfig):
			config.ConnConfig.ValidateConnect = nil
		default:
			return nil, err
		}
	}
}

// namesTarget reports whether a URL says which of its servers is meant.
func namesTarget(config *pgx.ConnConfig) bool {
	return strings.Contains(config.ConnString(), "target_session_attrs")
}

// errPrivateStopped ends a command after its private database was stopped. The command
// must not reconnect: it holds no lease on the database that another command starts.
var errPrivateStopped = errors.New("the private database was stopped, by 'soniq dev stop' or a crash")

// endWith ends the command's context when the lease no longer keeps its
// database. The function it returns ends the watch.
func (a *App) endWith(lease *devdb.Lease) (stop func() error) {
	ctx, end := context.WithCancelCause(a.Ctx)
	a.Ctx = ctx
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		// How long a command that has lost its database goes on unaware.
		ticker := time.NewTicker(500 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				if !lease.Held() {
					end(errPrivateStopped)
					return
				}
			}
		}
	}()
	return func() error {
		stopped := errors.Is(context.Cause(ctx), errPrivateStopped)
		end(nil)
		<-watched
		if stopped {
			return errPrivateStopped
		}
		return nil
	}
}

// poolConfig parses a URL that source named.
func poolConfig(databaseURL, source string) (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		return nil, Usagef("%s is not a database URL like postgres://USER:PASSWORD@HOST:PORT/NAME%s", source, whyNoURL(databaseURL, err))
	}
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = connectTimeout
	}
	if config.ConnConfig.RuntimeParams["application_name"] == "" {
		config.ConnConfig.RuntimeParams["application_name"] = "soniq"
	}
	pg.Pin(config.ConnConfig)
	// Two round trips, between which a pooler may go to another server connection.
	if config.ConnConfig.DefaultQueryExecMode == pgx.QueryExecModeDescribeExec {
		config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	}
	return config, nil
}

// whyNoURL says what is wrong with a database URL, if that can be said without
// a word of the URL itself: a password may be anywhere in a malformed one, and
// the parser's own message quotes it.
func whyNoURL(databaseURL string, err error) string {
	known := []string{
		"invalid port", "invalid connect_timeout", "sslmode is invalid",
		"invalid sslcertmode", "invalid require_auth", "failed to read service",
		"cannot parse pool_max_conns", "pool_max_conns too small",
	}
	text := strings.ReplaceAll(err.Error(), databaseURL, "")
	if i := slices.IndexFunc(known, func(k string) bool { return strings.Contains(text, k) }); i >= 0 {
		return ": " + known[i]
	}
	if scheme, _, found := strings.Cut(databaseURL, "://"); found && scheme != "postgres" && scheme != "postgresql" {
		return ": it does not begin with postgres://"
	}
	return ""
}

// Describe is err in one line: what failed, and what to do where that is known.
func (a *App) Describe(err error) string {
	if err, ok := pg.Explain(err); ok {
		return err.Error()
	}
	if err = a.Located(err); soniq.IsMissing(err) {
		return a.describeMissing("no Soniq tables, or older ones")
	}
	var connectErr *pgconn.ConnectError
	if errors.As(err, &connectErr) {
		return describeConnect(connectErr)
	}
	switch {
	case errors.Is(err, context.Canceled) && errors.Is(context.Cause(a.Ctx), ErrClosed):
		return ErrClosed.Error()
	case errors.Is(err, context.Canceled):
		return "interrupted"
	case pg.IsCode(err, pg.ReadOnlyTransaction):
		return "this is a standby or a read-only server, which takes no writes: connect to the primary (" + err.Error() + ")"
	case pg.IsStatementPooling(err):
		return "the pooler in between is in statement mode, which allows no transactions: " +
			"use one in session or transaction mode, or a direct connection"
	}
	return err.Error()
}

// Located replaces the error of a command that missed a table or a column by one that
// says why: the schema is older than the program, or it has no tables, or no schema was
// named and another one of the search_path has them (0.1.0 used that one). The exit code
// stays. It returns other errors as they are. Call it before Close.
func (a *App) Located(err error) error {
	if a.pool == nil || !soniq.IsMissing(err) {
		return err
	}
	why := soniq.Check(a.Ctx, a.pool, soniq.Config{Schema: a.SchemaName()})
	var other *soniq.OtherSchemaError
	var outdated *soniq.OutdatedError
	switch {
	case errors.As(why, &other):
		why = other
	case errors.As(why, &outdated):
		why = outdated
		if name := a.SchemaName(); name != "" && name != pg.DefaultSchema {
			why = fmt.Errorf("%w (soniq setup --schema %s)", outdated, ShellWord(name))
		}
	case soniq.IsMissing(why):
		why = errors.New(a.describeMissing("no Soniq tables"))
	default:
		return err
	}
	if code := ExitCode(err); code != ExitFailed {
		return &ExitError{code, why}
	}
	return why
}

// describeMissing says what the database lacks, and what to run.
func (a *App) describeMissing(lack string) string {
	name := a.SchemaName()
	if name == "" || name == pg.DefaultSchema {
		return fmt.Sprintf("the database has %s: run 'soniq setup'", lack)
	}
	return fmt.Sprintf("schema %s has %s: run: soniq setup --schema %s", name, lack, ShellWord(name))
}

// ShellWord quotes text, where needed, so that a shell reads it as one word.
func ShellWord(text string) string {
	if strings.IndexFunc(text, func(r rune) bool {
		return !(r == '_' || r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z')
	}) < 0 {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// describeConnect leaves out the attempts with other TLS modes and addresses,
// which pgx lists one a line.
func describeConnect(err *pgconn.ConnectError) string {
	if hosts := hostErrors(err); len(hosts) > 1 {
		lines := make([]string, len(hosts))
		for i, h := range hosts {
			lines[i] = h.address + ": " + describeHost(err.Config, "it", h.err)
		}
		return "no server of the URL can be used: " + strings.Join(lines, "; ")
	}
	return describeHost(err.Config, "PostgreSQL at "+address(err.Config), err)
}

// describeHost says why one server could not be connected to.
func describeHost(config *pgconn.Config, where string, err error) string {
	var pgErr *pgconn.PgError
	var dnsErr *net.DNSError
	var netErr net.Error
	switch {
	case errors.Is(err, context.Canceled):
		return "interrupted"
	case pg.IsReadOnly(err):
		return where + " is a standby or a read-only server, which takes no writes"
	case errors.As(err, &pgErr):
		switch pgErr.Code {
		case pg.InvalidCatalogName:
			return fmt.Sprintf("%s has no database %q: create it first (createdb %[2]s)", where, config.Database)
		case pg.InvalidPassword, pg.InvalidAuthorization:
			return fmt.Sprintf("%s refused user %q: %s", where, config.User, pgErr.Message)
		}
		return fmt.Sprintf("%s refused the connection: %s", where, pgErr.Message)
	case errors.As(err, &dnsErr):
		return fmt.Sprintf("cannot reach %s: %s", where, dnsErr.Err)
	case pgconn.Timeout(err) || errors.As(err, &netErr) && netErr.Timeout():
		return fmt.Sprintf("%s did not answer within %s", where, config.ConnectTimeout)
	default:
		return fmt.Sprintf("cannot reach %s: %s", where, innermost(err))
	}
}

// hostError is why one host of a URL could not be connected to.
type hostError struct {
	address string
	err     error
}

// dialed finds the host's address and name in the text of pgx's error for one attempt.
// pgx does not export the error's type.
var dialed = regexp.MustCompile(`^(\S+) \((.*?)\): `)

// hostErrors has the last attempt at each host, in the URL's order. A name with several
// addresses is one host.
func hostErrors(err *pgconn.ConnectError) (hosts []hostError) {
	joined, ok := errors.Unwrap(err).(interface{ Unwrap() []error })
	if !ok {
		return nil
	}
	for _, each := range joined.Unwrap() {
		host := ""
		var dnsErr *net.DNSError
		if m := dialed.FindStringSubmatch(each.Error()); m != nil {
			host = m[2]
			if _, port, err := net.SplitHostPort(m[1]); err == nil {
				host = net.JoinHostPort(host, port)
			}
		} else if errors.As(each, &dnsErr) {
			host = dnsErr.Name
		} else {
			continue
		}
		if i := slices.IndexFunc(hosts, func(h hostError) bool { return h.address == host }); i >= 0 {
			hosts[i].err = each
		} else {
			hosts = append(hosts, hostError{host, each})
		}
	}
	return hosts
}

// address is where config leads, without anything else of the URL.
func address(config *pgconn.Config) string {
	if strings.HasPrefix(config.Host, "/") {
		return config.Host
	}
	return net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port)))
}

// innermost is the text of the last error in err's chain: 'connection
// refused' instead of every dial that led there.
func innermost(err error) string {
	for {
		next := errors.Unwrap(err)
		if joined, ok := err.(interface{ Unwrap() []error }); ok && len(joined.Unwrap()) > 0 {
			next = joined.Unwrap()[len(joined.Unwrap())-1]
		}
		if next == nil {
			return err.Error()
		}
		err = next
	}
}

// Client is a client of the database that the flags lead to.
func (a *App) Client() (*engine.Client, error) {
	_, client, err := a.OpenClient()
	return client, err
}

// OpenClient opens the database that the flags lead to, and a client of it.
func (a *App) OpenClient() (*pgxpool.Pool, *engine.Client, error) {
	pool, err := a.Open()
	if err != nil {
		return nil, nil, err
	}
	client, err := engine.NewClient(pool, engine.ClientConfig{Schema: a.SchemaName(), ProducerID: a.person()})
	return pool, client, err
}

// DeadLetters returns the dead-letter queue of the database. Where row-level security hides all of it, that is
// the error: that there are none would be untrue.
func (a *App) DeadLetters(pool *pgxpool.Pool) (*deadletter.Queue, error) {
	if err := a.CheckRowSecurity(pool, pg.ReadsRows, "soniq_dead_letter_jobs"); err != nil {
		return nil, err
	}
	return deadletter.NewQueue(pool, deadletter.QueueConfig{Schema: a.SchemaName()})
}

// OpenDeadLetters is Open and DeadLetters, for commands that change nothing.
func (a *App) OpenDeadLetters() (*pgxpool.Pool, *deadletter.Queue, error) {
	pool, err := a.Open()
	if err != nil {
		return nil, nil, err
	}
	queue, err := a.DeadLetters(pool)
	return pool, queue, err
}

// CheckRowSecurity is [pg.CheckRowSecurity] of the schema.
func (a *App) CheckRowSecurity(pool *pgxpool.Pool, commands string, tables ...string) error {
	schema, err := a.TableSchema()
	if err != nil {
		return err
	}
	return pg.CheckRowSecurity(a.Ctx, schema.Pool(pool), commands, tables...)
}

// person is who is at the keyboard, as far as that is known: 'ada@laptop'.
// Empty leaves it to the client to name the process.
func (a *App) person() string {
	user := a.Getenv("USER")
	host, err := os.Hostname()
	if user == "" || err != nil {
		return ""
	}
	return user + "@" + host
}
