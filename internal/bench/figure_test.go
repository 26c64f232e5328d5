package bench

import (
	"testing"
	"time"
)

func TestPercentile_ofAnyNumber_isAValueOfTheirs(t *testing.T) {
	t.Parallel()
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(i + 1)
	}
	for _, test := range []struct {
		sorted []time.Duration
		part   float64
		want   time.Duration
	}{
		{hundred, 0.50, 50},
		{hundred, 0.99, 99},
		{hundred, 1, 100},
		{hundred[:1], 0.50, 1},
		{hundred[:1], 0.99, 1},
		{hundred[:2], 0.95, 2},
		{hundred[:3], 0.50, 2},
	} {
		if got := percentile(test.sorted, test.part); got != test.want {
			t.Errorf("%g of %d is %d, want %d", test.part, len(test.sorted), got, test.want)
		}
	}
}

func TestMedians_ofRounds_arePerFigure(t *testing.T) {
	t.Parallel()
	rounds := [][]Figure{
		{{Name: "a", Value: 9}, {Name: "b", Value: 1}},
		{{Name: "a", Value: 1}, {Name: "b", Value: 2}},
		{{Name: "a", Value: 5}, {Name: "b", Value: 9}},
	}
	if got := medians(rounds); got[0].Value != 5 || got[1].Value != 2 || got[0].Name != "a" {
		t.Errorf("medians are %+v", got)
	}
	if got := medians(rounds[:2]); got[0].Value != 5 || got[1].Value != 1.5 {
		t.Errorf("medians of two are %+v", got)
	}
	if rounds[0][0].Value != 9 {
		t.Error("the rounds were changed")
	}
}

func TestCompare_withNothing_hasNoRatio(t *testing.T) {
	t.Parallel()
	figures := []Figure{{Value: 3}, {Value: 3}, {Value: 3}}
	compare(figures, []Figure{{Value: 2}, {Value: 0}})
	if figures[0].Ratio != 1.5 || figures[1].Ratio != 0 || figures[2].Ratio != 0 {
		t.Errorf("ratios are %+v", figures)
	}
}
