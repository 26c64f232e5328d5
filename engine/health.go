package engine

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"soniq/internal/health"
	"soniq/internal/rights"
	"soniq/internal/roles"
)

// Health answers the probes of an orchestrator: GET /livez and GET /readyz with 200 or 503, and
// with ?verbose what was checked. It asks nothing of the database, and takes no time.
//
//   - A worker is live unless Run has returned an error. A busy worker is live, one that drains,
//     and one whose database is away.
//   - It is ready once Run has registered it, until Run's context ends, while a heartbeat was
//     written within 15 s, claims don't fail for 5 s on end, and the tables are there.
//   - That notifications don't arrive is a warning: the worker polls then.
func (w *Worker) Health() http.Handler { return health.Handler(w.health.Report) }

// checkGrants logs in one line which rights the worker's role lacks.
//
// Errors: that it lacks some without which it can't work, or that row-level security hides what it needs.
func (w *Worker) checkGrants(ctx context.Context) error {
	grants, vital, err := rights.Lacking(ctx, w.pool)
	if err == nil && vital {
		return fmt.Errorf("the worker's role lacks rights that it can't work without: %s; %s", strings.Join(grants, "; "), rights.Hint(w.pool, roles.Worker))
	}
	if len(grants) > 0 {
		w.logger.Error("the worker's role lacks rights; outcomes and maintenance that need them wait until they are granted",
			"remedy", strings.Join(grants, "; "))
	}
	return err
}
