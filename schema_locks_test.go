package soniq_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq"
)

// strongLocksSQL are the locks on tables that keep others from writing or reading them; those of tables that the
// transaction makes are not visible from outside. $1 the application.
const strongLocksSQL = `
select l.relation::regclass::text || ' in ' || l.mode
from pg_locks l
join pg_stat_activity a on a.pid = l.pid
join pg_class c on c.oid = l.relation
where a.application_name = $1
  and a.datname = current_database()
  and l.granted
  and c.relname like 'soniq%'
  and c.relkind in ('r', 'p')
  and l.mode not in ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock')
order by 1`

// watchedConn calls before for each request.
type watchedConn struct {
	net.Conn
	before func()
}

func (c watchedConn) Write(b []byte) (int, error) {
	c.before()
	return c.Conn.Write(b)
}

// While a setup or its undoing waits for its own network, nobody waits for it: whenever it sends something, it
// holds no lock on a table that was there.
func TestMigrate_holdsNoLockForARoundTrip(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*testing.T) *pgxpool.Pool{
		"an empty database": emptyPool, "of 0.1.0": oldPool, "of Python": pythonPool,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := prepare(t)
			var mu sync.Mutex
			requests, held, over := 0, map[string]int{}, false
			config := pool.Config()
			config.MaxConns = 1
			config.ConnConfig.RuntimeParams["application_name"] = "watched"
			dial := config.ConnConfig.DialFunc
			config.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := dial(ctx, network, address)
				return watchedConn{conn, func() {
					mu.Lock()
					defer mu.Unlock()
					if over { // the pool is being closed
						return
					}
					rows, _ := pool.Query(t.Context(), strongLocksSQL, "watched")
					locks, err := pgx.CollectRows(rows, pgx.RowTo[string])
					if err != nil {
						t.Error(err)
					}
					requests++
					for _, l := range locks {
						held[l]++
					}
				}}, err
			}
			watched, err := pgxpool.NewWithConfig(t.Context(), config)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(watched.Close)
			setup(t, watched)
			exec(t, pool, `drop trigger soniq_jobs_inserted on soniq_jobs`)
			if mended := setup(t, watched).Mended; len(mended) != 1 {
				t.Errorf("mended %q", mended)
			}
			undone, err := soniq.MigrateDown(t.Context(), watched, soniq.Config{}, "0002")
			if err != nil || len(undone) < 20 {
				t.Errorf("undone %q, %v", undone, err)
			}
			mu.Lock()
			defer mu.Unlock()
			over = true
			if requests < 100 || len(held) > 0 {
				t.Errorf("of %d requests, some were sent while it held locks: %v", requests, held)
			}
		})
	}
}

// A migration has all its locks before it changes anything, each in the strongest mode that it needs, and that of
// soniq_jobs last: so no two sessions wait for each other because of it for longer than a part of its patience.
func TestMigrate_takesItsLocksFirst(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(*testing.T) *pgxpool.Pool{
		"an empty database": emptyPool, "of 0.1.0": oldPool, "of Python": pythonPool,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := prepare(t)
			exec(t, pool, recordsSQL)
			several := 0
			check := func(m soniq.Migration, up bool) {
				t.Helper()
				was := queryColumn[string](t, pool, `select oid::text from pg_class where relname like 'soniq%'`)
				var locked, tables []string
				err := soniq.EachStep(t.Context(), pool, m, up, func(tx pgx.Tx, sql string, lock bool) {
					held := slices.DeleteFunc(queryColumn[string](t, tx, ownLocksSQL), func(l string) bool {
						table, _, _ := strings.Cut(l, " ")
						return !slices.Contains(was, table)
					})
					if table, ok := strings.CutPrefix(sql, "lock table public."); ok {
						table, _, _ = strings.Cut(table, " ")
						tables = append(tables, table)
					}
					switch {
					case lock, len(locked) == 0 && len(held) == 1 && strings.HasPrefix(sql, "do "):
						// A block that looks itself whether there is anything to do, and takes the only lock.
						locked = held
					case !subset(held, locked):
						t.Errorf("%s, up %t: after %.60q it holds %q, and before the first change %q", m, up, sql, held, locked)
					}
				})
				if err != nil {
					t.Fatalf("%s, up %t: %v", m, up, err)
				}
				if i := slices.Index(tables, "soniq_jobs"); i >= 0 && i != len(tables)-1 {
					t.Errorf("%s locks %q, want soniq_jobs last", m, tables)
				}
				if len(tables) > 1 {
					several++
				}
			}
			all := soniq.Migrations()
			for _, m := range all {
				if queryValue[bool](t, pool, `select exists (select from soniq_migrations where version = $1)`, m.Version) {
					continue
				}
				check(m, true)
				exec(t, pool, fmt.Sprintf(`insert into soniq_migrations (version, name) values ('%s', 'x') on conflict do nothing`, m.Version))
			}
			for i := len(all) - 1; i >= 2; i-- {
				check(all[i], false)
				exec(t, pool, fmt.Sprintf(`delete from soniq_migrations where version = '%s'`, all[i].Version))
			}
			if several == 0 {
				t.Error("no migration locks several tables")
			}
		})
	}
}

// ownLocksSQL are those of the session. Weak ones hold up nobody.
const ownLocksSQL = `
select c.oid || ' in ' || l.mode || ' (' || c.relname || ')'
from pg_locks l
join pg_class c on c.oid = l.relation
where l.pid = pg_backend_pid()
  and c.relkind in ('r', 'p')
  and l.mode not in ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock')
order by 1`

// subset reports whether a lock of at least that strength was taken for each.
func subset(held, locked []string) bool {
	for _, l := range held {
		table, _, _ := strings.Cut(l, " ")
		if !slices.ContainsFunc(locked, func(had string) bool {
			return had == l || strings.HasPrefix(had, table+" in AccessExclusiveLock") ||
				strings.HasPrefix(had, table+" in ShareRowExclusiveLock") && !strings.Contains(l, "AccessExclusive")
		}) {
			return false
		}
	}
	return true
}
