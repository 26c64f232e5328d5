package soniq

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/pause"
	"soniq/internal/pg"
)

// runner runs migrations, each in a transaction that holds the migration lock. All that it has to ask it
// asks first. What changes tables goes to the server at once, with the COMMIT: locks on tables are held for
// as long as the server works, and not for a round trip.
type runner struct {
	pool *pgxpool.Pool
	cfg  Config
	// lock is a wait for the migration lock that is under way.
	lock lockWait
	// patience is for how long the transaction under way waits for locks on tables, all in all.
	patience time.Duration
	// statement is the one that failed, if it was one of a script.
	statement string
	// first is what the catalog said at the beginning of an upgrade, and mended what it said before
	// something was mended.
	first, mended *audit
}

// Whoever waits for a lock on a table holds up all who come after it, and whoever may read one can keep
// the lock away, by a transaction that stays open. So a migration waits for firstPatience, and where
// that was not enough it begins anew, for twice as long each time up to mostPatience: it is never long
// that others wait, and at least pauses times as long until they do so again. mostPatience is also no
// longer than deadlock_timeout, by default, so that the server ends no statement of others for a deadlock
// with a migration.
const (
	firstPatience = 50 * time.Millisecond
	mostPatience  = time.Second
	pauses        = 5
)

// mostIdle is how long a transaction may be open between two statements. A program that is stopped, or
// whose network is gone, would keep the migration lock, for which every setup waits.
const mostIdle = 2 * time.Second

// lockPause is the least time between two tries.
const lockPause = 500 * time.Millisecond

// setupTries bounds how often a migration begins anew because another program made an object in the same
// moment: 'if not exists' looks, and then fails. Python Soniq makes soniq_migrations and its index before
// it takes the lock, in a transaction each, so that two of it at once cost two tries each. Its index and
// our records can wait for each other too: then the server ends one of the two.
const setupTries = 10

// stillTries bounds how often a migration begins anew because this program stood still for mostIdle.
const stillTries = 5

// A role's timeouts are meant for quick statements. transaction_timeout is unknown before PostgreSQL 17.
const boundsSQL = `
set local lock_timeout = %d;
set local idle_in_transaction_session_timeout = %d;
set local statement_timeout = 0;
select set_config('transaction_timeout', '0', true)
where current_setting('server_version_num')::int >= 170000`

// inTx runs do in a transaction, under the patience for locks, and again as often as it takes. What
// names it for progress.
func (r *runner) inTx(ctx context.Context, what func() string, do func(pgx.Tx, *home) error) error {
	r.patience = firstPatience
	begun, still := time.Now(), 0
	for try := 1; ; {
		found, err := r.tryTx(ctx, do)
		switch {
		case errors.Is(err, errLockHeld):
			if err := r.lock.wait(ctx, r.pool, r.cfg); err != nil {
				return err
			}
		case isCode(err, idleInTransaction):
			if still++; still == stillTries {
				return fmt.Errorf("this program stood still for over %s in a transaction, %d times, and the server ended each so that others need not wait; "+
					"nothing of it was done: run it again when the machine is less busy: %w", mostIdle, still, err)
			}
			if still == 1 {
				r.cfg.progress("this program stood still for over %s in a transaction, which the server ended so that others need not wait; it tries again", mostIdle)
			}
		case isCode(err, lockNotAvailable):
			if err := r.tellBlockers(ctx, found, what(), time.Since(begun)); err != nil {
				return err
			}
			if err := pause.For(ctx, max(pauses*r.patience, lockPause)); err != nil {
				return err
			}
			r.patience = min(2*r.patience, mostPatience)
		case try < setupTries && (errors.Is(err, errMadeAtOnce) || isCode(err, deadlockDetected)):
			try++
		default:
			return err
		}
	}
}

