package jobs

import (
	"slices"

	"soniq/engine"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
	"soniq/internal/suggest"
	"soniq/internal/unit"
)

// place is where a job waits, and for whom.
type place struct{ queue, name string }

func placeOf(queue *string, name string) place {
	if queue == nil {
		return place{"default", name}
	}
	return place{*queue, name}
}

// unserved is a line that says why no live worker would run such a job now, or empty. The
// job is in its queue all the same, so an error of the database is no failure.
func (p place) unserved(a *app.App, client *engine.Client) string {
	service, err := client.Availability(a.Ctx, p.queue, p.name)
	queue := terminal.OneLine(p.queue)
	switch {
	case err != nil:
		return ""
	case !service.Queue:
		return "no live worker serves queue " + queue + "; the job waits for one" + meantQueue(a, client, p.queue)
	case !service.Handler:
		hint := ""
		if names, err := client.KnownNames(a.Ctx); err == nil && !slices.Contains(names, p.name) {
			hint = meant(p.name, names)
		}
		return "no live worker of queue " + queue + " has a handler for " + terminal.OneLine(p.name) + hint
	case service.Paused:
		return "queue " + queue + " is paused; the job waits until it is resumed"
	default:
		return ""
	}
}

// meantQueue asks whether a queue that a worker serves was meant by one that none serves.
func meantQueue(a *app.App, client *engine.Client, queue string) string {
	workers, err := client.Workers(a.Ctx)
	if err != nil {
		return ""
	}
	var served []string
	for _, w := range workers {
		served = append(served, w.Queues...)
	}
	return meant(queue, served)
}

func meant(word string, known []string) string {
	if closest := suggest.Closest(word, known); closest != "" {
		return "; did you mean " + terminal.OneLine(closest) + "?"
	}
	return ""
}

const (
	// mostPlaces is how many places of a file are looked at. Each is a query, and most
	// files have one.
	mostPlaces = 100
	// shownPlaces is how many warnings are printed.
	shownPlaces = 5
)

// places are those of the jobs of a file, in the order of their first lines.
type places struct {
	all  []place
	seen map[place]bool
}

func (p *places) add(at place) {
	if p.seen == nil {
		p.seen = map[place]bool{}
	}
	if !p.seen[at] && len(p.all) < mostPlaces {
		p.seen[at] = true
		p.all = append(p.all, at)
	}
}

// warn says where no live worker would run a job: once for a queue that nobody serves,
// whatever the names are.
func (p *places) warn(a *app.App, client *engine.Client) {
	var told []string
	for _, at := range p.all {
		if line := at.unserved(a, client); line != "" && !slices.Contains(told, line) {
			told = append(told, line)
		}
	}
	for _, line := range told[:min(len(told), shownPlaces)] {
		a.Note("%s", line)
	}
	if more := len(told) - shownPlaces; more > 0 {
		a.Note("and %s more of their queues and names that no live worker serves", unit.Thousands(int64(more)))
	}
}
