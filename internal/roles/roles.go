// Package roles has the one table of the rights that each kind of program needs, which
// 'soniq grants' prints, docs/security.md shows, and a worker compares its own rights with.
// It knows no database: package pg reads it.
package roles

import (
	"slices"
	"strings"
)

// Kind is a kind of program, or of person, that has a role of its own.
type Kind string

// The kinds, from the one with the fewest rights on.
const (
	Scaler         Kind = "scaler"
	Metrics        Kind = "metrics"
	Producer       Kind = "producer"
	UniqueProducer Kind = "unique-producer"
	Viewer         Kind = "viewer"
	Operator       Kind = "operator"
	Worker         Kind = "worker"
	Dispatcher     Kind = "dispatcher"
)

// Kinds are all kinds, in that order.
func Kinds() []Kind {
	return []Kind{Scaler, Metrics, Producer, UniqueProducer, Viewer, Operator, Worker, Dispatcher}
}

// Grant is rights on tables and views, or on some of their columns.
type Grant struct {
	Rights []string // in lower case, as SQL writes them
	Tables []string
	// Columns are those that a SELECT is for. None means all.
	Columns []string
	// Vital rights are those without which a worker can't claim jobs at all, and a
	// dispatcher can't send.
	Vital []string
}

func on(rights string, tables ...string) Grant {
	return Grant{Rights: strings.Fields(rights), Tables: tables}
}

// vital is on for rights of which a program can't do without these.
func vital(rights, needed string, tables ...string) Grant {
	return Grant{Rights: strings.Fields(rights), Tables: tables, Vital: strings.Fields(needed)}
}

func columns(table string, names ...string) Grant {
	return Grant{Rights: []string{"select"}, Tables: []string{table}, Columns: names}
}

var producer = []Grant{
	on("insert", "soniq_jobs"),
	columns("soniq_jobs", "id"),
}

var grants = map[Kind][]Grant{
	Scaler: {
		columns("soniq_jobs", "queue", "status", "scheduled_at", "created_at"),
		columns("soniq_queues", "name", "paused_at"),
	},
	Metrics: {
		columns("soniq_jobs", "queue", "priority", "status", "scheduled_at", "created_at"),
		columns("soniq_dead_letter_jobs", "id", "job_name", "state", "dead_letter_reason", "moved_to_dead_letter_at", "closed"),
		columns("soniq_workers", "id", "queues", "concurrency", "status", "version", "last_heartbeat", "lock_key"),
		columns("soniq_queues", "name", "paused_at"),
		columns("soniq_hook_status", "id", "name", "enabled", "failures", "dropped"),
		columns("soniq_hook_deliveries", "hook_id", "state", "created_at", "next_attempt_at"),
	},
	Producer: producer,
	UniqueProducer: append(slices.Clone(producer),
		columns("soniq_jobs", "job_name", "args_hash", "dedup_key", "status", "unique_job")),
	Viewer: {
		on("select", "soniq_jobs", "soniq_dead_letter_jobs", "soniq_dead_letter_feed", "soniq_workers", "soniq_queues",
			"soniq_dead_letter_operations", "soniq_dead_letter_audit", "soniq_hook_status", "soniq_hook_deliveries",
			"soniq_job_stats", "soniq_leader_tasks"),
	},
	Operator: {
		on("select insert update delete", "soniq_jobs", "soniq_dead_letter_jobs"),
		on("select insert update", "soniq_queues", "soniq_dead_letter_operations"),
		on("select insert delete", "soniq_dead_letter_selections"),
		on("select insert", "soniq_dead_letter_audit"),
		on("select", "soniq_dead_letter_feed", "soniq_workers", "soniq_task_registry", "soniq_hook_status", "soniq_hook_deliveries",
			"soniq_job_stats", "soniq_leader_tasks"),
	},
	Worker: {
		vital("select insert update delete", "select insert update", "soniq_workers"),
		vital("select insert update delete", "select insert update delete", "soniq_waiters", "soniq_task_registry"),
		on("select insert update delete", "soniq_leader_tasks", "soniq_job_stats", "soniq_kept_outcomes", "soniq_dead_letter_jobs", "soniq_dead_letter_operations"),
		vital("select update delete", "select update", "soniq_jobs"),
		vital("select update delete", "select", "soniq_queues"),
		on("select update delete", "soniq_dead_letter_selections", "soniq_dead_letter_audit"),
		vital("select", "select", "soniq_migrations"),
		on("select", "soniq_dead_letter_feed"),
		on("select insert update", "soniq_incarnations"),
	},
	Dispatcher: {
		vital("select insert update delete", "select update", "soniq_hooks"),
		on("select insert update delete", "soniq_hook_groups"),
		vital("select update delete", "select update", "soniq_hook_deliveries"),
		on("select insert update", "soniq_leader_tasks", "soniq_incarnations"),
		vital("select", "select", "soniq_dead_letter_jobs", "soniq_migrations"),
		on("select", "soniq_hook_status"),
	},
}

