package dashboard

import (
	"bytes"
	"net/netip"
	"strings"
	"time"

	"soniq/deadletter"
	"soniq/internal/safetext"
)

// A Page is a page, for tests that are about all of them.
type Page struct {
	Method, Path string
	// Needs is 'see', 'act' or 'reveal', or empty.
	Needs string
}

// Pages are all pages.
func (d *Dashboard) Pages() (all []Page) {
	pages := d.pages()
	for _, e := range d.endpoints() {
		pages = append(pages, e.page())
	}
	for _, p := range pages {
		method, path, _ := strings.Cut(p.pattern, " ")
		all = append(all, Page{method, strings.TrimSuffix(path, "{$}"), map[right]string{see: "see", act: "act", reveal: "reveal"}[p.needs]})
	}
	return all
}

// SetClock sets the time by which sessions expire.
func (d *Dashboard) SetClock(now func() time.Time) { d.sessions.now = now }

// LetterHTML is the page of a dead letter.
func (d *Dashboard) LetterHTML(j deadletter.Job) (string, error) {
	var html bytes.Buffer
	f := frame{view: view{Title: j.JobName, Data: letterPage{Job: j, StateText: stateText(j)}}, Now: time.Now(), User: User{Name: "ada", Rights: Rights{See: true}}}
	if err := d.templates.execute(&html, "letter", f); err != nil {
		return "", err
	}
	var shown strings.Builder
	_, err := safetext.NewWriter(&shown).Write(html.Bytes())
	return shown.String(), err
}

// NextPath is where somebody goes after signing in.
var NextPath = nextPath

// SetSmallTable sets how large a table of jobs is read as a whole, in bytes.
func (d *Dashboard) SetSmallTable(bytes int64) { d.smallTable = bytes }

// AllowHooks lets the hooks that are tested here reach a network.
func (d *Dashboard) AllowHooks(network netip.Prefix) { d.hookConfig.Allow = []netip.Prefix{network} }
