package soniq

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/pg"
)

// PrebuildResult tells what [Prebuild] did.
type PrebuildResult struct {
	// Built are the indexes that this call built.
	Built []string
	// Waiting are those that can't be built before their migration.
	Waiting []WaitingIndex
}

// WaitingIndex is one that its migration builds, since it needs what a migration brings.
type WaitingIndex struct {
	Index     string `json:"index"`
	Migration string `json:"migration"`
	// Why says what is missing.
	Why string `json:"why"`
}

// pendingIndex is one of a pending migration, on a table that exists.
type pendingIndex struct {
	name, table, statement string
	migration              Migration
	// lacks are columns that it uses and that aren't there, with the migration that adds them.
	lacks []string
	// broken: it was begun and not finished.
	broken bool
}

// Prebuild builds the indexes of pending migrations CONCURRENTLY, and those that somebody dropped, while programs
// go on reading and writing the tables. [Setup] then finds them, and takes no long lock. It is for tables of
// millions of rows: on small ones [Setup] alone is as good.
//
// It holds the migration lock, so a setup waits for it. An index takes minutes on a large table, and begins
// only when the transactions that were open before it have ended. One that was begun and not finished, by a
// process that was killed, is dropped and built anew.
//
// Errors: those of [Setup]. What was built before an error is returned too.
func Prebuild(ctx context.Context, pool *pgxpool.Pool, cfg Config) (result PrebuildResult, err error) {
	err = withMigrationLock(ctx, pool, cfg, func(conn *pgx.Conn) error {
		if err := checkServer(ctx, conn); err != nil {
			return err
		}
		p := &prebuilder{pool: pool, conn: conn, cfg: cfg}
		if err := p.look(ctx); err != nil || len(p.pending) == 0 {
			return err
		}
		restore, err := p.enter(ctx)
		if err != nil {
			return err
		}
		err = p.buildAll(ctx, &result)
		if restoreErr := restore(); err == nil {
			err = restoreErr
		}
		return err
	})
	if err != nil {
		return result, fmt.Errorf("prebuild indexes: %w", err)
	}
	return result, nil
}

// prebuilder builds indexes on one connection, which holds the migration lock.
type prebuilder struct {
	pool    *pgxpool.Pool
	conn    *pgx.Conn
	cfg     Config
	home    *home
	owner   string // becomes the owner of the indexes
	pending []pendingIndex
}

// look finds what there is to build, and refuses what [Setup] refuses.
func (p *prebuilder) look(ctx context.Context) error {
	return pgx.BeginTxFunc(ctx, p.conn, readCommitted, func(tx pgx.Tx) error {
		tx = pg.PlainTx(tx)
		h, err := findHome(ctx, tx, p.cfg)
		if err != nil || !h.tables {
			return err
		}
		p.home = h
		a, err := h.audit(ctx, tx, h.user)
		if err != nil {
			return err
		}
		if err := a.refusal(h); err != nil {
			return err
		}
		if err := h.becomeOwner(ctx, tx, a); err != nil {
			return err
		}
		if err := h.mayCreate(ctx, tx); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, `select current_user`).Scan(&p.owner); err != nil {
			return fmt.Errorf("read current_user: %w", err)
		}
		statuses, err := h.statuses(ctx, tx)
		if err != nil {
			return err
		}
		if newer := (Status{Migrations: statuses}).In(Newer); len(newer) > 0 {
			e := &NewerError{}
			for _, m := range newer {
				e.Versions = append(e.Versions, m.Version)
			}
			return e
		}
		if p.pending, err = h.pendingIndexes(ctx, tx, (Status{Migrations: statuses}).In(Pending)); err != nil {
			return err
		}
		p.pending = append(p.pending, a.missingIndexes(p.pending)...)
		return nil
	})
}

// $1 the table, as it is now.
const columnsSQL = `
select a.attname::text
from pg_attribute a
where a.attrelid = to_regclass($1)
  and a.attnum > 0
  and not a.attisdropped`

