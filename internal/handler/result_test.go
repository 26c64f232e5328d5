package handler

import (
	"strings"
	"testing"

	"soniq/internal/testdb"
)

// What is taken for storable is what PostgreSQL stores: else a job whose work is
// done would fail, and do it again.
func TestStorableJSON_numbers_areThoseOfPostgreSQL(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	for doc, want := range map[string]bool{
		"1e131071": true, "1e131072": false, "123e131069": true, "123e131070": false, "-1E+131071": true, "[1, {\"a\": 2e999999999}]": false,
		"1e-16383": true, "1e-16384": false, "0.1e-16382": true, "0.1e-16383": false, "1e99999999999999999999": false, "0": true, "-0.5": true,
		strings.Repeat("1", 131_072): true, strings.Repeat("1", 131_073): false,
		"0." + strings.Repeat("1", 16_383): true, "0." + strings.Repeat("1", 16_384): false,
		`{"1e999999": "1e999999\"1e999999"}`: true,
	} {
		var kind string
		err := pool.QueryRow(t.Context(), `select jsonb_typeof($1::text::jsonb)`, doc).Scan(&kind)
		clean, refused := storableJSON([]byte(doc))
		if got := refused == "" && clean != nil; got != want || (err == nil) != want {
			t.Errorf("%.40s: %v, want %v; PostgreSQL says %v", doc, got, want, err)
		}
	}
}
