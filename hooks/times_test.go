package hooks_test

import (
	"encoding/json"
	"testing"

	"soniq/hooks"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
)

// Times that Go or JSON has not, or that can't be subtracted: a hook that somebody
// has put off for ever, say. Others are sent to and shown all the same.
func TestRows_ofAnyTime_holdUpNoOther(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	const times = `unnest(array['4713-01-01 BC', '294276-01-01', '-infinity', 'infinity']::timestamptz[]) with ordinality a (at, n)`
	exec(t, pool, `
		insert into soniq_hooks (name, kind, failing_since, blocked_until, created_at, lacks_at)
		select 'odd' || n, 'log', at, at, at, at from `+times)
	exec(t, pool, `
		insert into soniq_hook_deliveries (hook_id, event, dead_letter_id, facts, group_key, created_at, next_attempt_at, occurred_at)
		select h.id, 'job.dead_lettered', gen_random_uuid(), '{}', 'g', at, at, at from soniq_hooks h cross join `+times)
	rc := newReceiver(t, nil)
	id := addHook(t, pool, "webhook", rc.URL)
	defer dispatch(t, pool)()
	die(t, pool, 1, "job", "no")
	eventually.True(t, "the delivery", func() bool {
		return value[int](t, pool, `select count(*) from soniq_hook_deliveries where hook_id = $1 and state = 'delivered'`, id) == 1
	})
	store := storeOf(t, pool, nil)
	list, err := store.List(t.Context())
	if err != nil || len(list) != 5 {
		t.Errorf("%d hooks: %v", len(list), err)
	}
	deliveries, err := store.Deliveries(t.Context(), hooks.DeliveryFilter{Limit: 100})
	if err != nil || len(deliveries) < 5 { // the old ones may be gone
		t.Errorf("%d deliveries: %v", len(deliveries), err)
	}
	for _, v := range []any{list, deliveries} {
		if _, err := json.Marshal(v); err != nil {
			t.Error(err)
		}
	}
}
