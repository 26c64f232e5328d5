package deadletters

import (
	"errors"
	"slices"
	"strings"

	"soniq/deadletter"
	"soniq/internal/cli/app"
)

type tagCmd struct {
	Words []string `arg:"" name:"id or key=value" help:"Ids, and the tags to set. KEY= removes a tag."`
	app.Authorship
}

func (tagCmd) Help() string {
	return `A tag is a note on a dead letter, such as a ticket or an owner. Every command with filters takes --tag.

    soniq dead-letter tag 01890a5d-ac96-774b-bcce-b302099a8057 ticket=OPS-7 owner=payments
    soniq dead-letter list --tag owner=payments`
}

func has(tags map[string]string, key string) bool {
	_, ok := tags[key]
	return ok
}

func (c *tagCmd) Run(a *app.App) error {
	tags := map[string]string{}
	var texts []string
	for _, word := range c.Words {
		key, value, isTag := strings.Cut(word, "=")
		switch {
		case !isTag:
			texts = append(texts, word)
		case key == "":
			return app.Usagef("a tag must be KEY=VALUE, not %q", word)
		case has(tags, key):
			return app.Usagef("%q is given twice; a tag has one value", key)
		default:
			tags[key] = value
		}
	}
	if len(texts) == 0 || len(tags) == 0 {
		return app.Usagef("give ids, and the tags that they get as KEY=VALUE")
	}
	if err := app.CheckIDs(texts...); err != nil {
		return err
	}
	_, queue, err := c.Authorship.Open(a)
	if err != nil {
		return err
	}
	ids, failed, err := findIDs(a.Ctx, queue, texts)
	if err != nil {
		return err
	}
	tagged := slices.Clone(ids)[:0]
	var broken error
	for _, id := range ids {
		err := queue.Tag(a.Ctx, id, tags)
		if errors.Is(err, deadletter.ErrNotFound) {
			failed = append(failed, app.Failure{ID: id.String(), Error: deadletter.ErrNotFound.Error()})
			continue
		}
		if broken = err; broken != nil {
			break
		}
		tagged = append(tagged, id)
		if !a.JSON {
			a.Out.Printf("Tagged %s", id)
		}
	}
	if a.JSON {
		if err := a.Out.Document(map[string]any{"tagged": tagged, "failed": failed}); err != nil {
			return err
		}
	}
	return a.BrokenOutcome(len(tagged), failed, broken)
}
