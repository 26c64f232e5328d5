package interop

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"soniq/internal/testdb"
)

// A program in another language that follows the channel with the cursor of
// docs/channel.md misses no dead letter, whenever its connection breaks and in
// whatever order transactions end.
func TestChannel_followerIsCutOff_missesNothing(t *testing.T) {
	t.Parallel()
	t.Run("asyncpg", func(t *testing.T) {
		t.Parallel()
		if folder, ok := need(t, releases[len(releases)-1]); ok {
			pool := testdb.New(t)
			misses(t, pool, (&python{folder: folder}).command(pool.Config().ConnString(), "python", "follow.py"))
		}
	})
	t.Run("pg", func(t *testing.T) {
		t.Parallel()
		if folder, ok := need(t, nodePG); ok {
			pool := testdb.New(t)
			cmd := exec.Command("node", "follow.js")
			cmd.Dir = "testdata"
			cmd.Env = append(os.Environ(), "SONIQ_DATABASE_URL="+pool.Config().ConnString(),
				"NODE_PATH="+filepath.Join(folder, "node_modules"))
			misses(t, pool, cmd)
		}
	})
}

const dieSQL = `
insert into soniq_dead_letter_jobs (id, job_name, args, queue, priority, max_attempts, attempts,
  dead_letter_reason, original_created_at, moved_to_dead_letter_at)
select gen_random_uuid(), 'die', '{}', 'default', 100, 3, 3, 'max_retries_exceeded', now(), now()
from generate_series(1, $1)`

func misses(t *testing.T, pool *pgxpool.Pool, cmd *exec.Cmd) {
	t.Helper()
	const cuts, batch = 5, 100
	f := &follower{process: begin(t, cmd), read: map[string]int{}, announced: map[string]int{}}
	f.until(t, func() bool { return f.connections >= 1 })
	for cut := range cuts {
		// An older transaction ends after younger ones, and while the follower
		// is away.
		older, err := pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = older.Rollback(context.Background()) }()
		if _, err := older.Exec(t.Context(), dieSQL, batch); err != nil {
			t.Fatal(err)
		}
		var g errgroup.Group
		for range 3 {
			g.Go(func() error {
				return pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
					_, err := tx.Exec(t.Context(), dieSQL, batch)
					return err
				})
			})
		}
		execute(t, pool, `
			select pg_terminate_backend(pid)
			from pg_stat_activity
			where datname = current_database() and application_name = 'follower'`)
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		if err := older.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.until(t, func() bool { return f.connections >= cut+2 })
	}
	// Whoever listens hears of each.
	execute(t, pool, dieSQL, batch)
	heard := column[string](t, pool, `select id::text from soniq_dead_letter_jobs where moved_xid = (select max(moved_xid::text::bigint)::text::xid8 from soniq_dead_letter_jobs)`)
	all := column[string](t, pool, `select id::text from soniq_dead_letter_jobs`)
	if len(all) != cuts*4*batch+batch || len(heard) != batch {
		t.Fatalf("%d dead letters, %d of them the last", len(all), len(heard))
	}
	f.until(t, func() bool {
		for _, id := range heard {
			if f.announced[id] == 0 {
				return false
			}
		}
		return len(f.read) >= len(all)
	})
	for _, id := range all {
		if f.read[id] != 1 || f.announced[id] > 1 {
			t.Errorf("%s was read %d times and announced %d times", id, f.read[id], f.announced[id])
		}
	}
}

// follower is what a program that follows has told so far.
type follower struct {
	*process
	connections     int
	read, announced map[string]int
}

func (f *follower) until(t *testing.T, enough func() bool) {
	t.Helper()
	for !enough() {
		what, id, _ := strings.Cut(f.line(t), " ")
		switch what {
		case "listening":
			f.connections++
		case "read":
			f.read[id]++
		case "announced":
			f.announced[id]++
		}
	}
}
