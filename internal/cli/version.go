package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"soniq"
	"soniq/internal/cli/app"
)

type versionCmd struct{}

func (versionCmd) Help() string {
	return `Example:

    soniq version --json`
}

func (versionCmd) Run(a *app.App) error {
	if a.JSON {
		return a.Out.Document(map[string]string{
			"version": soniq.Version, "commit": commit(), "go": runtime.Version(),
			"os": runtime.GOOS, "arch": runtime.GOARCH,
		})
	}
	a.Out.Printf("%s", versionLine())
	return nil
}

func versionLine() string {
	built := ""
	if c := commit(); c != "" {
		built = "commit " + c + ", "
	}
	return fmt.Sprintf("soniq %s (%s%s, %s/%s)", soniq.Version, built, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// commit is the start of the commit that the program was built from, with a
// '+' if there were changes on top of it; empty if the build doesn't say.
func commit() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	revision, changed := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value[:min(len(s.Value), 12)]
		case s.Key == "vcs.modified" && s.Value == "true":
			changed = "+"
		}
	}
	if revision == "" {
		return ""
	}
	return revision + changed
}
