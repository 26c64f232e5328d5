package deadletters

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/google/uuid"

	"soniq/deadletter"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
	"soniq/internal/unit"
)

// What a monitor understands: the exit codes of its plugins, and their names.
const (
	checkOK       = 0
	checkWarning  = 1
	checkCritical = 2
	checkUnknown  = app.ExitUnknown
)

var checkNames = [...]string{"OK", "WARNING", "CRITICAL", "UNKNOWN"}

type checkCmd struct {
	selection
	Warn    *int          `placeholder:"N" help:"Warning if there are more than N; 0 for any."`
	Max     *int          `placeholder:"N" help:"Critical if there are more than N; 0 for any."`
	WarnAge *string       `placeholder:"AGE" help:"Warning if the oldest died longer ago than AGE: 90m, 24h, 7d; 0 for any."`
	MaxAge  *string       `placeholder:"AGE" help:"Critical if the oldest died longer ago than AGE; 0 for any."`
	Timeout time.Duration `default:"10s" placeholder:"DURATION" help:"Unknown if the database hasn't answered after DURATION, above 0. Default 10s."`
}

func (checkCmd) Help() string {
	return `For cron and monitors: prints one line in the format of Nagios plugins. It counts dead letters in the state dead, or in --state; filters narrow it. Give at least one limit.

    0     OK
    1     WARNING: above --warn or --warn-age
    2     CRITICAL: above --max or --max-age
    3     UNKNOWN: no answer from the database, or a mistake in the command line

    soniq dead-letter check --max 100 --max-age 1h --reason timeout
    soniq dead-letter check --warn 0 --max 100 --queue payments`
}

// limit has the thresholds of a value. A nil threshold is never exceeded.
type limit[T cmp.Ordered] struct{ warn, most *T }

func (l limit[T]) judge(v T) int {
	switch {
	case l.most != nil && v > *l.most:
		return checkCritical
	case l.warn != nil && v > *l.warn:
		return checkWarning
	default:
		return checkOK
	}
}

// passed is the limit that v is above, if it is.
func (l limit[T]) passed(v T) *T {
	switch l.judge(v) {
	case checkCritical:
		return l.most
	case checkWarning:
		return l.warn
	default:
		return nil
	}
}

// limits checks the thresholds.
func (c *checkCmd) limits() (count limit[int64], age limit[time.Duration], err error) {
	if c.Warn == nil && c.Max == nil && c.WarnAge == nil && c.MaxAge == nil {
		return count, age, app.Usagef("how many are too many, how old is too old? give --warn, --max, --warn-age or --max-age")
	}
	if c.Timeout <= 0 {
		return count, age, app.Usagef("--timeout must be above 0, not %s", c.Timeout)
	}
	for _, flag := range []struct {
		name  string
		value *int
		limit **int64
	}{{"--warn", c.Warn, &count.warn}, {"--max", c.Max, &count.most}} {
		if flag.value == nil {
			continue
		}
		if *flag.value < 0 {
			return count, age, app.Usagef("%s must not be negative: %d", flag.name, *flag.value)
		}
		*flag.limit = new(int64(*flag.value))
	}
	for _, flag := range []struct {
		name  string
		value *string
		limit **time.Duration
	}{{"--warn-age", c.WarnAge, &age.warn}, {"--max-age", c.MaxAge, &age.most}} {
		if flag.value == nil {
			continue
		}
		d, err := app.ParseDuration(flag.name, *flag.value)
		if err != nil {
			return count, age, err
		}
		*flag.limit = &d
	}
	// A warning that comes after the alarm never comes.
	if count.warn != nil && count.most != nil && *count.warn > *count.most {
		return count, age, app.Usagef("--warn %d is above --max %d", *count.warn, *count.most)
	}
	if age.warn != nil && age.most != nil && *age.warn > *age.most {
		return count, age, app.Usagef("--warn-age %s is above --max-age %s", *c.WarnAge, *c.MaxAge)
	}
	return count, age, nil
}

// checked is the answer as JSON.
type checked struct {
	Status string `json:"status"`
	State  string `json:"state,omitempty"`
	Count  int64  `json:"count"`
	Warn   *int64 `json:"warn,omitempty"`
	Max    *int64 `json:"max,omitempty"`
	// OldestID is the one that died first.
	OldestID      *uuid.UUID `json:"oldest_id,omitempty"`
	OldestSeconds float64    `json:"oldest_age_seconds"`
	WarnSeconds   *float64   `json:"warn_age_seconds,omitempty"`
	MaxSeconds    *float64   `json:"max_age_seconds,omitempty"`
}