// Of returns the rights that a kind needs, beside the use of the schema.
func Of(kind Kind) []Grant { return grants[kind] }

// May reports whether a kind has a right on the whole of a table.
func (k Kind) May(right, table string) bool {
	return slices.ContainsFunc(grants[k], func(g Grant) bool {
		return len(g.Columns) == 0 && slices.Contains(g.Rights, right) && slices.Contains(g.Tables, table)
	})
}

// Having returns the kinds that have all of these rights on a table. Whoever may insert
// reads back no more than the id.
func Having(table string, rights ...string) (kinds []Kind) {
	inserts := slices.Contains(rights, "insert")
	for _, kind := range Kinds() {
		lacks := func(right string) bool {
			return !kind.May(right, table) && !(inserts && right == "select" && kind.mayRead(table))
		}
		if !slices.ContainsFunc(rights, lacks) {
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

// mayRead reports whether a kind may read some column of a table.
func (k Kind) mayRead(table string) bool {
	return slices.ContainsFunc(grants[k], func(g Grant) bool {
		return slices.Contains(g.Rights, "select") && slices.Contains(g.Tables, table)
	})
}

// Tables are those that some kind has a right to.
func Tables() (names []string) {
	for _, all := range grants {
		for _, g := range all {
			names = append(names, g.Tables...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// A Right is one right to a table, or to a column.
type Right struct{ Right, Table, Column string }

// Each returns the rights one by one. Column is empty for all columns.
func (g Grant) Each() (list []Right) {
	columns := g.Columns
	if len(columns) == 0 {
		columns = []string{""}
	}
	for _, table := range g.Tables {
		for _, right := range g.Rights {
			for _, column := range columns {
				list = append(list, Right{right, table, column})
			}
		}
	}
	return list
}

// what is the rights as SQL has them between GRANT and ON.
func (g Grant) what() string {
	what := strings.Join(g.Rights, ", ")
	if len(g.Columns) > 0 {
		what += " (" + strings.Join(g.Columns, ", ") + ")"
	}
	return what
}

// SQL returns the statements that give a role what a kind needs, each without its
// semicolon. schema and role are identifiers, quoted where SQL needs that. To grant what
// is granted already changes nothing.
func SQL(kind Kind, schema, role string) []string {
	statements := []string{"grant usage on schema " + schema + " to " + role}
	for _, g := range grants[kind] {
		statements = append(statements, "grant "+g.what()+" on "+g.tables(schema)+" to "+role)
	}
	return statements
}

// RevokeSQL returns the statements that take from a role what [SQL] gives it, but for the
// use of the schema: other rights may need that.
func RevokeSQL(kind Kind, schema, role string) (statements []string) {
	for _, g := range grants[kind] {
		statements = append(statements, "revoke "+g.what()+" on "+g.tables(schema)+" from "+role)
	}
	return statements
}

func (g Grant) tables(schema string) string {
	return schema + "." + strings.Join(g.Tables, ", "+schema+".")
}
