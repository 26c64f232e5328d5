package pg_test

import (
	"slices"
	"testing"

	"github.com/google/uuid"

	"soniq/internal/pg"
	"soniq/internal/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m) }

func TestArray_thereAndBack_isTheSame(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	for _, ids := range [][]uuid.UUID{
		nil,
		{uuid.Nil},
		{uuid.Must(uuid.NewV7()), uuid.Max, uuid.New()},
	} {
		rows, _ := pool.Query(t.Context(), `select id from unnest($1::uuid[]) with ordinality as u (id, n) order by n`, pg.IDs(ids))
		got, err := pg.CollectIDs(rows)
		if err != nil || !slices.Equal(got, ids) {
			t.Errorf("%v came back as %v, error %v", ids, got, err)
		}
	}
}

// A NULL is an error, not the id of zeros.
func TestCollect_null_isAnError(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	rows, _ := pool.Query(t.Context(), `select null::uuid`)
	if got, err := pg.CollectIDs(rows); err == nil {
		t.Errorf("a NULL is read as %v", got)
	}
}
