// Package rolling has no code, only tests: programs of the release before run on
// the newest schema, beside those of this release. It is a package of its own
// because it builds both command lines.
package rolling
