package classify

import "strings"

// Postgres classifies errors with a method SQLState() string, as those of pgx and
// of lib/pq: the database refused a statement of the handler.
//
//	22     permanent: the data don't fit (too long, out of range, not a number)
//	23     permanent: NULL in a column that allows none, or a check that fails,
//	       but for:
//	23503, 23001  retry: the other row of the foreign key may come or go
//	23505, 23P01  retry: another transaction had the same value at that moment; a
//	       job that finds its own earlier work should use ON CONFLICT
//	08, 40, 53, 57, 58, 55P03, 55006  retry: connections, deadlocks and
//	       serialisation, resources, shutdown and statement timeouts, the system, locks
//	42     no advice: during a deploy the schema and the code that uses it arrive in
//	       either order, and a missing right may be granted
//	others no advice
//
// The state is kept in each case.
func Postgres() Classifier {
	return Classifier{Name: "postgres", JudgeEach: judgePostgres}
}

// Five characters: two of the class, three of the condition.
const sqlStateLength = 5

func judgePostgres(err error) Opinion {
	x, ok := err.(interface{ SQLState() string })
	if !ok {
		return Opinion{}
	}
	state := x.SQLState()
	if len(state) != sqlStateLength {
		return Opinion{}
	}
	o := Opinion{Code: state}
	switch state {
	// PostgreSQL 18 has 23001 for ON DELETE RESTRICT, which was 23503 before.
	case "23503", "23001", "23505", "23P01", "55P03", "55006":
		o.Advice = AdviseRetry
		return o
	}
	class := state[:2]
	switch {
	case class == "22" || class == "23":
		o.Advice = AdvisePermanent
	case strings.Contains("08 40 53 57 58", class):
		o.Advice = AdviseRetry
	}
	return o
}
