package engine_test

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/engine"
	"soniq/internal/testdb"
)

// chores counts the statements that have one of some texts, and those without any of them.
type chores struct {
	texts map[string]string // by what they are
	mu    sync.Mutex
	sent  map[string]int
}

func (c *chores) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	for what, text := range c.texts {
		if strings.Contains(data.SQL, text) {
			c.sent[what]++
		}
	}
	return ctx
}

func (*chores) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (c *chores) count() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.sent)
}

// tracedBy is a pool whose statements are counted.
func tracedBy(t *testing.T, tracer pgx.QueryTracer) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(testdb.NewURL(t))
	if err != nil {
		t.Fatal(err)
	}
	config.ConnConfig.Tracer = tracer
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// Of the workers of a process that are alike one expires results, moves unknown jobs and watches the
// dead letters. Where the first one stops, another one goes on. One with another grace does its own.
func TestWorkers_alikeInOneProcess_oneDoesTheChores(t *testing.T) {
	t.Parallel()
	c := &chores{sent: map[string]int{}, texts: map[string]string{
		"expiry": "delete from public.soniq_jobs", "unknown": "j.job_name <> all ($2",
		"orphans": "j.claim_token <> all",
	}}
	pool := tracedBy(t, c)
	const workers = 4
	grace := []time.Duration{0, 0, 0, time.Hour}
	for i := range workers {
		reg := engine.NewRegistry()
		noop(reg, "n")
		start(t, pool, reg, engine.WorkerConfig{UnknownGrace: grace[i]})
		waitTrue(t, fmt.Sprintf("worker %d looks for orphans", i+1), func() bool { return c.count()["orphans"] > i })
	}
	// All that a worker does at its start comes before or with its look for orphans, or right after.
	waitTrue(t, "the chores", func() bool { n := c.count(); return n["expiry"] >= 2 && n["unknown"] >= 2 })
	if n := c.count(); n["expiry"] != 2 || n["unknown"] != 2 {
		t.Errorf("%v, want two of each but of the look for orphans", n)
	}
}

// A watch over the dead letters that has nothing to say takes its turn and counts them.
func TestWorker_nothingToWarnOf_twoStatements(t *testing.T) {
	t.Parallel()
	c := &chores{sent: map[string]int{}, texts: map[string]string{"all": ""}}
	pool := tracedBy(t, c)
	workers, _ := watchers(t, pool, 1, engine.WorkerConfig{WarnDead: 10})
	exec(t, pool, `select 1`)
	before := c.count()["all"]
	for range 3 {
		aMinuteLater(t, pool, workers)
	}
	// One makes it a minute later, and one takes the turn. The count is a batch, which is not counted here.
	if n := c.count()["all"] - before; n != 6 {
		t.Errorf("%d statements, want 6", n)
	}
}
