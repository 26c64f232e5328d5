//go:build !linux

package reaper

import "errors"

// Run fails: containers are Linux.
//
// Errors: one that says so.
func Run() (code int, err error) { return 0, errors.New("processes are reaped on Linux only") }
