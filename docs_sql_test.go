package soniq_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

var (
	sqlFence   = regexp.MustCompile("(?ms)^```sql\n(.*?)^```")
	roleOfDocs = regexp.MustCompile(`\bto (soniq_[a-z]+);`)
)

// sqlBlocks are the SQL of the pages, with the page that each is in.
func sqlBlocks(t *testing.T) (blocks [][2]string) {
	t.Helper()
	for path, text := range pages(t) {
		for _, b := range sqlFence.FindAllStringSubmatch(text, -1) {
			blocks = append(blocks, [2]string{path, b[1]})
		}
	}
	return blocks
}

// Each SQL block of the pages runs as it is written, on Soniq's tables. '...' stands for
// an id, $1 for a cursor.
func TestDocs_sql_runs(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	seen := 0
	for _, block := range sqlBlocks(t) {
		sql := strings.ReplaceAll(block[1], `'...'`, `'`+uuid.NewString()+`'`)
		sql = strings.ReplaceAll(sql, `$1`, `'0/0/00000000-0000-0000-0000-000000000000'`)
		// Roles are the whole server's.
		for _, role := range roleOfDocs.FindAllStringSubmatch(sql, -1) {
			name := role[1] + "_" + strings.ReplaceAll(uuid.NewString(), "-", "")
			sql = `create role ` + name + `;` + regexp.MustCompile(`\b`+role[1]+`\b`).ReplaceAllString(sql, name)
		}
		sql = strings.NewReplacer("begin;", "", "commit;", "").Replace(sql)
		err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(t.Context(), sql); err != nil {
				return err
			}
			return tx.Rollback(t.Context())
		})
		if err != nil && err.Error() != pgx.ErrTxClosed.Error() {
			t.Errorf("%s: %v:\n%s", block[0], err, sql)
		}
		seen++
	}
	if seen < 13 {
		t.Errorf("%d blocks were found", seen)
	}
}

// What docs/reliability.md says to watch shows what it is for, and nothing else.
func TestDocs_whatToWatch_isSeen(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	var watched []string
	for _, block := range sqlBlocks(t) {
		if block[0] == "docs/reliability.md" {
			watched = append(watched, block[1])
		}
	}
	rows := func(about string) (n int) {
		t.Helper()
		i := slices.IndexFunc(watched, func(sql string) bool { return strings.Contains(sql, about) })
		if i < 0 {
			t.Fatalf("nothing watches %s", about)
		}
		statements := strings.Split(strings.TrimSpace(watched[i]), ";\n")
		last := strings.TrimSuffix(statements[len(statements)-1], ";")
		return testkit.Count(t, pool, `select count(*) from (`+last+`) watched`)
	}
	id := uuid.New()
	testkit.Exec(t, pool, `
		insert into soniq_jobs (id, job_name, args, status, attempts, claim_token, worker_id, scheduled_at)
		values ($1, 'mail', '{}', 'processing', 1, 5, gen_random_uuid(), now() - interval '1 hour')`, id)
	testkit.Exec(t, pool, `insert into soniq_kept_outcomes (job_id, token, outcome) values ($1, 4, '{"kind": "done"}')`, id)
	if n := rows("soniq_kept_outcomes"); n != 0 {
		t.Errorf("an outcome of a lost claim waits: %d rows", n)
	}
	testkit.Exec(t, pool, `insert into soniq_kept_outcomes (job_id, token, outcome) values ($1, 5, '{"kind": "done"}')`, id)
	if n := rows("soniq_kept_outcomes"); n != 1 {
		t.Errorf("an outcome waits: %d rows", n)
	}
	testkit.Exec(t, pool, `update soniq_jobs set status = 'done' where id = $1`, id)
	if n := rows("soniq_kept_outcomes"); n != 0 {
		t.Errorf("the outcome is written: %d rows", n)
	}
	testkit.Exec(t, pool, `insert into soniq_jobs (id, job_name, args, queue, scheduled_at) values (gen_random_uuid(), 'later', '{}', 'q', now() + interval '1 hour')`)
	if n := rows("from soniq_jobs\n"); n != 0 {
		t.Errorf("no job is due: %d rows", n)
	}
	testkit.Exec(t, pool, `insert into soniq_jobs (id, job_name, args, queue) values (gen_random_uuid(), 'now', '{}', 'q')`)
	if n := rows("from soniq_jobs\n"); n != 1 {
		t.Errorf("jobs of one queue are due: %d rows", n)
	}
	// Other databases of the server may have some too.
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	if n := rows("pg_notification_queue_usage"); n < 1 {
		t.Error("a session that is idle in a transaction is not seen")
	}
}
