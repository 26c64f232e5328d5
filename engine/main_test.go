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
	if url := os.Getenv(chaosURL); url != "" {
		os.Exit(runChaosWorker(url))
	}
	testdb.Main(m)
}