// tryTx runs do in a transaction, which do may commit.
func (r *runner) tryTx(ctx context.Context, do func(pgx.Tx, *home) error) (found *home, err error) {
	r.statement = ""
	err = r.pool.AcquireFunc(ctx, func(c *pgxpool.Conn) (err error) {
		raw, err := c.Conn().BeginTx(ctx, readCommitted)
		if err != nil {
			return err
		}
		defer func() {
			if !idle(raw) {
				err = errors.Join(err, raw.Rollback(ctx))
			}
		}()
		tx := pg.PlainTx(raw)
		if err := takeMigrationLock(ctx, tx); err != nil {
			return err
		}
		r.lock = lockWait{}
		if found, err = findHome(ctx, tx, r.cfg); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, fmt.Sprintf(boundsSQL, r.patience.Milliseconds(), mostIdle.Milliseconds())); err != nil {
			return fmt.Errorf("bound the waits for locks: %w", err)
		}
		if err := do(tx, found); err != nil || idle(raw) {
			return err
		}
		return raw.Commit(ctx)
	})
	return found, err
}

// idle reports whether the transaction is over.
func idle(tx pgx.Tx) bool {
	conn := tx.Conn()
	return conn.IsClosed() || conn.PgConn().TxStatus() == 'I'
}

// step is a statement of a script.
type step struct {
	// sql is for the schema, with the parameters args, each a text or an array of texts.
	sql  string
	args []any
	// source is what the migrations say, where 'public.' is before each name.
	source string
}

func (h *home) step(sql string, args ...any) step {
	return step{sql: h.sql(sql), args: args, source: strings.TrimSpace(sql)}
}

// commit sends the steps and COMMIT at once. Before the COMMIT the server refuses what somebody made while the
// transaction ran: 'if not exists' has taken it.
func (r *runner) commit(ctx context.Context, tx pgx.Tx, h *home, steps []step) error {
	_, functions := h.definitions()
	first := len(steps)
	steps = append(steps,
		step{sql: foreignObjectsSQL, args: []any{h.name(), objectNames(), h.trusted, functions}, source: "look again who owns what is there"},
		step{sql: foreignCodeSQL, args: []any{h.name(), objectNames(), h.trusted}, source: "look again what the tables run"},
		step{sql: "commit", source: "commit"})
	batch := &pgconn.Batch{}
	for _, s := range steps {
		batch.ExecParams(s.sql, s.values(), nil, nil, nil)
	}
	results, done := tx.Conn().PgConn().ExecBatch(ctx, batch), 0
	for results.NextResult() {
		if _, err := results.ResultReader().Close(); err != nil {
			break
		}
		done++
	}
	err := results.Close()
	switch {
	case err == nil && !idle(tx):
		return errors.New("the server did not commit")
	case err == nil:
		return nil
	case done >= len(steps):
		return err
	case done >= first && isCode(err, notAnInteger):
		// To begin anew is to look what it is, and to name it.
		return fmt.Errorf("%s: %w: %w", steps[done].source, errMadeAtOnce, err)
	}
	r.statement = steps[done].source
	return fmt.Errorf("%s: %w", firstLine(r.statement), err)
}

// values are the parameters as texts.
func (s step) values() (values [][]byte) {
	for _, arg := range s.args {
		switch arg := arg.(type) {
		case []string: // names of ours, which need no quotes
			values = append(values, []byte("{"+strings.Join(arg, ",")+"}"))
		default:
			values = append(values, fmt.Append(nil, arg))
		}
	}
	return values
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return strings.TrimRight(line, " (")
}

// script is what a migration has to do yet, after the locks that it needs: even where it changes nothing,
// ALTER TABLE waits for all who use the table, and CREATE INDEX for all who write it.
func (r *runner) script(h *home, a *audit, sql string) ([]step, error) {
	var todo []string
	for _, statement := range statements(sql) {
		done, err := a.isDone(statement)
		if err != nil {
			return nil, err
		}
		if done {
			continue
		}
		if index := createIndexSQL.FindStringSubmatch(statement); index != nil {
			// It was begun and not finished.
			if _, exists := a.relations[index[1]]; exists {
				todo = append(todo, "drop index if exists public."+index[1])
			}
		}
		todo = append(todo, statement)
	}
	steps := r.locks(h, a, todo)
	for _, statement := range todo {
		steps = append(steps, h.step(statement))
	}
	return steps, nil
}

