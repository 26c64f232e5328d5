package dashboard

import (
	"context"
	"html/template"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"soniq/deadletter/classify"
	"soniq/internal/chart"
	"soniq/internal/rollup"
	"soniq/internal/unit"
)

// shownJobs is how many jobs the overview lists.
const shownJobs = 50

// An overview is what its page shows.
type overview struct {
	Windows []string
	Span    string
	Pick    rollup.Pick
	Past    *rollup.Past
	// Rate is completed attempts in a minute.
	Rate   string
	Charts []template.HTML
	Jobs   []jobRow
	// More is how many jobs are not listed.
	More int
	Team team
}

// A jobRow is a job of a window.
type jobRow struct {
	rollup.Job

	Rate                     string
	Wait50, Wait95           string
	Run50, Run95, Run99, Ran string
}

func (d *Dashboard) overview(v *visit) error {
	o, err := d.readOverview(v)
	if err != nil {
		return err
	}
	return v.show("overview", view{Title: "Overview", Nav: "/overview", Data: o})
}

func (d *Dashboard) readOverview(v *visit) (*overview, error) {
	query := v.r.URL.Query()
	o := &overview{Span: query.Get("span"), Pick: rollup.Pick{Queue: query.Get("queue"), JobName: query.Get("job")}}
	windows := rollup.Windows()
	if o.Span == "" {
		o.Span = windows[1].Name
	}
	i := slices.IndexFunc(windows, func(w rollup.Window) bool { return w.Name == o.Span })
	for _, w := range windows {
		o.Windows = append(o.Windows, w.Name)
	}
	if i < 0 {
		return nil, badInput("span: must be one of %s, not %q", strings.Join(o.Windows, ", "), o.Span)
	}
	ctx, cancel := context.WithTimeout(v.Context(), pageTimeout)
	defer cancel()
	var err error
	if o.Past, err = rollup.ReadPool(ctx, d.db, windows[i], o.Pick); err != nil {
		return nil, err
	}
	if o.Team, err = d.team(ctx); err != nil {
		return nil, err
	}
	o.Rate = perMinute(o.Past.Total.Completed, o.Past)
	o.Charts = charts(o.Past)
	for _, j := range o.Past.Jobs[:min(len(o.Past.Jobs), shownJobs)] {
		o.Jobs = append(o.Jobs, newJobRow(j, o.Past))
	}
	o.More = len(o.Past.Jobs) - len(o.Jobs)
	return o, nil
}

// perMinute is a number of attempts as so many a minute.
func perMinute(n int64, p *rollup.Past) string {
	minutes := max(p.Now.Sub(p.From).Minutes(), 1)
	each := float64(n) / minutes
	switch {
	case n == 0:
		return "0"
	case each < 0.01:
		return "<0.01"
	case each < 10:
		return strconv.FormatFloat(each, 'f', 2, 64)
	}
	return unit.Thousands(int64(math.Round(each)))
}

func newJobRow(j rollup.Job, p *rollup.Past) jobRow {
	at := func(h rollup.Histogram, q float64) string {
		return chart.Duration(quantile(h, q))
	}
	return jobRow{
		Job: j, Rate: perMinute(j.Completed, p), Ran: chart.Duration(j.Ran.Seconds()),
		Wait50: at(j.Waits, 0.5), Wait95: at(j.Waits, 0.95), Run50: at(j.Runs, 0.5), Run95: at(j.Runs, 0.95), Run99: at(j.Runs, 0.99),
	}
}

// quantile is in seconds, and NaN if nothing was counted.
func quantile(h rollup.Histogram, q float64) float64 {
	d, ok := h.Quantile(q)
	if !ok {
		return math.NaN()
	}
	return d.Seconds()
}

// charts are the pictures of a window.
func charts(p *rollup.Past) (all []template.HTML) {
	times := make([]time.Time, len(p.Points))
	for i := range times {
		times[i] = p.From.Add(time.Duration(i) * p.Window.Step)
	}
	blank := chart.Chart{Times: times, Step: p.Window.Step, Late: true}
	for _, c := range []chart.Chart{
		deathsChart(p), attemptsChart(p),
		percentiles(p, "waits", "How long jobs waited", "Nothing has run in this time.", func(c rollup.Counts) rollup.Histogram { return c.Waits }),
		percentiles(p, "runs", "How long attempts ran", "Nothing has run in this time.", func(c rollup.Counts) rollup.Histogram { return c.Runs }),
		resolvedChart(p),
	} {
		c.Times, c.Step, c.Late = blank.Times, blank.Step, blank.Late
		all = append(all, c.Figure())
	}
	return all
}

func deathsChart(p *rollup.Past) chart.Chart {
	c := chart.Chart{
		ID: "deaths", Title: "Deaths by reason", Empty: "Nothing has died in this time.",
		Summary: unit.Plural(p.Total.Dead, "job") + " died.",
	}
	reasons := []string{}
	for _, r := range classify.Reasons() {
		reasons = append(reasons, string(r))
	}
	for _, reason := range append(reasons, rollup.Other) {
		if counts := p.Reasons[reason]; counts != nil {
			c.Series = append(c.Series, chart.Series{Name: strings.ReplaceAll(reason, "_", " "), Values: floats(counts)})
		}
	}
	return c
}

func attemptsChart(p *rollup.Past) chart.Chart {
	completed, failed := chart.Series{Name: "completed"}, chart.Series{Name: "failed"}
	for _, point := range p.Points {
		completed.Values = append(completed.Values, float64(point.Completed))
		failed.Values = append(failed.Values, float64(point.Failed))
	}
	return chart.Chart{
		ID: "attempts", Title: "Attempts", Empty: "Nothing has run in this time.",
		Summary: unit.Plural(p.Total.Completed, "attempt") + " completed, and " + unit.Thousands(p.Total.Failed) + " failed.",
		Series:  []chart.Series{completed, failed},
	}
}

func percentiles(p *rollup.Past, id, title, empty string, of func(rollup.Counts) rollup.Histogram) chart.Chart {
	c := chart.Chart{ID: id, Title: title, Kind: chart.Lines, Unit: chart.Seconds, Empty: empty}
	for _, q := range []struct {
		name string
		part float64
	}{{"half within (p50)", 0.5}, {"95 % within (p95)", 0.95}, {"99 % within (p99)", 0.99}} {
		s := chart.Series{Name: q.name}
		for _, point := range p.Points {
			s.Values = append(s.Values, quantile(of(point), q.part))
		}
		c.Series = append(c.Series, s)
	}
	c.Summary = "Over the whole time half are within " + chart.Duration(quantile(of(p.Total), 0.5)) + ", and 95 % within " + chart.Duration(quantile(of(p.Total), 0.95)) + "."
	return c
}

func resolvedChart(p *rollup.Past) chart.Chart {
	died, resolved := chart.Series{Name: "died"}, chart.Series{Name: "resolved by a replay"}
	for _, point := range p.Points {
		died.Values = append(died.Values, float64(point.Dead))
		resolved.Values = append(resolved.Values, float64(point.Resolved))
	}
	return chart.Chart{
		ID: "resolved", Title: "Died and resolved", Kind: chart.Lines, Empty: "Nothing has died, and nothing was resolved, in this time.",
		Summary: unit.Plural(p.Total.Dead, "job") + " died, and " + unit.Thousands(p.Total.Resolved) + " were resolved.",
		Series:  []chart.Series{died, resolved},
	}
}

func floats(counts []int64) (values []float64) {
	for _, n := range counts {
		values = append(values, float64(n))
	}
	return values
}
