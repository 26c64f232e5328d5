package pg

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Beside runs do on the pool, and on a connection of its own if the pool hasn't done
// it within patience. Use it for what must not wait for handlers, which may hold all
// connections of the pool for as long as they like: a worker must not be declared
// dead because of them, must learn of cancellations, and must see who else is dead.
// do may be called twice.
//
// Errors: those of do, and those of connecting.
func (p *Pool) Beside(ctx context.Context, patience time.Duration, do func(context.Context, Session) error) error {
	poolCtx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := do(poolCtx, p)
	if !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	conn, err := p.Connect(ctx)
	if err != nil {
		return fmt.Errorf("connect beside the pool: %w", err)
	}
	defer conn.Close(ctx)
	return do(ctx, p.on(conn))
}

// Connect makes a connection as the pool makes its own, which speaks UTF-8. Whoever calls
// it closes the connection.
//
// Errors: those of connecting, and of the pool's functions.
func (p *Pool) Connect(ctx context.Context) (*pgx.Conn, error) {
	config := p.raw.Config()
	if config.BeforeConnect != nil {
		if err := config.BeforeConnect(ctx, config.ConnConfig); err != nil {
			return nil, err
		}
	}
	conn, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	if err != nil {
		return nil, err
	}
	if config.AfterConnect != nil {
		if err := config.AfterConnect(ctx, conn); err != nil {
			return nil, errors.Join(err, conn.Close(ctx))
		}
	}
	if speak := speakSQL(conn); speak != "" {
		if _, err := conn.Exec(ctx, speak); err != nil {
			return nil, errors.Join(err, conn.Close(ctx))
		}
	}
	return conn, nil
}
