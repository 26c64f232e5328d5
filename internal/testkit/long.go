package testkit

import "os"

// Long reports whether tests take the time for more of the same: SONIQ_TEST_LONG=all, as
// 'make long' has it. Each kind of fault has its test without it, too.
func Long() bool { return os.Getenv("SONIQ_TEST_LONG") == "all" }

// Size is how many of something a test has: few, or many where it takes the time ([Long]).
func Size(few, many int) int {
	if Long() {
		return many
	}
	return few
}
