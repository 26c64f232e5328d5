package pg

import (
	"reflect"
	"testing"
)

func TestWhere_conditionsAndTheirParameters(t *testing.T) {
	t.Parallel()
	var w Where
	if w.SQL() != "" || w.Condition() != "" || w.Limit(0) != "" || len(w.Params()) != 0 {
		t.Errorf("empty: %q %v", w.SQL(), w.Params())
	}
	w.And("a = " + w.Param(1))
	before := w.Clone()
	w.AndNot(func(other *Where) {
		other.And("b = " + other.Param("x"))
		other.And("c > " + other.Param(2))
	})
	w.And("d")
	limit := w.Limit(7)
	const want = "\nwhere a = $1\n  and (b = $2\n  and c > $3) is not true\n  and d"
	if w.SQL() != want || limit != "\nlimit $4" || !reflect.DeepEqual(w.Params(), []any{1, "x", 2, 7}) {
		t.Errorf("%q, %q, %v", w.SQL(), limit, w.Params())
	}
	if before.SQL() != "\nwhere a = $1" || len(before.Params()) != 1 {
		t.Errorf("the copy changed: %q, %v", before.SQL(), before.Params())
	}
}
