package workerflags

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"soniq/hooks"
	"soniq/internal/cli/app"
	"soniq/internal/egress"
	"soniq/internal/input"
)

// The variables that stand for the flags below. A flag beats its variable.
const (
	hookEnvVariable   = "SONIQ_HOOK_ENV"
	hookAllowVariable = "SONIQ_HOOK_ALLOW"
	HookKeyVariable   = "SONIQ_HOOK_KEY"
)

// maxKeyFile bounds what is read of a file with keys.
const maxKeyFile = 64 << 10

// maxHookConcurrency is far beyond what one process sends at once.
const maxHookConcurrency = 10_000

// HookGrants are what a dispatcher lends to hooks that stand in the database
// alone. Those of a configuration need none of it.
type HookGrants struct {
	HookEnv        []string `name:"hook-env" placeholder:"NAME" help:"Allow hooks of 'soniq hooks add' to use this variable as env:NAME. Repeatable: each of them. Default $$SONIQ_HOOK_ENV. Names that begin with SONIQ_HOOK_ need no flag."`
	HookAllow      []string `name:"hook-allow" placeholder:"CIDR" help:"A private network that the --allow of such hooks may name. Repeatable: each of them. Default $$SONIQ_HOOK_ALLOW."`
	AllowExecHooks bool     `help:"Run the commands of exec hooks. Whoever may write to the table of hooks can then run commands here."`
	KeyFlags
}

// KeyFlags open and seal what the database holds of secrets.
type KeyFlags struct {
	HookKeyFile string `name:"hook-key-file" placeholder:"FILE" help:"Keys that seal hooks' secrets in the database: the first seals, all open. Default $$SONIQ_HOOK_KEY, which has them itself, or file:FILE. See 'soniq hooks seal'."`
}

// Keys reads the keys. It returns nil if there are none.
func (k *KeyFlags) Keys(a *app.App) (*hooks.Keyring, error) {
	text, source := a.Getenv(HookKeyVariable), HookKeyVariable
	path, fromFile := strings.CutPrefix(text, "file:")
	if k.HookKeyFile != "" {
		path, fromFile, source = k.HookKeyFile, true, "--hook-key-file"
	}
	if fromFile {
		if path == "" {
			return nil, app.Usagef("%s names no file after file:", source)
		}
		var err error
		if text, err = readKeyFile(a.Ctx, path); err != nil {
			return nil, app.Usagef("%s: %w", source, err)
		}
	}
	ring, err := hooks.ParseKeys(text)
	if err != nil {
		return nil, app.Usagef("%s: %w", source, err)
	}
	if ring == nil && fromFile {
		return nil, app.Usagef("%s: %s has no key; make one with 'soniq hooks keygen'", source, path)
	}
	return ring, nil
}

func readKeyFile(ctx context.Context, path string) (string, error) {
	text, err := input.ReadFile(ctx, path, maxKeyFile)
	var long *input.TooLongError
	if errors.As(err, &long) {
		err = fmt.Errorf("%s is larger than %d KB: that is no file of keys", path, maxKeyFile>>10)
	}
	return string(text), err
}

// listed is what a repeatable flag has or, without it, the variable, with
// commas between.
func listed(a *app.App, flag []string, variable string) (items []string, source string) {
	if len(flag) > 0 {
		return flag, ""
	}
	for item := range strings.SplitSeq(a.Getenv(variable), ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items, variable
}

// Networks are those of --hook-allow or its variable.
func (g *HookGrants) Networks(a *app.App) []string {
	networks, _ := listed(a, g.HookAllow, hookAllowVariable)
	return networks
}

// HookConfig is a dispatcher's.
func (g *HookGrants) HookConfig(a *app.App) (c hooks.Config, err error) {
	c.Logger, c.AllowExec = a.Log, g.AllowExecHooks
	names, source := listed(a, g.HookEnv, hookEnvVariable)
	for _, name := range names {
		if err := hooks.CheckVariable(name); err != nil {
			return c, app.Usagef("%s: %w", orFlag(source, "--hook-env"), err)
		}
	}
	c.Env = names
	networks, source := listed(a, g.HookAllow, hookAllowVariable)
	if c.Allow, err = egress.ParseNetworks(networks); err != nil {
		return c, app.Usagef("%s: %w", orFlag(source, "--hook-allow"), err)
	}
	c.Keys, err = g.Keys(a)
	return c, err
}

func orFlag(variable, flag string) string {
	if variable != "" {
		return variable
	}
	return flag
}

// HookFlow is how much a dispatcher does at once.
type HookFlow struct {
	HookConcurrency *int `name:"hook-concurrency" placeholder:"N" help:"How many requests and commands of hooks run at once, over all hooks, from 1 on. Default 32."`
}

// Into sets it in c.
func (f *HookFlow) Into(c *hooks.Config) error {
	if f.HookConcurrency == nil {
		return nil
	}
	if c.MaxInFlight = *f.HookConcurrency; c.MaxInFlight < 1 || c.MaxInFlight > maxHookConcurrency {
		return app.Usagef("--hook-concurrency must be from 1 to %d, not %d", maxHookConcurrency, c.MaxInFlight)
	}
	return nil
}