// pendingIndexes are those of migrations that aren't there, or not finished, on tables that are.
func (h *home) pendingIndexes(ctx context.Context, tx pgx.Tx, pending []MigrationStatus) (list []pendingIndex, err error) {
	added := addedColumns(pending)
	for _, p := range pending {
		number, err := migrationNumber(p.Version)
		if err != nil {
			return nil, err
		}
		m := migrations()[number]
		for _, statement := range statements(m.Up) {
			found := createIndexSQL.FindStringSubmatch(statement)
			if found == nil {
				continue
			}
			i := pendingIndex{name: found[1], table: found[2], statement: statement, migration: m}
			rows, _ := tx.Query(ctx, columnsSQL, h.sql("public."+i.table))
			columns, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err != nil {
				return nil, fmt.Errorf("look up columns of %s: %w", i.table, err)
			}
			valid, exists, err := h.index(ctx, tx, i.name)
			if err != nil {
				return nil, err
			}
			if len(columns) == 0 || valid {
				continue
			}
			i.broken = exists
			i.lacks = missingColumns(statement, added[i.table], columns)
			list = append(list, i)
		}
	}
	return list, nil
}

// missingIndexes are those that migrations have made and that are gone or not finished. Where a table lacks columns,
// setup makes both.
func (a *audit) missingIndexes(pending []pendingIndex) (list []pendingIndex) {
	for _, o := range a.made {
		lacks := slices.ContainsFunc(a.made, func(c object) bool { return c.kind == "column" && c.table == o.table })
		known := slices.ContainsFunc(pending, func(p pendingIndex) bool { return p.name == o.name })
		if o.kind == "index" && !lacks && !known {
			_, exists := a.relations[o.name]
			list = append(list, pendingIndex{name: o.name, table: o.table, statement: o.statement, broken: exists})
		}
	}
	return list
}

// addedColumns are the columns that migrations add to each table, with their migration.
func addedColumns(pending []MigrationStatus) map[string]map[string]string {
	added := map[string]map[string]string{}
	for _, p := range pending {
		for _, m := range migrations() {
			if m.Version != p.Version {
				continue
			}
			for _, statement := range statements(m.Up) {
				table := addColumnsSQL.FindStringSubmatch(statement)
				if table == nil {
					continue
				}
				if added[table[1]] == nil {
					added[table[1]] = map[string]string{}
				}
				for _, c := range columnNameSQL.FindAllStringSubmatch(statement, -1) {
					added[table[1]][c[1]] = m.String()
				}
			}
		}
	}
	return added
}

var wordSQL = regexp.MustCompile(`\w+`)

// missingColumns tells which columns a statement uses that are added and aren't there.
func missingColumns(statement string, added map[string]string, columns []string) (lacks []string) {
	has := map[string]bool{}
	for _, c := range columns {
		has[c] = true
	}
	for _, word := range wordSQL.FindAllString(statement, -1) {
		if from, ok := added[word]; ok && !has[word] {
			has[word] = true
			lacks = append(lacks, fmt.Sprintf("its column %s comes with %s", word, from))
		}
	}
	return lacks
}

// The settings under which indexes are built, and those that the session had. A role's timeouts are meant
// for quick statements. $1 the role.
const (
	sessionSQL = `
select
  pg_catalog.current_setting('search_path'), pg_catalog.current_setting('role'),
  pg_catalog.current_setting('lock_timeout'), pg_catalog.current_setting('statement_timeout')`
	setSessionSQL = `
select
  pg_catalog.set_config('search_path', $1, false), pg_catalog.set_config('lock_timeout', $3, false),
  pg_catalog.set_config('statement_timeout', $4, false), pg_catalog.set_config('role', $2, false)`
)

