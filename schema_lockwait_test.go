package soniq_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq"
)

// Whoever may read a table can keep a lock away by a transaction that stays open.
// An upgrade waits for it, and nobody else: neither who enqueues nor who claims.
func TestSetup_transactionStaysOpen_holdsUpNobodyElse(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		pool          func(*testing.T) *pgxpool.Pool
		table, insert string
	}{
		"of 0.1.0":  {oldPool, "soniq_dead_letter_jobs", deathSQL},
		"of Python": {pythonPool, "soniq_jobs", insertJobSQL},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := c.pool(t)
			viewer := newRole(t, pool, "grant select on "+c.table+" to %s")
			producer := newRole(t, pool, "grant insert on soniq_jobs, soniq_dead_letter_jobs to %s")
			reads, inserts := viewer.connect(t, pool), producer.connect(t, pool)
			exec(t, reads, `set application_name = 'a report'`)
			exec(t, reads, `begin`)
			exec(t, reads, `select count(*) from `+c.table)
			var lines progress
			done := make(chan error, 1)
			go func() {
				_, err := soniq.Setup(t.Context(), pool, soniq.Config{OnProgress: lines.add})
				done <- err
			}()
			exec(t, inserts, `set statement_timeout = '3s'`)
			// Setup tries a few times meanwhile.
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for range 200 {
				<-tick.C
				exec(t, inserts, c.insert)
			}
			select {
			case err := <-done:
				t.Fatalf("it waited for nobody: %v", err)
			default:
			}
			exec(t, reads, `commit`)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if err := soniq.Check(t.Context(), pool, soniq.Config{}); err != nil {
				t.Error(err)
			}
			who := fmt.Sprintf(`process %d ("a report"), idle in transaction, whose transaction has been open for`, reads.PgConn().PID())
			if line := lines.find("has waited"); !strings.Contains(line, "alter table public."+c.table) || !strings.Contains(line, who) || strings.Contains(line, "count(") {
				t.Errorf("it told %q, want the table and %q, and no query", line, who)
			}
		})
	}
}

// Whoever keeps the lock away that a migration needs within a block is named, be it a session or a prepared
// transaction, which no session has.
func TestSetup_waitsForALock_namesWhoHoldsIt(t *testing.T) {
	t.Parallel()
	for name, hold := range map[string]func(t *testing.T, pool *pgxpool.Pool) (end func(), want string){
		"session": func(t *testing.T, pool *pgxpool.Pool) (func(), string) {
			t.Helper()
			tx, err := pool.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			exec(t, tx, insertJobSQL)
			return func() { _ = tx.Rollback(t.Context()) }, fmt.Sprintf("held by process %d", tx.Conn().PgConn().PID())
		},
		"prepared transaction": func(t *testing.T, pool *pgxpool.Pool) (func(), string) {
			t.Helper()
			gid := uuid.NewString() + " it's"
			quoted := "'" + strings.ReplaceAll(gid, "'", "''") + "'"
			exec(t, pool, `begin; `+insertJobSQL+`; prepare transaction `+quoted)
			return func() { exec(t, pool, `rollback prepared `+quoted) }, "held by the prepared transaction " + quoted
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := emptyPool(t)
			setup(t, pool)
			if _, err := soniq.MigrateDown(t.Context(), pool, soniq.Config{}, "0190"); err != nil {
				t.Fatal(err)
			}
			end, want := hold(t, pool)
			told := make(chan string, 100)
			done := make(chan error, 1)
			go func() {
				_, err := soniq.Setup(t.Context(), pool, soniq.Config{OnProgress: func(line string) { told <- line }})
				done <- err
			}()
			for line := range told {
				if strings.Contains(line, "has waited") {
					if !strings.Contains(line, want) {
						t.Errorf("it told %q, want %q", line, want)
					}
					break
				}
			}
			end()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

const deathSQL = `
insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts, dead_letter_reason, original_created_at, moved_to_dead_letter_at)
values (gen_random_uuid(), 'n', '{}', 'default', 100, 3, 3, 'timeout', now(), now())`

// progress keeps the lines that Setup tells.
type progress struct {
	mu    sync.Mutex
	lines []string
}

func (p *progress) add(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lines = append(p.lines, line)
}

// find returns the first line with this text; none where there is none.
func (p *progress) find(text string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.IndexFunc(p.lines, func(l string) bool { return strings.Contains(l, text) }); i >= 0 {
		return p.lines[i]
	}
	return ""
}
