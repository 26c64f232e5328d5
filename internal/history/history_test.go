package history_test

import (
	"context"
	"fmt"
	"testing"

	"soniq/internal/history"
	"soniq/internal/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m) }

// Workers of both releases write the same history.
func TestAdd_anything_isWhatTheFunctionMakesOfIt(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	values := []string{"null", `'null'`, `'[]'`, `'{}'`, `'{"attempt": 1}'`, `'7'`, `'"text"'`, `'true'`}
	for _, n := range []int{1, 8, 9, 10, 11, 25} {
		values = append(values, fmt.Sprintf("(select jsonb_agg(jsonb_build_object('attempt', i)) from generate_series(1, %d) i)", n))
	}
	for _, stored := range values {
		for _, more := range values {
			sql := "select a is not distinct from b, a::text, b::text from (select " + history.Add("h", "m") +
				" a, soniq_add_errors(h, m) b from (select " + stored + "::jsonb h, " + more + "::jsonb m) v) x"
			var same bool
			var a, b *string
			if err := pool.QueryRow(context.Background(), sql).Scan(&same, &a, &b); err != nil {
				t.Fatalf("%s: %v", sql, err)
			}
			if !same {
				t.Errorf("%s and %s: %v, want %v", stored, more, a, b)
			}
		}
	}
}
