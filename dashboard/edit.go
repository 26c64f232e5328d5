package dashboard

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/url"
	"strings"

	"github.com/google/uuid"

	"soniq/deadletter"
)

// editPage is what the form to edit arguments shows: the arguments without the secrets in them,
// what was written, and what that changes.
type editPage struct {
	deadletter.Job
	Text    string
	Wrong   string
	Changes []deadletter.ArgsChange
	// Edits are the changes, for the form that replays.
	Edits   string
	Refused string
	Token   string
	Unequal bool
}

// edit shows the arguments in a form.
func (d *Dashboard) edit(v *visit) error {
	j, err := d.readLetter(v)
	if err != nil {
		return err
	}
	return d.showEdit(v, editPage{Job: j.Redacted(), Text: prettyJSON(j.Redacted().Args)})
}

func (d *Dashboard) showEdit(v *visit, page editPage) error {
	page.Token = uuid.NewString()
	return v.show("edit", view{Title: "Edit the arguments of " + page.JobName, Nav: "/groups", Data: page})
}

// checkEdit shows what somebody's text changes, and whether it could be replayed. It changes
// nothing.
func (d *Dashboard) checkEdit(v *visit) error {
	j, err := d.readLetter(v)
	if err != nil {
		return err
	}
	if err := v.r.ParseForm(); err != nil {
		return err
	}
	shown := j.Redacted()
	page := editPage{Job: shown, Text: strings.ReplaceAll(v.r.PostForm.Get("args"), "\r\n", "\n"), Unequal: true}
	edits, changes, err := editsOf(shown.Args, json.RawMessage(page.Text))
	if err == nil {
		_, err = deadletter.EditArgs(j.Args, edits)
	}
	if err != nil {
		page.Wrong = replayError(err).Error()
		return d.showEdit(v, page)
	}
	page.Changes = changes
	stored, err := json.Marshal(edits)
	if err != nil {
		return err
	}
	page.Edits = visibleJSON(stored)
	if err := d.queue.CheckReplay(v.Context(), j.ID, deadletter.ReplayOptions{Edits: edits}); err != nil {
		page.Refused = replayError(err).Error()
	}
	return d.showEdit(v, page)
}

// editsOf are the edits that make one document of the other. from is what was shown, with
// secrets hidden: what stays hidden isn't changed.
func editsOf(from, to json.RawMessage) (edits []deadletter.ArgsEdit, changes []deadletter.ArgsChange, err error) {
	var syntax *json.SyntaxError
	var object map[string]json.RawMessage
	if err := json.Unmarshal(to, &object); errors.As(err, &syntax) {
		line := 1 + bytes.Count(to[:min(int(syntax.Offset), len(to))], []byte("\n"))
		return nil, nil, badInput("it is no JSON: %s, in line %d", strings.TrimPrefix(syntax.Error(), "json: "), line)
	} else if err != nil || object == nil {
		return nil, nil, badInput("arguments are a JSON object, in braces")
	}
	changes = deadletter.CompareArgs(from, to)
	for _, c := range changes {
		if c.Path == "" {
			return nil, nil, badInput("arguments are a JSON object, in braces")
		}
		if bytes.Contains(c.New, []byte(deadletter.Redacted)) {
			return nil, nil, badInput("%s still has a hidden secret in it, which would be replaced by the word %s: write the whole value anew", c.Path, deadletter.Redacted)
		}
		edit := deadletter.ArgsEdit{Path: c.Path, Value: c.New, Remove: c.New == nil}
		if err := edit.Validate(); err != nil {
			return nil, nil, badInput("%s", err)
		}
		edits = append(edits, edit)
	}
	return edits, changes, nil
}

// replayOne replays a dead letter, with the edits that the form has.
func (d *Dashboard) replayOne(v *visit) error {
	j, err := d.readLetter(v)
	if err != nil {
		return err
	}
	if err := v.r.ParseForm(); err != nil {
		return err
	}
	o, _, err := readReplay(url.Values{"delay": v.r.PostForm["delay"], "queue": v.r.PostForm["queue"]})
	if err != nil {
		return err
	}
	if text := v.r.PostForm.Get("edits"); text != "" {
		if err := json.Unmarshal([]byte(text), &o.Edits); err != nil {
			return badInput("the form is not one of this dashboard: open the page again")
		}
	}
	o.Force = v.r.PostForm.Get("force") != ""
	if err := o.Validate(); err != nil {
		return badInput("%s", err)
	}
	queue := v.queue(v.r.PostForm.Get("comment"))
	path, err := d.runs.once(v.Context(), v.r.PostForm.Get("token"), func() (string, error) {
		if _, err := queue.Replay(v.Context(), j.ID, o); err != nil {
			return "", replayError(err)
		}
		return "/dead-letters/" + j.ID.String() + "?done=replayed&n=1", nil
	})
	if err != nil {
		return err
	}
	return v.redirect(path)
}

// prettyJSON is a document over several lines, with its digits.
func prettyJSON(doc json.RawMessage) string {
	var b bytes.Buffer
	if err := json.Indent(&b, doc, "", "  "); err != nil {
		return visibleJSON(doc)
	}
	return visibleJSON(b.Bytes())
}
