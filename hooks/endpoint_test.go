package hooks

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

// The error names the host alone, whatever the URL holds.
func TestPost_noAnswer_endsAtTheDeadline(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer server.Close()
	defer close(release)
	e, err := newEndpoint(server.URL+"/hunter2?hunter2", []string{"127.0.0.0/8"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	e.timeout = 50 * time.Millisecond
	err = e.post(t.Context(), &Delivery{ID: uuid.New()}, http.Header{}, nil)
	if err == nil || !strings.HasSuffix(err.Error(), ": no answer within 50ms") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("%v", err)
	}
}

func TestPost_endlessAnswer_isReadToItsBound(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write([]byte(strings.Repeat("x", 4096))); err != nil {
				return
			}
		}
	}))
	defer server.Close()
	e, err := newEndpoint(server.URL, []string{"127.0.0.0/8"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	d := &Delivery{ID: uuid.New()}
	if err := e.post(ctx, d, http.Header{}, nil); err != nil || d.Status != 200 || len(d.Answer) != maxAnswer {
		t.Errorf("%v, status %d, %d bytes", err, d.Status, len(d.Answer))
	}
}
