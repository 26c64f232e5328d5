package engine

import "context"

// The statements that faults are injected at, beside those of export_test.go.
const (
	DoneSQL      = settleDoneSQL
	DeleteSQL    = settleDeleteSQL
	CancelledSQL = settleCancelledSQL
	CancelsSQL   = cancelsSQL
)

// Those that are put together when the program starts.
var (
	RequeueSQL = settleRequeueSQL
)

// Token is that of the claim under which the job runs.
func (j *Job) Token() int64 { return j.token }

// RecoverStrays is a run of the task.
func (w *Worker) RecoverStrays(ctx context.Context) error { return w.maintenance.Recovery.Orphans(ctx) }
