package engine

import "context"

// CancelsSQL is a statement that faults are injected at.
const CancelsSQL = cancelsSQL

// TokenOf is that of the claim under which the job runs whose handler's context this
// is. The handler's copy of the job doesn't have it.
func TokenOf(ctx context.Context) int64 { return ctx.Value(executionKey{}).(*execution).job.token }

// RecoverStrays is a run of the task.
func (w *Worker) RecoverStrays(ctx context.Context) error { return w.maintenance.Recovery.Orphans(ctx) }
