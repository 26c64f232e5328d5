package doctor_test

import (
	"testing"

	"soniq/internal/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m) }
