package soniq

import (
	"regexp"
	"slices"
	"testing"
)

// Whatever schema.sql writes behind a table's columns: setup and doctor know the table, and that
// it can be missing.
func TestObjectsOfSchema_everyTable_isKnownWithItsColumns(t *testing.T) {
	t.Parallel()
	tables := regexp.MustCompile(`(?m)^create table public\.(\w+)`).FindAllStringSubmatch(schemaSQL, -1)
	if len(tables) < 10 {
		t.Fatalf("schema.sql has %d tables", len(tables))
	}
	for _, table := range tables {
		for _, kind := range []string{"table", "column"} {
			if !slices.ContainsFunc(objectsOfSchema(), func(o object) bool {
				return o.kind == kind && (o.name == table[1] || o.table == table[1])
			}) {
				t.Errorf("no %s of %s is known", kind, table[1])
			}
		}
	}
}
