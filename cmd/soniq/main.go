// Command soniq sets up the database, runs workers whose handlers are commands
// and HTTP endpoints, adds jobs, and inspects, replays, cleans and exports the
// dead-letter queue. All of it is in internal/cli.
package main

import (
	"os"
	_ "time/tzdata" // the names of time zones, where the machine has none

	_ "golang.org/x/crypto/x509roots/fallback" // the roots of TLS, where the machine has none

	"soniq/internal/cli"
)

func main() { os.Exit(cli.Main()) }
