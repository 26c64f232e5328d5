// Package interop has no code, only tests: that one database serves two
// languages. They run released versions of Python Soniq beside this module on
// one PostgreSQL, and programs of other languages that follow the channel.
//
// What they need is installed once, in the user's cache folder: a virtual
// environment for each release of Python Soniq, and Node's pg. Where a machine
// can't, the tests say so in one line and pass; SONIQ_TEST_INTEROP=must makes
// them fail, and =off does without them.
package interop
