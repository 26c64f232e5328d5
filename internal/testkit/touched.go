package testkit

import (
	"encoding/json"
	"math"
	"testing"
)

// A Reading is what a statement read to find its rows.
type Reading struct {
	// Rows are the most that one part of its plan met, those that it passed over included.
	Rows int
	// Pages are the pages of tables and indexes, each time that it looked into one.
	Pages int
	// Plan is for the message of a test.
	Plan string
}

// Within fails the test where a statement reads more than so many rows or pages. what names it.
func (r Reading) Within(t testing.TB, what string, rows, pages int) {
	t.Helper()
	if r.Rows > rows || r.Pages > pages {
		t.Errorf("%s reads %d rows and %d pages, of at most %d and %d:\n%s", what, r.Rows, r.Pages, rows, pages, r.Plan)
	}
}

// plan is a node of a plan in JSON.
type plan struct {
	Rows     float64 `json:"Actual Rows"`
	Loops    float64 `json:"Actual Loops"`
	Filtered float64 `json:"Rows Removed by Filter"`
	Joined   float64 `json:"Rows Removed by Join Filter"`
	Recheck  float64 `json:"Rows Removed by Index Recheck"`
	Hit      int     `json:"Shared Hit Blocks"`
	Read     int     `json:"Shared Read Blocks"`
	Plans    []plan
}

func (p plan) rows() float64 {
	most := (p.Rows + p.Filtered + p.Joined + p.Recheck) * p.Loops
	for _, part := range p.Plans {
		most = math.Max(most, part.rows())
	}
	return most
}

// Touched runs a statement and returns what it read.
func Touched(t testing.TB, db Querier, sql string, params ...any) Reading {
	t.Helper()
	rows, err := db.Query(t.Context(), "explain (analyze, buffers, timing off, format json) "+sql, params...)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	defer rows.Close()
	var text string
	for rows.Next() {
		if err := rows.Scan(&text); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	var plans []struct{ Plan plan }
	if err := json.Unmarshal([]byte(text), &plans); err != nil || len(plans) != 1 {
		t.Fatalf("%s: %v: %s", sql, err, text)
	}
	top := plans[0].Plan
	return Reading{Rows: int(top.rows()), Pages: top.Hit + top.Read, Plan: text}
}
