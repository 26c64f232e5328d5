package classify_test

import (
	"errors"
	"fmt"

	"soniq/deadletter/classify"
)

// cardDeclined is an error that no retry can help.
type cardDeclined struct{ card string }

func (e cardDeclined) Error() string     { return "card " + e.card + " was declined" }
func (e cardDeclined) Permanent() bool   { return true }
func (e cardDeclined) ErrorCode() string { return "card_declined" }

func ExampleDecide() {
	first := classify.Decide(classify.Attempt{
		JobName: "orders.pay", Attempt: 1, MaxAttempts: 3,
		Err: errors.New("connection refused"),
	})
	fmt.Println("retry:", first.Retry)

	second := classify.Decide(classify.Attempt{
		JobName: "orders.pay", Attempt: 2, MaxAttempts: 3,
		Err: fmt.Errorf("pay order 17: %w", cardDeclined{"4242"}),
	})
	fmt.Println("retry:", second.Retry)
	fmt.Println(second.Reason, "by", second.DecidedBy)
	fmt.Println(second.Type, second.Code)
	fmt.Println(second.Message)
	// Output:
	// retry: true
	// retry: false
	// permanent_failure by marker
	// classify_test.cardDeclined card_declined
	// pay order 17: card 4242 was declined
}
