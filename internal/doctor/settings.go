package doctor

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// rule is a setting that can be in the way. bad says how bad a value is, and why; an empty
// severity is fine.
type rule struct {
	name string
	bad  func(value string) (Severity, string)
}

func isOn(value string) bool {
	return slices.Contains([]string{"on", "true", "yes", "1", "t", "y"}, strings.ToLower(value))
}

func whenOn(s Severity, why string) func(string) (Severity, string) {
	return func(value string) (Severity, string) {
		if isOn(value) {
			return s, why
		}
		return "", ""
	}
}

func whenOff(s Severity, why string) func(string) (Severity, string) {
	return func(value string) (Severity, string) {
		if !isOn(value) {
			return s, why
		}
		return "", ""
	}
}

// whenShort is for timeouts: 0 is none.
func whenShort(least time.Duration, s Severity, why string) func(string) (Severity, string) {
	return func(value string) (Severity, string) {
		if d, ok := duration(value); ok && d > 0 && d < least {
			return s, why
		}
		return "", ""
	}
}

var durationText = regexp.MustCompile(`^\s*([0-9.]+)\s*(us|ms|s|min|h|d)?\s*$`)

// duration reads a setting. Without a unit it is milliseconds, as of all timeouts.
func duration(value string) (time.Duration, bool) {
	m := durationText.FindStringSubmatch(value)
	if m == nil {
		return 0, false
	}
	n, err := strconv.ParseFloat(m[1], 64)
	units := map[string]time.Duration{
		"us": time.Microsecond, "": time.Millisecond, "ms": time.Millisecond, "s": time.Second, "min": time.Minute, "h": time.Hour, "d": 24 * time.Hour,
	}
	return time.Duration(n * float64(units[m[2]])), err == nil
}

const unlessPinned = "Soniq's sessions set it aside, but not behind a pooler, and not those of applications"

// rules are the settings that are looked at. Each of them was seen to do harm.
var rules = []rule{
	{"default_transaction_read_only", whenOn(Critical, "nothing can be enqueued, claimed or finished")},
	{"session_replication_role", func(v string) (Severity, string) {
		if v != "origin" {
			return Critical, "triggers don't fire: no worker is woken, and no dead letter is announced"
		}
		return "", ""
	}},
	{"soniq.notify", whenOff(Critical, "what such sessions enqueue wakes no worker")},
	{"soniq.silent", whenOn(Critical, "dead letters of such sessions are announced to nobody")},
	{"autovacuum", whenOff(Critical, "dead rows stay: each claim gets slower, until the server stops to save its data")},
	{"track_counts", whenOff(Critical, "autovacuum doesn't work without it")},
	{"standard_conforming_strings", whenOff(Warning, "SQL with a backslash means something else in such sessions; "+unlessPinned)},
	{"default_transaction_isolation", func(v string) (Severity, string) {
		if v != "read committed" && v != "read uncommitted" {
			return Note, "transactions of applications that change jobs can fail with 40001 and must be tried again, and each of their inserts notifies; " + unlessPinned
		}
		return "", ""
	}},
	{"client_encoding", func(v string) (Severity, string) {
		if !slices.Contains([]string{"UTF8", "SQL_ASCII"}, strings.ToUpper(strings.NewReplacer("-", "", "UNICODE", "UTF8").Replace(v))) {
			return Note, "applications that send UTF-8 store other characters than they mean; " + unlessPinned
		}
		return "", ""
	}},
	{"statement_timeout", whenShort(30*time.Second, Warning, "it ends long statements, such as exports and bulk replays; "+unlessPinned)},
	{"transaction_timeout", whenShort(5*time.Minute, Warning, "it ends exports, bulk replays and setup halfway")},
	{"lock_timeout", whenShort(time.Second, Note, "statements that wait for a lock for a moment fail; "+unlessPinned)},
	{"idle_in_transaction_session_timeout", whenShort(10*time.Second, Note, "exports to a slow reader and bulk work can be cut off; "+unlessPinned)},
	{"idle_session_timeout", whenShort(24*time.Hour, Warning, "it ends connections that only listen, and what is sent meanwhile is found late; "+unlessPinned)},
	{"enable_indexscan", whenOff(Warning, "each claim reads the whole table")},
}

func ruleOf(name string) (rule, bool) {
	i := slices.IndexFunc(rules, func(r rule) bool { return r.name == strings.ToLower(name) })
	if i < 0 {
		return rule{}, false
	}
	return rules[i], true
}

