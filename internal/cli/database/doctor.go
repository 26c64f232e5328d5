package database

import (
	"fmt"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
	"soniq/internal/doctor"
)

// DoctorCommand examines the database.
type DoctorCommand struct {
	Only    []string      `placeholder:"CHECK" help:"Make this check only. Repeatable: each of them."`
	List    bool          `help:"List the checks. Needs no database."`
	SQL     bool          `name:"sql" help:"Print the statements that mend what was found, and nothing else. They are for the owner of the tables or a superuser; read them first."`
	Timeout time.Duration `default:"5s" placeholder:"DURATION" help:"Give up a check after DURATION, above 0. Default 5s."`
	app.ListenFlag
}

// Help implements [kong.HelpProvider].
func (DoctorCommand) Help() string {
	return `Looks for what makes Soniq slow, deaf, blind or wrong in this database: settings, old transactions, tables that differ from the schema, silent workers, queues that nobody serves, hooks that fail, notifications that don't arrive. It changes nothing, and works with few rights: a check that needs more says so. docs/doctor.md describes each check.

Each line says how bad it is, what was found and, behind the arrow, what to do. Exit codes are those of monitors:

    0     all is well, but for notes
    1     warning
    2     critical
    3     unknown: no answer from the database, a check that could not be made, or a mistake in the command line

    soniq doctor
    soniq doctor --only drift --only settings --json
    soniq doctor --only drift --sql | psql "$DATABASE_URL"`
}

var doctorCodes = map[doctor.Severity]int{doctor.OK: 0, doctor.Note: 0, doctor.Warning: 1, doctor.Critical: 2, doctor.Unknown: app.ExitUnknown}

// Run runs the command.
func (c *DoctorCommand) Run(a *app.App) error {
	switch {
	case c.Timeout <= 0:
		return app.Usagef("--timeout must be above 0, not %s", c.Timeout)
	case c.SQL && a.JSON:
		return app.Usagef("give --sql or --json, not both: JSON has the statements")
	case c.List:
		return c.list(a)
	}
	only := app.SplitAll(c.Only)
	if err := doctor.CheckNames(only); err != nil {
		return app.Usagef("--only: %w; 'soniq doctor --list' lists them", err)
	}
	// Once the database is open, the clock is the database's.
	now := a.Now
	listen, err := c.ListenConfig(a)
	if err != nil {
		return err
	}
	pool, err := a.Open()
	if err != nil {
		return err
	}
	report, err := doctor.Run(a.Ctx, doctor.Config{
		Pool: pool, Schema: a.SchemaName(), Listen: listen, Only: only, Timeout: c.Timeout, Now: now,
	})
	if err != nil {
		return err
	}
	switch {
	case a.JSON:
		err = a.Out.Document(report)
	case c.SQL:
		printMending(a, report)
	default:
		printReport(a, report)
	}
	if code := doctorCodes[report.Status]; err == nil && code != 0 {
		return &app.ExitError{Code: code, Err: app.ErrReported}
	}
	return err
}

// Unknown reports an error with the exit code for 'no answer'.
func (c *DoctorCommand) Unknown(a *app.App, cmd *kong.Context, err error) int {
	a.Report(cmd, err)
	return app.ExitUnknown
}

// listedCheck is a check as JSON.
type listedCheck struct {
	Name  string `json:"name"`
	Group string `json:"group"`
	About string `json:"about"`
}

func (c *DoctorCommand) list(a *app.App) error {
	all := []listedCheck{}
	t := terminal.Table{Columns: []terminal.Column{{Title: "CHECK"}, {Title: "GROUP"}, {Title: "LOOKS FOR", Min: 20}}}
	for _, check := range doctor.Checks() {
		all = append(all, listedCheck{check.Name, check.Group, check.About})
		t.Add(check.Name, check.Group, check.About)
	}
	if a.JSON {
		return a.Out.Document(all)
	}
	return t.Write(a.Out, a.TableWidth())
}

// printReport prints a line for each finding, by groups.
func printReport(a *app.App, r doctor.Report) {
	group := ""
	counts := map[doctor.Severity]int{}
	for _, f := range r.Findings {
		if f.Group != group {
			if group != "" {
				a.Out.Printf("")
			}
			group = f.Group
			a.Out.Printf("%s", strings.ToUpper(group))
		}
		counts[f.Severity]++
		line := fmt.Sprintf("%-8s  %s: %s", f.Severity, f.Check, terminal.OneLine(f.Problem))
		if f.Remedy != "" {
			line += " -> " + terminal.OneLine(f.Remedy)
		}
		a.Out.Printf("%s", line)
	}
	if len(r.Skipped) > 0 {
		a.Note("%d checks need the tables, and were not made: %s", len(r.Skipped), strings.Join(r.Skipped, ", "))
	}
	var parts []string
	for _, s := range []doctor.Severity{doctor.Critical, doctor.Warning, doctor.Unknown, doctor.Note} {
		if counts[s] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", counts[s], s))
		}
	}
	if len(parts) > 0 {
		a.Note("%s", strings.Join(parts, ", "))
	}
}

// printMending prints a script.
func printMending(a *app.App, r doctor.Report) {
	for _, f := range r.Findings {
		if len(f.SQL) == 0 {
			continue
		}
		a.Out.Printf("-- %s, %s: %s", f.Severity, f.Check, terminal.OneLine(f.Problem))
		for _, statement := range f.SQL {
			for line := range strings.Lines(strings.TrimSuffix(statement, ";") + ";\n") {
				a.Out.Printf("%s", strings.TrimSuffix(line, "\n"))
			}
		}
	}
}
