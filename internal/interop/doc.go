// Package interop has no code, only tests: that one database serves two
// languages. They run released versions of Python Soniq beside this module on
// one PostgreSQL.
//
// Each release is installed once, in a virtual environment in the user's cache
// folder. Where a machine can't, the tests say so in one line and pass;
// SONIQ_TEST_INTEROP=must makes them fail, and =off does without them.
package interop
