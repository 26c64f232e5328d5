package app

import (
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ListenFlag is the flag of commands that LISTEN.
type ListenFlag struct {
	ListenURL string `name:"listen-url" placeholder:"URL" help:"A direct connection for LISTEN, if the database is behind a pooler in transaction mode. Default $$SONIQ_LISTEN_URL."`
}

// ListenConfig parses the URL of --listen-url or SONIQ_LISTEN_URL. It returns nil if
// neither is set.
// The private database needs none.
//
// Errors: a usage error without a word of the URL.
func (f ListenFlag) ListenConfig(a *App) (*pgx.ConnConfig, error) {
	url, source := f.ListenURL, "--listen-url"
	if url == "" {
		if db, err := a.Database(); err != nil || db.Dev {
			return nil, nil // whoever opens the database tells
		}
		url, source = a.Getenv("SONIQ_LISTEN_URL"), "SONIQ_LISTEN_URL"
	}
	if url == "" {
		return nil, nil
	}
	config, err := poolConfig(url, source)
	if err != nil {
		return nil, err
	}
	return config.ConnConfig, nil
}

// Listen is the connection to LISTEN on: that of the flag, else the pool's.
//
// Errors: those of [ListenFlag.ListenConfig].
func (f ListenFlag) Listen(a *App, pool *pgxpool.Pool) (*pgx.ConnConfig, error) {
	config, err := f.ListenConfig(a)
	if config == nil && err == nil {
		config = pool.Config().ConnConfig
	}
	return config, err
}
