package engine_test

import (
	"os"
	"testing"

	"soniq/internal/testdb"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(victimURL); url != "" {
		os.Exit(victim(url))
	}
	testdb.Main(m)
}
