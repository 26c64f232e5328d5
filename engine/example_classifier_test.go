package engine_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"

	"soniq/deadletter/classify"
	"soniq/engine"
)

// StatusError is what a handler returns for an answer that it can't use.
type StatusError struct{ Status int }

func (e *StatusError) Error() string   { return http.StatusText(e.Status) }
func (e *StatusError) StatusCode() int { return e.Status }

// A shop that knows no order 17, and has no time for order 18: the classifier
// tells one from the other by the status. For all handlers of a worker it would
// stand in WorkerConfig.Classifiers.
func ExampleClassifyBy() {
	shop := http.NewServeMux()
	shop.HandleFunc("POST /orders/17", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
	shop.HandleFunc("POST /orders/18", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	server := httptest.NewServer(shop)
	defer server.Close()

	type ship struct{ Order int }
	reg := engine.NewRegistry()
	engine.Handle(reg, "orders.ship", func(ctx context.Context, args ship) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("%s/orders/%d", server.URL, args.Order), nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err // the network: tried again
		}
		defer func() { _ = resp.Body.Close() }()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("ship order %d: %w", args.Order, &StatusError{resp.StatusCode})
		}
		return nil
	}, engine.ClassifyBy(classify.HTTP(), classify.Postgres()))

	for _, order := range []int{17, 18} {
		outcome, err := reg.DryRun(context.Background(), "orders.ship", ship{order}, 1, 0)
		if err != nil {
			panic(err)
		}
		v := outcome.Verdict
		fmt.Printf("%s: %s, decided by %s, code %s\n", v.Message, outcome.Kind, v.DecidedBy, v.Code)
	}
	// Output:
	// ship order 17: Not Found: dead_letter, decided by classifier:http, code 404
	// ship order 18: Service Unavailable: retry, decided by classifier:http, code 503
}
