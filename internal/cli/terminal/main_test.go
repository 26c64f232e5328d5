package terminal_test

import (
	"testing"

	"soniq/internal/cli/clitest"
)

func TestMain(m *testing.M) { clitest.Main(m) }