// isDone reports whether a statement only adds what is there.
func (a *audit) isDone(statement string) (bool, error) {
	if table := addColumnsSQL.FindStringSubmatch(statement); table != nil {
		for _, c := range columnNameSQL.FindAllStringSubmatch(statement, -1) {
			if !slices.Contains(a.relations[table[1]].columns, c[1]) {
				return false, nil
			}
		}
		return true, nil
	}
	if names := renameSQL.FindStringSubmatch(statement); names != nil {
		// A view of either name is for older releases.
		is := func(name string) bool {
			found, ok := a.relations[name]
			return ok && found.kind != "v"
		}
		if is(names[1]) && is(names[2]) {
			return false, fmt.Errorf("%s is to become %s, and both are there: find out which has the data, and drop or rename the other one", names[1], names[2])
		}
		return is(names[2]), nil
	}
	if index := createIndexSQL.FindStringSubmatch(statement); index != nil {
		return a.relations[index[1]].valid, nil
	}
	return false, nil
}

// What a statement locks, and which of its names is the table. The first that matches counts.
var lockedBy = []struct {
	statement *regexp.Regexp
	mode      int
}{
	{regexp.MustCompile(`^alter table public\.(\w+)`), accessExclusive},
	{regexp.MustCompile(`^drop (?:table|index)(?: if exists)? public\.(\w+)`), accessExclusive},
	{regexp.MustCompile(`^drop trigger(?: if exists)? \w+ on public\.(\w+)`), accessExclusive},
	{regexp.MustCompile(`^create (?:or replace )?trigger \w+\s[^;]*?\son public\.(\w+)`), shareRowExclusive},
	{regexp.MustCompile(`^create (?:unique )?index (?:if not exists )?\w+\s+on public\.(\w+)`), share},
	{regexp.MustCompile(`^create statistics (?s:.*)\sfrom public\.(\w+)$`), shareUpdateExclusive},
}

// Modes of locks, the strongest last.
const (
	shareUpdateExclusive = iota
	share
	shareRowExclusive
	accessExclusive
)

var modeNames = [...]string{"share update exclusive", "share", "share row exclusive", "access exclusive"}

// tableLock is one that a script needs.
type tableLock struct {
	table  string
	mode   int
	source string
}

// locks take what the statements need of tables that are there, before the first of them: each table once, in
// its strongest mode, and soniq_jobs, which most wait for, last. Whoever holds a lock waits for the next one for
// a short part of the patience, since others wait for the first meanwhile.
func (r *runner) locks(h *home, a *audit, statements []string) (steps []step) {
	needed := a.locksOf(statements)
	if len(needed) == 0 {
		return nil
	}
	wait := func(d time.Duration) {
		steps = append(steps, step{sql: fmt.Sprintf("set local lock_timeout = %d", max(d.Milliseconds(), 1)), source: "set lock_timeout"})
	}
	const part = 4
	first, rest := r.patience, r.patience/part
	if len(needed) > 1 {
		first -= rest
		rest /= time.Duration(len(needed) - 1)
	}
	wait(first)
	for i, l := range needed {
		if i == 1 {
			wait(rest)
		}
		steps = append(steps, step{sql: h.sql("lock table public." + l.table + " in " + modeNames[l.mode] + " mode"), source: l.source})
	}
	wait(r.patience / part)
	return steps
}

func (a *audit) locksOf(statements []string) (needed []tableLock) {
	for _, statement := range statements {
		for _, by := range lockedBy {
			found := by.statement.FindStringSubmatch(statement)
			if found == nil {
				continue
			}
			table := found[1]
			if index := a.relations[table]; index.table != "" {
				table = index.table
			}
			if kind := a.relations[table].kind; kind != "r" && kind != "p" {
				break // it isn't there yet
			}
			i := slices.IndexFunc(needed, func(l tableLock) bool { return l.table == table })
			switch {
			case i < 0:
				needed = append(needed, tableLock{table, by.mode, statement})
			case needed[i].mode != by.mode:
				// Of the weaker two none is the stronger one.
				needed[i].mode = max(needed[i].mode, by.mode, shareRowExclusive)
				if by.mode == needed[i].mode {
					needed[i].source = statement
				}
			}
			break
		}
	}
	slices.SortFunc(needed, func(x, y tableLock) int {
		last := func(l tableLock) int {
			if l.table == "soniq_jobs" {
				return 1
			}
			return 0
		}
		return cmp.Or(last(x)-last(y), strings.Compare(x.table, y.table))
	})
	return needed
}
