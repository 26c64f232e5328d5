package notify_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"soniq/internal/testdb"
	"soniq/notify"
)

// hooked tells a recorder of the hooks too, in order with the rest.
func hooked(cfg notify.Config, r recorder, onConnect func(context.Context, *pgx.Conn) error) notify.Config {
	cfg.OnConnect = func(ctx context.Context, conn *pgx.Conn) error {
		err := onConnect(ctx, conn)
		if err != nil {
			r <- "refused"
			return err
		}
		r <- "up"
		return nil
	}
	cfg.OnDisconnect = func() { r <- "down" }
	return cfg
}

func TestListener_onConnect_beforeListeningOnEachConnection(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	r := newRecorder()
	cfg := hooked(config(pool), r, func(ctx context.Context, conn *pgx.Conn) error {
		var channels int
		if err := conn.QueryRow(ctx, `select count(*) from pg_listening_channels()`).Scan(&channels); err != nil {
			return err
		}
		if channels != 0 {
			return errors.New("it listens already")
		}
		_, err := conn.Exec(ctx, `select pg_advisory_lock(7)`)
		return err
	})
	_, stop := listen(t, cfg, map[string]notify.Handler{notify.NewJob: r})
	r.expect(t, "up", connected)
	exec(t, pool, killListeners)
	r.expect(t, "down", "up", connected)
	var held bool
	if err := pool.QueryRow(t.Context(), `select not pg_try_advisory_lock(7)`).Scan(&held); err != nil {
		t.Fatal(err)
	}
	if !held {
		t.Error("the session's lock is free while it listens")
	}
	stop()
	r.expect(t, "down")
}

func TestListener_onConnectFails_connectsAnewUntilItDoesNot(t *testing.T) {
	t.Parallel()
	pool := testdb.New(t)
	r := newRecorder()
	refusals := 0
	cfg := hooked(config(pool), r, func(context.Context, *pgx.Conn) error {
		if refusals++; refusals <= 2 {
			return errors.New("not yet")
		}
		return nil
	})
	listen(t, cfg, map[string]notify.Handler{notify.NewJob: r})
	r.expect(t, "refused", "refused", "up", connected)
	if n := listeners(t, pool); n != 1 {
		t.Errorf("%d listener sessions, want 1", n)
	}
}
