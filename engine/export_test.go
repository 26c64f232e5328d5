package engine

import "context"

// The statements whose plans are tested.
const (
	ClaimSQL   = claimSQL
	NextDueSQL = nextDueSQL
)

// RecoverOrphans is a turn of the chore.
func (w *Worker) RecoverOrphans(ctx context.Context) error { return w.recoverOrphans(ctx) }

// BuryUnknown is a turn of the chore.
func (w *Worker) BuryUnknown(ctx context.Context) error { return w.buryUnknown(ctx) }

// Beat is a heartbeat, with the names.
func (w *Worker) Beat(ctx context.Context) error { return w.renew(ctx, true) }
