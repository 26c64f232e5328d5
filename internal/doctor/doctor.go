// Package doctor examines a database for what makes Soniq slow, deaf, blind or wrong there:
// settings, sessions, tables that are not as the schema has them, workers and hooks that are
// silent, notifications that don't arrive.
//
// A [Check] is a small value: its name, and a function that adds findings to an [Exam]. All of
// them are in [Checks]. Each runs for a bounded time, in a read-only transaction of its own. One
// that can't be made, for want of a right, of time or of tables, says so, and the others go on.
//
// It changes nothing. The check of notifications sends some on a channel of its own.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq"
	"soniq/internal/pg"
	"soniq/internal/redact"
)

// Severity is how bad a finding is.
type Severity string

// The severities, the least first. Unknown is of a check that could not be made.
const (
	OK       Severity = "ok"
	Note     Severity = "note"
	Unknown  Severity = "unknown"
	Warning  Severity = "warning"
	Critical Severity = "critical"
)

var severities = []Severity{OK, Note, Unknown, Warning, Critical}

// worse reports whether a is worse than b.
func worse(a, b Severity) bool { return slices.Index(severities, a) > slices.Index(severities, b) }

// Finding is one thing that was found, in one line.
type Finding struct {
	Check    string   `json:"check"`
	Group    string   `json:"group"`
	Severity Severity `json:"severity"`
	// Problem is what was found.
	Problem string `json:"problem"`
	// Remedy is what to do. Empty where nothing is to be done.
	Remedy string `json:"remedy,omitempty"`
	// SQL are statements that do it, in their order, if it is done by statements.
	SQL []string `json:"sql,omitempty"`
}

// Report is what an examination found, in the order of [Checks].
type Report struct {
	// Status is the worst severity, ok if only notes were found.
	Status   Severity  `json:"status"`
	Findings []Finding `json:"findings"`
	// Skipped are the checks that were left out because there are no tables.
	Skipped []string `json:"skipped"`
}

// Limits are from when on something is a finding. Tests lower them.
type Limits struct {
	// OldTransaction is the age of a warning; twelve times as much is critical.
	OldTransaction time.Duration
	// LockWait is how long a session may wait for a lock on our tables.
	LockWait time.Duration
	// DeadRows is how many dead rows of a table matter, if they are a fifth of it, and Bloat how
	// many bytes of a table, if four of five are empty.
	DeadRows, Bloat int64
	// RetainedWAL is how much an unused replication slot may hold back.
	RetainedWAL int64
	// NotifyQueue is the part of the notification queue that may be used.
	NotifyQueue float64
	// Skew is by how much this machine's clock may be off.
	Skew time.Duration
	// Waiting is how long a due job, a delivery or a kept outcome may wait.
	Waiting time.Duration
	// Dead is how many dead letters are many, and Deaths how many in an hour.
	Dead, Deaths int64
	// Connections is the part of the server's connections that may be in use.
	Connections float64
}

// defaultLimits are those of 'soniq doctor'.
var defaultLimits = Limits{
	OldTransaction: 5 * time.Minute,
	LockWait:       10 * time.Second,
	DeadRows:       50_000,
	Bloat:          256 << 20,
	RetainedWAL:    1 << 30,
	NotifyQueue:    0.1,
	Skew:           2 * time.Second,
	Waiting:        5 * time.Minute,
	Dead:           1000,
	Deaths:         10,
	Connections:    0.8,
}

// Config says what to examine, and how.
type Config struct {
	// Pool leads to the database as programs use it. Required.
	Pool *pgxpool.Pool
	// Schema is that of the tables. Default public.
	Schema string
	// Listen is the connection to LISTEN on. Default that of Pool.
	Listen *pgx.ConnConfig
	// Only are the names of the checks to make. Default all.
	Only []string
	// Timeout bounds each check. Default 5 s.
	Timeout time.Duration
	// Now is this machine's time. Default [time.Now].
	Now func() time.Time
	// Limits are the tests'. Default those of the command.
	Limits *Limits
}

// Check is one examination.
type Check struct {
	Name  string
	Group string
	// About says in one line what it looks for.
	About string
	// tables: it reads Soniq's tables.
	tables bool
	// trips is how many times the timeout it may take; 0 is once.
	trips int
	// fine is what to say where nothing was found.
	fine string
	run  func(ctx context.Context, e *Exam) error
}

// Exam is one check under way.
type Exam struct {
	config Config
	limits Limits
	schema pg.Schema
	check  *Check
	// tx reads, with the schema in each statement.
	tx       pg.Querier
	findings []Finding
}

// find adds a finding.
func (e *Exam) find(s Severity, problem, remedy string, sql ...string) {
	e.findings = append(e.findings, Finding{
		Check: e.check.Name, Group: e.check.Group, Severity: s, Problem: problem, Remedy: remedy, SQL: sql,
	})
}

// mend adds a finding whose remedy is one statement.
func (e *Exam) mend(s Severity, problem, sql string) { e.find(s, problem, sql, sql) }

// ErrUnknownCheck is wrapped by the error for a name that no check has.
var ErrUnknownCheck = errors.New("no such check")

// connections are what a check may need at once: its transaction, one that sends a notification,
// and one to see whether a pooler mixes them up.
const connections = 4