// Of settings that belong to an extension pg_settings knows nothing. $1 the names.
const settingsSQL = `
select s.name, s.setting || coalesce(nullif(s.unit, ''), ''), s.source, coalesce(s.sourcefile, '') like '%postgresql.auto.conf'
from pg_settings s
where s.name = any ($1)
union all
select n.name, current_setting(n.name, true), 'session', false
from unnest($1::text[]) n (name)
where strpos(n.name, '.') > 0
  and current_setting(n.name, true) <> ''
order by 1`

// Those of other roles, or of this one elsewhere, don't show in a session.
const otherSettingsSQL = `
select coalesce(quote_ident(r.rolname), ''), s.setdatabase <> 0, quote_ident(current_database()), c.setting
from pg_db_role_setting s
left join pg_roles r on r.oid = s.setrole
cross join unnest(s.setconfig) c (setting)
where (s.setdatabase = 0 or s.setdatabase = (select d.oid from pg_database d where d.datname = current_database()))
  and (s.setrole = 0 or r.rolname is not null)
order by 1, 4`

// checkSettings looks at a session as other programs have it, without what Soniq's own set,
// and at what is set for roles.
func checkSettings(ctx context.Context, e *Exam) error {
	conn, err := e.bare(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	set := map[string]bool{}
	var names []string
	for _, r := range rules {
		names = append(names, r.name)
	}
	// First those that have a statement which resets them.
	var role, database, setting string
	var ofDatabase bool
	err = e.rows(ctx, otherSettingsSQL, nil, []any{&role, &ofDatabase, &database, &setting}, func() {
		name, value, _ := strings.Cut(setting, "=")
		r, ok := ruleOf(name)
		if !ok {
			return
		}
		severity, why := r.bad(value)
		if severity == "" {
			return
		}
		where, reset := "all roles", "alter role all"
		switch {
		case role == "" && ofDatabase:
			where, reset = "database "+database, "alter database "+database
		case role != "" && ofDatabase:
			where, reset = "role "+role+" in database "+database, "alter role "+role+" in database "+database
		case role != "":
			where, reset = "role "+role, "alter role "+role
		}
		set[r.name] = true
		e.find(severity, fmt.Sprintf("%s is %s for %s: %s", r.name, value, where, why), reset+" reset "+r.name, resetting(r, reset+" reset "+r.name)...)
	})
	if err != nil {
		return err
	}
	rows, _ := conn.Query(ctx, settingsSQL, pgx.QueryExecModeExec, names)
	var name, value, source string
	var auto bool
	_, err = pgx.ForEachRow(rows, []any{&name, &value, &source, &auto}, func() error {
		if r, ok := ruleOf(name); ok && !set[name] {
			e.session(r, value, source, auto)
		}
		return nil
	})
	return err
}

// resetting is a statement that resets a setting, after what lets it.
func resetting(r rule, statement string) []string {
	if r.name == "default_transaction_read_only" {
		return []string{"set default_transaction_read_only = off", statement}
	}
	return []string{statement}
}

// session judges a setting of the session that is not a role's or the database's.
func (e *Exam) session(r rule, value, source string, auto bool) {
	severity, why := r.bad(value)
	if severity == "" {
		return
	}
	problem := fmt.Sprintf("%s is %s: %s", r.name, value, why)
	switch {
	case source == "client":
		e.find(severity, problem, "take it out of the database's URL, or of PGOPTIONS")
	case auto:
		e.find(severity, problem, "alter system reset "+r.name, "alter system reset "+r.name, "select pg_reload_conf()")
	default:
		e.find(severity, problem, "change it in postgresql.conf, or where your provider has it, and reload")
	}
}

// bare connects as a program does that knows nothing of Soniq: without its settings.
func (e *Exam) bare(ctx context.Context) (*pgx.Conn, error) {
	pool := e.config.Pool.Config().ConnConfig
	config, err := pgx.ParseConfig(pool.ConnString())
	if err != nil {
		return nil, err
	}
	// What is not in the URL, such as a password that was asked for.
	config.Host, config.Port, config.User, config.Password, config.Database = pool.Host, pool.Port, pool.User, pool.Password, pool.Database
	config.TLSConfig, config.Fallbacks, config.DialFunc, config.LookupFunc = pool.TLSConfig, pool.Fallbacks, pool.DialFunc, pool.LookupFunc
	config.ConnectTimeout = pool.ConnectTimeout
	// Those of the pool are no settings of the server's.
	maps.DeleteFunc(config.RuntimeParams, func(name, _ string) bool { return strings.HasPrefix(name, "pool_") })
	config.RuntimeParams["application_name"] = "soniq doctor"
	return pgx.ConnectConfig(ctx, config)
}
