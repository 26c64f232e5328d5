package hooks

import (
	"errors"
	"strings"

	"soniq/hooks"
	"soniq/internal/cli/app"
	"soniq/internal/cli/terminal"
	"soniq/internal/cli/workerflags"
)

type hooksKeygenCmd struct{}

func (hooksKeygenCmd) Help() string {
	return `Prints a fresh key: 32 random bytes as base64. Give it, as SONIQ_HOOK_KEY or by --hook-key-file, to the commands that add hooks and to every dispatcher. It is kept nowhere.

    (umask 077; soniq hooks keygen > hook.key)
    soniq worker --hook-key-file hook.key`
}

func (hooksKeygenCmd) Run(a *app.App) error {
	key := hooks.NewKey()
	if a.JSON {
		_ = a.Out.Document(map[string]string{"key": key}) // flush has the error
	} else {
		a.Out.Printf("%s", key)
	}
	return a.Out.Flush()
}

type hooksSealCmd struct{ workerflags.KeyFlags }

func (hooksSealCmd) Help() string {
	return `Encrypts URLs, secrets and the values of headers that stand in the database in the clear, by the first of the keys of SONIQ_HOOK_KEY or --hook-key-file; and again those under one of the other keys, which moves them to a new one. Give the new key to all dispatchers, in front of the old one, before; take the old one away after. One that lacks a key leaves the hook's deliveries to others. Hooks of a configuration have no secret in the database. Exits 4 if some were sealed and others could not be opened, 1 if none was sealed and some could not be opened.

    SONIQ_HOOK_KEY=NEW,OLD soniq hooks seal
    soniq hooks seal --hook-key-file hook.key`
}

func (c *hooksSealCmd) Run(a *app.App) error {
	keys, err := c.Keys(a)
	if err != nil {
		return err
	}
	if keys == nil {
		return app.Usagef("there is no key: set %s, or give --hook-key-file; make one with 'soniq hooks keygen'", workerflags.HookKeyVariable)
	}
	store, err := hookStore(a, keys)
	if err != nil {
		return err
	}
	result, err := store.Seal(a.Ctx)
	if a.JSON && (err == nil || len(result.Sealed) > 0) {
		if err := a.Out.Document(result); err != nil {
			return err
		}
	}
	if !a.JSON {
		for _, name := range result.Sealed {
			a.Out.Printf("Sealed %s", terminal.OneLine(name))
		}
		if len(result.Sealed) == 0 && err == nil && len(result.Failed) == 0 {
			a.Note("nothing to seal: no secret of a hook stands in the database in the clear, or under another key")
		}
	}
	if err == nil && len(result.Failed) > 0 {
		for i, name := range result.Failed {
			result.Failed[i] = terminal.OneLine(name)
		}
		err = errors.New("none of the keys opens, or somebody has changed: " + strings.Join(result.Failed, ", "))
		return app.Partly(int64(len(result.Sealed)), err)
	}
	return app.Partly(int64(len(result.Sealed)), err)
}

func (*hooksKeygenCmd) ShowsSecret() {}
