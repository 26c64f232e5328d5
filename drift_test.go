package soniq_test

import (
	"testing"

	"soniq"
	"soniq/internal/testdb"
)

// A database as setup makes it has no drift, in a schema of any name.
func TestDiagnose_asSetupMadeIt_findsNothing(t *testing.T) {
	t.Parallel()
	for _, schema := range []string{"public", `My "own"`} {
		pool := testdb.NewInSchema(t, schema)
		d, err := soniq.Diagnose(t.Context(), pool, soniq.Config{Schema: schema})
		if err != nil {
			t.Fatal(err)
		}
		for _, drift := range d.Drift {
			t.Errorf("%s: %+v", schema, drift)
		}
		if len(d.Trust) > 0 {
			t.Errorf("%s: %v", schema, d.Trust)
		}
	}
}
