package engine_test

import (
	"flag"
	"os"
	"runtime"
	"strconv"
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
	if url := os.Getenv(fleetURL); url != "" {
		os.Exit(runFleetProcess(url))
	}
	// Many tests wait most of their time: for a heartbeat to be late, or a server to be back. The
	// command line may say otherwise.
	if err := flag.Set("test.parallel", strconv.Itoa(3*runtime.GOMAXPROCS(0))); err != nil {
		panic(err)
	}
	testdb.Main(m)
}
