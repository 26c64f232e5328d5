package testdb

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
)

// ForExample is [New] for an Example function, which has no [testing.TB]. done
// drops the database. It panics where New would fail the test.
func ForExample() (pool *pgxpool.Pool, done func()) {
	t := &exampleTB{}
	return New(t), t.end
}

// exampleTB is as much of a testing.TB as this package uses.
type exampleTB struct {
	testing.TB
	cleanups []func()
}

func (t *exampleTB) Helper()                           {}
func (t *exampleTB) Cleanup(f func())                  { t.cleanups = append(t.cleanups, f) }
func (t *exampleTB) Context() context.Context          { return context.Background() }
func (t *exampleTB) Errorf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
func (t *exampleTB) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

func (t *exampleTB) end() {
	for _, f := range slices.Backward(t.cleanups) {
		f()
	}
}
