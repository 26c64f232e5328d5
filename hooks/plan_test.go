package hooks

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"soniq/internal/byindex"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// The outbox is full a second after it was empty. Whatever the planner knows of it, a claim
// reads the deliveries that it takes, and an outcome those that it is of.
func TestOutbox_anyStatistics_readsItsDeliveriesAlone(t *testing.T) {
	t.Parallel()
	const fill = `
		insert into soniq_hook_deliveries (hook_id, event, dead_letter_id, facts, group_key, next_attempt_at)
		select h.id, 'job.dead_lettered', gen_random_uuid(), '{}', 'g' || n % 20, now() - n * interval '1 millisecond'
		from soniq_hooks h, generate_series(1, 30000) n`
	tests := map[string][]string{
		"of none":           {fill},
		"of an empty table": {"vacuum analyze soniq_hook_deliveries", fill},
		"of a full table":   {fill, "analyze soniq_hook_deliveries", fill},
		"of a sent one":     {fill, "update soniq_hook_deliveries set state = 'delivered'", "vacuum analyze soniq_hook_deliveries", fill},
	}
	for name, before := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := testdb.New(t)
			var hook uuid.UUID
			const hooksSQL = `insert into soniq_hooks (name, kind, url) values ('a', 'webhook', 'http://127.0.0.1:9/'), ('b', 'webhook', 'http://127.0.0.1:9/') returning id`
			if err := pool.QueryRow(t.Context(), hooksSQL).Scan(&hook); err != nil {
				t.Fatal(err)
			}
			for _, sql := range append([]string{"alter table soniq_hook_deliveries set (autovacuum_enabled = off)"}, before...) {
				if _, err := pool.Exec(t.Context(), sql); err != nil {
					t.Fatalf("%s: %v", sql, err)
				}
			}
			outboxReads(t, pool, hook)
		})
	}
}

func outboxReads(t *testing.T, pool *pgxpool.Pool, hook uuid.UUID) {
	t.Helper()
	const many = 100
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	if _, err := tx.Exec(t.Context(), byindex.LookupSQL); err != nil {
		t.Fatal(err)
	}
	var server time.Time
	if err := tx.QueryRow(t.Context(), "select pg_postmaster_start_time()").Scan(&server); err != nil {
		t.Fatal(err)
	}
	lease := uuid.New()
	testkit.Touched(t, tx, outboxDueSQL, []Kind{"webhook"}, []string{}, []string{}, maxRow, true).Within(t, "the look for what is due", 10, 100)
	testkit.Touched(t, tx, outboxClaimSQL, hook, lease, many, 60.0, 0.0, true, server).Within(t, "a claim", 3*many, 40*many)
	var ids []uuid.UUID
	if err := tx.QueryRow(t.Context(), "select array_agg(id) from soniq_hook_deliveries where lease = $1", lease).Scan(&ids); err != nil || len(ids) != many {
		t.Fatalf("%d are claimed, %v", len(ids), err)
	}
	testkit.Touched(t, tx, outboxDeliveredSQL, ids[:many/2], lease, uuid.New(), 200, "").Within(t, "an outcome", 2*many, 20*many)
	testkit.Touched(t, tx, outboxFailedSQL, ids[many/2:], lease, 500, "", "no", false, 1.0, false).Within(t, "a failure", 2*many, 20*many)
}
