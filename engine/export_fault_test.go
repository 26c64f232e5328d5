package engine

import "context"

// The statements that faults are injected at, beside those of export_test.go.
const (
	DoneSQL      = settleDoneSQL
	DeleteSQL    = settleDeleteSQL
	CancelledSQL = settleCancelledSQL
	RegisterSQL  = registerSQL
	CancelsSQL   = cancelsSQL
	MarkDeadSQL  = markDeadSQL
)

// Those that are put together when the program starts.
var (
	RequeueSQL       = settleRequeueSQL
	RequeueOrphanSQL = requeueOrphanSQL
)

// Token is that of the claim under which the job runs.
func (j *Job) Token() int64 { return j.token }

// RecoverStrays is a turn of the chore.
func (w *Worker) RecoverStrays(ctx context.Context) error { return w.recoverStrays(ctx) }
