package main

import (
	"errors"
	"slices"
	"strings"

	"soniq/deadletter"
)

type tagCmd struct {
	Words []string `arg:"" name:"id or key=value" help:"Ids, and the tags that they get. KEY= alone takes a tag away."`
	authorship
}

func (tagCmd) Help() string {
	return `Tags say what people know of dead letters: a ticket, an owner. Every verb with a filter takes --tag.

    soniq dead-letter tag 01890a5d-ac96-774b-bcce-b302099a8057 ticket=OPS-7 owner=payments
    soniq dead-letter list --tag owner=payments`
}

func (c *tagCmd) Run(a *app) error {
	tags := map[string]string{}
	var texts []string
	for _, word := range c.Words {
		key, value, isTag := strings.Cut(word, "=")
		switch {
		case !isTag:
			texts = append(texts, word)
		case key == "":
			return usagef("a tag must be KEY=VALUE, not %q", word)
		default:
			tags[key] = value
		}
	}
	if len(texts) == 0 || len(tags) == 0 {
		return usagef("give ids, and the tags that they get as KEY=VALUE")
	}
	if err := checkIDs(texts); err != nil {
		return err
	}
	pool, err := a.open()
	if err != nil {
		return err
	}
	queue, err := c.queue(a, pool)
	if err != nil {
		return err
	}
	ids, failed, err := findIDs(a.ctx, queue, texts)
	if err != nil {
		return err
	}
	tagged := slices.Clone(ids)[:0]
	var broken error
	for _, id := range ids {
		err := queue.Tag(a.ctx, id, tags)
		if errors.Is(err, deadletter.ErrNotFound) {
			failed = append(failed, failure{id.String(), deadletter.ErrNotFound.Error()})
			continue
		}
		if broken = err; broken != nil {
			break
		}
		tagged = append(tagged, id)
		if !a.JSON {
			a.out.printf("Tagged %s", id)
		}
	}
	if a.JSON {
		if err := a.out.document(map[string]any{"tagged": tagged, "failed": failed}); err != nil {
			return err
		}
	}
	return a.brokenOutcome(len(tagged), failed, broken)
}
