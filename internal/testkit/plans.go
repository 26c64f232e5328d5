package testkit

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Plans are the statements that the connections of a pool have run, each with what it read.
type Plans struct {
	mu  sync.Mutex
	all []Statement
}

// A Statement is one that was run.
type Statement struct {
	SQL string
	Reading
}

// ExplainEach returns a pool on the same database whose statements are explained as they run, by
// PostgreSQL's module auto_explain: what is tested is what a program sends, with its parameters
// and settings. ok is false where the server has no such module.
func ExplainEach(t testing.TB, pool *pgxpool.Pool) (watched *pgxpool.Pool, plans *Plans, ok bool) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), "load 'auto_explain'"); err != nil {
		t.Logf("the server explains nothing: %v", err)
		return nil, nil, false
	}
	plans = &Plans{}
	config := pool.Config()
	config.ConnConfig.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { plans.add(n.Message) }
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `
			load 'auto_explain';
			set auto_explain.log_min_duration = 0;
			set auto_explain.log_analyze = on;
			set auto_explain.log_buffers = on;
			set auto_explain.log_timing = off;
			set auto_explain.log_format = json;
			set client_min_messages = log`)
		return err
	}
	watched, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(watched.Close)
	return watched, plans, true
}

func (p *Plans) add(message string) {
	_, text, found := strings.Cut(message, "plan:\n")
	var one struct {
		SQL  string `json:"Query Text"`
		Plan plan
	}
	if !found || json.Unmarshal([]byte(text), &one) != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, Statement{one.SQL, Reading{int(one.Plan.rows()), one.Plan.Hit + one.Plan.Read, text}})
}

// Take returns what was run since the last call.
func (p *Plans) Take() []Statement {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := p.all
	p.all = nil
	return all
}

// Name is the statement's first line, for a message.
func (s Statement) Name() string {
	return fmt.Sprintf("%.80s", strings.Join(strings.Fields(s.SQL), " "))
}
