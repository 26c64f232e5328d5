package incarnation

import (
	"context"

	"soniq/internal/pg"
)

// Promote makes the guard see a later timeline than there is.
func (g *Guard) Promote() {
	g.read = func(ctx context.Context, db pg.Querier) (View, error) {
		v, err := Read(ctx, db)
		v.Now.Timeline++
		return v, err
	}
}

// OnTimeline makes the guard see a timeline.
func (g *Guard) OnTimeline(n int64) {
	g.read = func(ctx context.Context, db pg.Querier) (View, error) {
		v, err := Read(ctx, db)
		v.Now.Timeline = n
		return v, err
	}
}

// SetBack makes the guard see a WAL that is shorter by so many bytes; 0 ends that.
func (g *Guard) SetBack(bytes int64) {
	g.read = func(ctx context.Context, db pg.Querier) (View, error) {
		v, err := Read(ctx, db)
		v.Position -= bytes
		return v, err
	}
}