// enter prepares the session, and returns what sets it back: the connection is the pool's.
func (p *prebuilder) enter(ctx context.Context) (restore func() error, err error) {
	var path, role, locks, statements string
	if err := pg.Plain(p.conn).QueryRow(ctx, sessionSQL).Scan(&path, &role, &locks, &statements); err != nil {
		return nil, fmt.Errorf("read settings: %w", err)
	}
	own := role
	if p.owner != p.home.user {
		own = p.owner
	}
	restore = func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		// What can't be set back must not go back to the pool, which drops a closed connection.
		if _, err := pg.Plain(p.conn).Exec(ctx, setSessionSQL, path, role, locks, statements); err != nil {
			_ = p.conn.Close(ctx)
			return fmt.Errorf("set settings back: %w", err)
		}
		return nil
	}
	if _, err := pg.Plain(p.conn).Exec(ctx, setSessionSQL, "pg_catalog, pg_temp", own, "0", "0"); err != nil {
		return nil, fmt.Errorf("prepare settings: %w", err)
	}
	return restore, nil
}

// buildAll builds what can be built, in the migrations' order.
func (p *prebuilder) buildAll(ctx context.Context, result *PrebuildResult) error {
	for _, i := range p.pending {
		if len(i.lacks) > 0 {
			result.Waiting = append(result.Waiting, WaitingIndex{i.name, i.migration.String(), strings.Join(i.lacks, ", ")})
			continue
		}
		if i.broken {
			p.cfg.progress("dropping index %s, which was begun and not finished", i.name)
			if _, err := p.conn.Exec(ctx, p.home.sql("drop index concurrently if exists public."+i.name)); err != nil {
				return fmt.Errorf("drop index %s: %w", i.name, err)
			}
		}
		if err := p.build(ctx, i); err != nil {
			return fmt.Errorf("build index %s: %w", i.name, err)
		}
		result.Built = append(result.Built, i.name)
	}
	return nil
}

// build builds one index, and tells how far it is.
func (p *prebuilder) build(ctx context.Context, i pendingIndex) error {
	begun := time.Now()
	p.cfg.progress("building index %s on %s", i.name, i.table)
	watching, stop := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		p.watch(watching, i)
	}()
	_, err := p.conn.Exec(ctx, p.home.sql(strings.Replace(i.statement, "index if not exists", "index concurrently if not exists", 1)))
	stop()
	<-watched
	if err == nil {
		p.cfg.progress("built index %s in %s", i.name, seconds(time.Since(begun)))
	}
	return err
}

// watchEvery is how often a build is looked at.
const watchEvery = 2 * time.Second

// $1 the process. Whom a build waits for is a transaction that was open before it.
const buildProgressSQL = `
select
  p.phase,
  case when p.blocks_total > 0 then 100 * p.blocks_done / p.blocks_total end,
  a.pid, a.application_name, a.state, extract(epoch from clock_timestamp() - a.xact_start)::float8
from pg_stat_progress_create_index p
left join pg_stat_activity a on a.pid = nullif(p.current_locker_pid, 0)
where p.pid = $1`

// watch tells how far a build is, from another connection, until ctx ends. Where the pool has none, it tells
// nothing.
func (p *prebuilder) watch(ctx context.Context, i pendingIndex) {
	if p.cfg.OnProgress == nil {
		return
	}
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		var phase string
		var percent *int64
		var b blocker
		err := readPinned(ctx, p.pool, func(tx pgx.Tx) error {
			return tx.QueryRow(ctx, buildProgressSQL, int64(p.conn.PgConn().PID())).Scan(&phase, &percent, &b.PID, &b.Application, &b.State, &b.Open)
		})
		if err != nil {
			continue
		}
		line := fmt.Sprintf("index %s: %s", i.name, phase)
		if percent != nil {
			line += fmt.Sprintf(", %d %%", *percent)
		}
		if b.PID != nil {
			line += heldBy([]blocker{b})
		}
		p.cfg.progress("%s", line)
	}
}
