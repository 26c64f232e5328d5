package workerflags

import (
	"net/http"

	"soniq/internal/cli/app"
	"soniq/internal/health"
	"soniq/internal/opsserver"
)

// HealthVariable stands for the flag, and tells 'soniq health' beside the program whom to ask.
const HealthVariable = "SONIQ_HEALTH_LISTEN"

// HealthFlag makes a program answer probes.
type HealthFlag struct {
	HealthListen string `name:"health-listen" placeholder:"ADDR" help:"Answer probes at GET /livez and /readyz on ADDR: PORT or HOST:PORT, on this machine only without HOST, or unix:PATH. 0.0.0.0:PORT is all networks. Default $$SONIQ_HEALTH_LISTEN, else health_listen of the file, else none."`
}

// ServeHealth adds the probes to ops, if an address was given: by the flag, the variable or
// the configuration file.
//
// Errors: a usage error for the address.
func (f *HealthFlag) ServeHealth(a *app.App, ops *opsserver.Servers, file string, probes http.Handler) error {
	addr, source := listenAddress(a, f.HealthListen, "--health-listen", HealthVariable, file, "health_listen")
	if addr == "" {
		return nil
	}
	for _, path := range []string{health.LivePath, health.ReadyPath} {
		if err := ops.Handle(addr, path, probes); err != nil {
			return app.Usagef("%s %w", source, err)
		}
	}
	return nil
}

// listenAddress is an address, and what said it: a flag, a variable, or else the file.
func listenAddress(a *app.App, flag, flagName, variable, file, key string) (addr, source string) {
	if flag != "" {
		return flag, flagName
	}
	if addr := a.Getenv(variable); addr != "" {
		return addr, variable
	}
	return file, key
}
