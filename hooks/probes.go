package hooks

import (
	"context"
	"net/http"

	"soniq"
	probes "soniq/internal/health"
)

// Health answers the probes of an orchestrator for a dispatcher that runs alone: GET /livez and
// GET /readyz with 200 or 503, and with ?verbose what was checked. It asks nothing of the
// database, and takes no time. A dispatcher of a worker needs none: the worker's handler is
// enough.
//
//   - A dispatcher is live unless RunAlone has returned an error, also while its database is away.
//   - It is ready once it has read the outbox, until RunAlone's context ends, while readings don't
//     fail for 5 s on end, and the tables are there.
//   - That notifications don't arrive, or that an endpoint fails, doesn't make it unready.
func (d *Dispatcher) Health() http.Handler { return probes.Handler(d.probes.Report) }

// passed notes how a reading of the outbox went.
func (d *Dispatcher) passed(ctx context.Context, err error) {
	d.probes.Tried()
	switch {
	case err == nil:
		d.probes.Beat()
		d.probes.Claimed(nil)
	case ctx.Err() == nil:
		d.probes.Claimed(err)
	}
}

// newestMigration is the version of the tables that this release was built for.
func newestMigration() string {
	all := soniq.Migrations()
	return all[len(all)-1].String()
}