// Run makes the checks.
//
// Errors: [ErrUnknownCheck]; a wrong schema name. That a check could not be made is a finding.
func Run(ctx context.Context, config Config) (Report, error) {
	schema, err := pg.NewSchema(config.Schema)
	if err != nil {
		return Report{}, err
	}
	if config.Timeout <= 0 {
		config.Timeout = 5 * time.Second
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	limits := defaultLimits
	if config.Limits != nil {
		limits = *config.Limits
	}
	checks, err := chosen(config.Only)
	if err != nil {
		return Report{}, err
	}
	if pool := config.Pool.Config(); pool.MaxConns < connections {
		pool.MaxConns = connections
		if config.Pool, err = pgxpool.NewWithConfig(ctx, pool); err != nil {
			return Report{}, fmt.Errorf("open the database: %w", err)
		}
		defer config.Pool.Close()
	}
	r := Report{Status: OK, Findings: []Finding{}, Skipped: []string{}}
	there := hasTables(ctx, config, schema)
	for i := range checks {
		check := &checks[i]
		if check.tables && there == noTables {
			r.Skipped = append(r.Skipped, check.Name)
			continue
		}
		e := &Exam{config: config, limits: limits, schema: schema, check: check}
		e.make(ctx)
		r.Findings = append(r.Findings, e.findings...)
		if ctx.Err() != nil {
			return r, ctx.Err()
		}
	}
	if len(r.Skipped) > 0 && !slices.ContainsFunc(checks, func(c Check) bool { return c.Name == schemaCheck }) {
		e := &Exam{config: config, schema: schema, check: &checks[0]}
		e.find(Critical, "there are no Soniq tables in schema "+schema.Quoted(), "soniq setup")
		r.Findings = append(r.Findings, e.findings...)
	}
	for _, f := range r.Findings {
		if f.Severity != Note && worse(f.Severity, r.Status) {
			r.Status = f.Severity
		}
	}
	return r, nil
}

// CheckNames returns an error for a name that no check has.
//
// Errors: [ErrUnknownCheck].
func CheckNames(names []string) error {
	_, err := chosen(names)
	return err
}

func chosen(names []string) ([]Check, error) {
	all := Checks()
	if len(names) == 0 {
		return all, nil
	}
	var list []Check
	for _, c := range all {
		if slices.Contains(names, c.Name) {
			list = append(list, c)
		}
	}
	for _, name := range names {
		if !slices.ContainsFunc(all, func(c Check) bool { return c.Name == name }) {
			return nil, fmt.Errorf("%w: %q", ErrUnknownCheck, name)
		}
	}
	return list, nil
}

// presence is whether there are tables.
type presence int

const (
	unknownTables presence = iota
	noTables
	someTables
)

// hasTables reports whether there are tables, as far as that can be told.
func hasTables(ctx context.Context, config Config, schema pg.Schema) presence {
	ctx, cancel := context.WithTimeout(ctx, config.Timeout)
	defer cancel()
	var there bool
	switch err := schema.Pool(config.Pool).QueryRow(ctx, `select to_regclass('public.soniq_jobs') is not null`).Scan(&there); {
	case err != nil:
		return unknownTables
	case there:
		return someTables
	}
	return noTables
}

// make makes the check, and adds what came of it.
func (e *Exam) make(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, e.config.Timeout*time.Duration(max(e.check.trips, 1)))
	defer cancel()
	err := e.within(ctx)
	switch {
	case err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		e.find(Unknown, fmt.Sprintf("could not be checked within %s", e.config.Timeout), "give it longer with --timeout, or look when the server is less busy")
	case pg.IsCode(err, pg.InsufficientPrivilege):
		e.find(Unknown, "could not be checked: "+message(err), "run it as a role that may, or: grant pg_monitor to the role")
	case soniq.IsMissing(err):
		e.find(Unknown, "could not be checked: the tables are not this release's", "soniq setup")
	case err != nil:
		e.find(Unknown, "could not be checked: "+message(err), "")
	case len(e.findings) == 0:
		e.find(OK, e.check.fine, "")
	}
}

// within runs the check in a transaction that reads.
func (e *Exam) within(ctx context.Context) error {
	pool := e.schema.Pool(e.config.Pool)
	pool.SetLogger(slog.New(slog.DiscardHandler))
	return pg.InTxWith(ctx, pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		e.tx, e.findings = tx, nil
		// The server ends a statement even where a pooler hides that nobody waits for it.
		if _, err := tx.Exec(ctx, fmt.Sprintf("set local statement_timeout = %d; set local lock_timeout = %[1]d", e.config.Timeout.Milliseconds()+1), pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
		return e.check.run(ctx, e)
	})
}

// message is an error without what only a programmer needs.
func message(err error) string {
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		return fmt.Sprintf("%s (%s)", said(refused.Message), refused.Code)
	}
	return strings.Join(strings.Fields(redact.Text(err.Error())), " ")
}

// rows calls do for each row of a query, scanned into targets.
func (e *Exam) rows(ctx context.Context, sql string, args, targets []any, do func()) error {
	rows, _ := e.tx.Query(ctx, sql, args...)
	_, err := pgx.ForEachRow(rows, targets, func() error { do(); return nil })
	return err
}
