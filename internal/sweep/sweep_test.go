package sweep

import (
	"errors"
	"testing"

	"soniq/internal/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m) }

// Where more rows can't be deleted than a pass tries, the others go in the passes
// that come: each begins somewhere else.
func TestDelete_moreRefusedThanAPassTries_othersGoInTime(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	if _, err := pool.Exec(t.Context(), `
		create table sweepings (id int primary key, kept boolean, rest text);
		create table holders (id int references sweepings);
		insert into sweepings select n, n % 50 = 0, repeat('x', 300) from generate_series(1, 3000) n;
		insert into holders select n from generate_series(1, 3000, 11) n`); err != nil {
		t.Fatal(err)
	}
	var left, passes int
	for passes = 1; passes <= 200; passes++ {
		_, err := Delete(t.Context(), pool, Table{Name: "sweepings", Where: "r.kept = $1", Args: []any{false}, Lock: 7})
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.Rows > maxRefused {
			t.Fatal(err)
		}
		const sql = "select count(*) from sweepings s where not kept and not exists (select from holders h where h.id = s.id)"
		if err := pool.QueryRow(t.Context(), sql).Scan(&left); err != nil {
			t.Fatal(err)
		}
		if left == 0 {
			break
		}
	}
	if left > 0 {
		t.Errorf("%d are left after %d passes", left, passes)
	}
	var kept int
	if err := pool.QueryRow(t.Context(), "select count(*) from sweepings where kept").Scan(&kept); err != nil || kept != 60 {
		t.Errorf("%d were to be kept, %v", kept, err)
	}
	t.Logf("%d passes", passes)
}

func TestShift(t *testing.T) {
	t.Parallel()
	if got := shift("a = $1 and b > $12 or c like 'x'", 3); got != "a = $4 and b > $15 or c like 'x'" {
		t.Error(got)
	}
}
