package main

import (
	"fmt"
	"runtime"

	"soniq"
)

type versionCmd struct{}

func (versionCmd) Run(a *app) error {
	if a.JSON {
		return a.out.document(map[string]string{"version": soniq.Version, "go": runtime.Version()})
	}
	a.out.printf("%s", versionLine())
	return nil
}

func versionLine() string {
	return fmt.Sprintf("soniq %s (%s, %s/%s)", soniq.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