func (c *checkCmd) Run(a *app.App) error {
	f, err := c.filter(a.Now())
	if err != nil {
		return err
	}
	f.State = cmp.Or(f.State, deadletter.StateDead)
	count, age, err := c.limits()
	if err != nil {
		return err
	}
	b, err := c.measure(a, f)
	if err != nil {
		return err
	}
	verdict := max(count.judge(b.Count), age.judge(b.OldestAge))
	if a.JSON {
		err = a.Out.Document(checked{
			Status: strings.ToLower(checkNames[verdict]), State: string(f.State), Count: b.Count, Warn: count.warn, Max: count.most,
			OldestID: b.OldestID, OldestSeconds: b.OldestAge.Seconds(), WarnSeconds: seconds(age.warn), MaxSeconds: seconds(age.most),
		})
	} else {
		a.Out.Printf("DEAD LETTERS %s - %s | %s=%d;%s;%s;0 oldest=%ds;%s;%s;0",
			checkNames[verdict], checkText(string(f.State), b, count, age),
			f.State, b.Count, perfdata(count.warn), perfdata(count.most),
			int64(b.OldestAge.Seconds()), perfdata(seconds(age.warn)), perfdata(seconds(age.most)))
	}
	if err != nil || verdict == checkOK {
		return err
	}
	return &app.ExitError{Code: verdict, Err: app.ErrReported}
}

// measure asks the database, for as long as the monitor's patience lasts.
func (c *checkCmd) measure(a *app.App, f deadletter.Filter) (deadletter.Backlog, error) {
	ctx, cancel := context.WithTimeout(a.Ctx, c.Timeout)
	defer cancel()
	a.Ctx = ctx
	b, err := func() (b deadletter.Backlog, err error) {
		_, queue, err := a.OpenDeadLetters()
		if err != nil {
			return b, err
		}
		if err := c.window(&f, a.Now()); err != nil {
			return b, err
		}
		return queue.Backlog(a.Ctx, f)
	}()
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("the database did not answer within %s", c.Timeout)
	}
	return b, err
}

// checkText is the part for people.
func checkText(state string, b deadletter.Backlog, count limit[int64], age limit[time.Duration]) string {
	text := unit.Thousands(b.Count) + " " + state
	if most := count.passed(b.Count); most != nil {
		text += fmt.Sprintf(" (more than %s)", unit.Thousands(*most))
	}
	if b.OldestID == nil {
		return text
	}
	text += ", the oldest died " + coarse(b.OldestAge) + " ago"
	if most := age.passed(b.OldestAge); most != nil {
		text += fmt.Sprintf(" (longer than %s)", coarse(*most))
	}
	return text
}

// coarse is a duration in its two largest units: 3d4h, 1h5m, 12s.
func coarse(d time.Duration) string {
	day := 24 * time.Hour
	switch {
	case d >= day:
		text := strconv.FormatInt(int64(d/day), 10) + "d"
		if hours := d % day / time.Hour; hours > 0 {
			text += strconv.FormatInt(int64(hours), 10) + "h"
		}
		return text
	case d >= time.Hour:
		return terminal.ShortDuration(d.Truncate(time.Minute))
	default:
		return terminal.ShortDuration(d.Truncate(time.Second))
	}
}

// perfdata formats a threshold for Nagios; an absent one is empty.
func perfdata[T int64 | float64](threshold *T) string {
	if threshold == nil {
		return ""
	}
	return strconv.FormatFloat(float64(*threshold), 'f', -1, 64)
}

func seconds(d *time.Duration) *float64 {
	if d == nil {
		return nil
	}
	return new(d.Seconds())
}

func (c *checkCmd) Unknown(a *app.App, cmd *kong.Context, err error) int {
	text := a.ReportText(cmd, err)
	if a.JSON {
		if a.Out.Document(map[string]any{"status": "unknown", "error": text}) == nil {
			return checkUnknown
		}
	}
	// A bar would begin the figures.
	a.Out.Printf("DEAD LETTERS UNKNOWN - %s", terminal.OneLine(strings.ReplaceAll(text, "|", "/")))
	return checkUnknown
}
