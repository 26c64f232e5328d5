package hooks_test

import (
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"soniq/hooks"
	"soniq/internal/eventually"
	"soniq/internal/testdb"
	"soniq/internal/testkit"
)

// planted are the secrets of a hook, which no text may have, in any form.
var planted = []string{
	"pathsecret1", "query-secret/2", "bearer.secret.3", "ann", "pass:word4", "cookiesecret5", "plain header secret 6",
	"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
}

// traces are the forms of a secret that a reader could use.
func traces(value string) []string {
	raw := []byte(value)
	return []string{value, url.QueryEscape(value), base64.StdEncoding.EncodeToString(raw), hex.EncodeToString(raw)}
}

func wantNoSecret(t *testing.T, where, text string) {
	t.Helper()
	for _, value := range planted {
		for _, trace := range traces(value) {
			if len(trace) > 3 && strings.Contains(text, trace) {
				t.Errorf("%s shows %q: %s", where, trace, text)
			}
		}
	}
}

// Whatever an endpoint answers, nothing of what the hook holds gets into the
// table, the log or what 'hooks test' prints.
func TestAnswer_echoOfTheRequest_isKeptWithoutTheHooksSecrets(t *testing.T) {
	t.Parallel()
	dump := func(r *http.Request) string {
		b, _ := httputil.DumpRequest(r, true)
		return string(b)
	}
	answer := func(code int, text func(*http.Request) string) func(int, http.ResponseWriter, *http.Request) {
		return func(_ int, w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(code)
			_, _ = io.WriteString(w, text(r))
		}
	}
	raw := func(text func(*http.Request) string) func(int, http.ResponseWriter, *http.Request) {
		return func(_ int, w http.ResponseWriter, r *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_, _ = io.WriteString(conn, text(r))
				_ = conn.Close()
			}
		}
	}
	echoes := map[string]func(int, http.ResponseWriter, *http.Request){
		"well":         answer(200, dump),
		"refused":      answer(401, dump),
		"gone":         answer(410, dump),
		"url":          answer(500, func(r *http.Request) string { return "no such page: http://" + r.Host + r.URL.RequestURI() }),
		"html":         answer(404, func(r *http.Request) string { return "<p>" + html.EscapeString(dump(r)) + "</p>" }),
		"base64":       answer(400, func(r *http.Request) string { return base64.StdEncoding.EncodeToString([]byte(dump(r)))[:1500] }),
		"hex":          answer(500, func(r *http.Request) string { return hex.EncodeToString([]byte(r.Header.Get("Authorization"))) }),
		"escaped":      answer(500, func(r *http.Request) string { return url.QueryEscape(dump(r)) }),
		"behind a pad": answer(500, func(r *http.Request) string { return strings.Repeat("x", 2030) + r.Header.Get("Authorization") }),
		"json": answer(422, func(r *http.Request) string {
			b, _ := json.Marshal(map[string]any{"headers": r.Header, "path": r.URL.Path, "query": r.URL.Query()})
			return string(b)
		}),
		"redirect": func(_ int, w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://elsewhere.example.com"+r.URL.RequestURI(), http.StatusFound)
		},
		"no HTTP": raw(func(r *http.Request) string { return r.Header.Get("Authorization") + "\r\n" }),
		"broken header": raw(func(r *http.Request) string {
			return "HTTP/1.1 200 OK\r\n" + r.Header.Get("Authorization") + "\r\n\r\n"
		}),
		"broken length": raw(func(r *http.Request) string {
			return "HTTP/1.1 200 OK\r\nContent-Length: " + r.Header.Get("Authorization") + "\r\n\r\n"
		}),
		"broken chunk": raw(func(r *http.Request) string {
			return "HTTP/1.1 500 " + r.Header.Get("Authorization") + "\r\nTransfer-Encoding: chunked\r\n\r\n" + r.Header.Get("Authorization") + "\r\n"
		}),
	}
	authorizations := []string{"Bearer bearer.secret.3", "Basic " + base64.StdEncoding.EncodeToString([]byte("ann:pass:word4"))}
	for i, name := range slices.Sorted(maps.Keys(echoes)) {
		echo := echoes[name]
		for k, authorization := range authorizations {
			if k != i%len(authorizations) && !testkit.Long() {
				continue // one of them each, by turns
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				pool := testdb.New(t)
				rc := newReceiver(t, echo)
				hook := addHook(t, pool, "webhook", "env:SONIQ_HOOK_URL")
				exec(t, pool, `
					update soniq_hooks
					set settings = settings || '{"headers": {"Authorization": "env:SONIQ_HOOK_AUTH", "Cookie": "sid=cookiesecret5; a=b", "X-Key": "plain header secret 6"}}'
					where id = $1`, hook)
				env := map[string]string{
					"SONIQ_HOOK_URL":  rc.URL + "/in/pathsecret1?key=" + url.QueryEscape("query-secret/2"),
					"SONIQ_HOOK_AUTH": authorization,
				}
				die(t, pool, 1, "j", "boom")
				var log logged
				d := dispatcherOf(t, pool, hooks.Config{Logger: log.logger(), Allow: loopback})
				hooks.SetEnv(d, env)
				dispatchWith(t, pool, hooks.Config{Logger: log.logger()}, func(d *hooks.Dispatcher) { hooks.SetEnv(d, env) })
				eventually.True(t, "the verdict", func() bool {
					return value[int](t, pool, `select count(*) from soniq_hook_deliveries where attempts = 1 and lease is null`) == 1
				})
				table := value[string](t, pool, `select string_agg(d::text, ' ') from soniq_hook_deliveries d`)
				wantNoSecret(t, "the table", table)
				store := storeOf(t, pool, nil)
				infos, err := store.List(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				delivery, err := store.Test(t.Context(), d, infos[0].Name)
				wantNoSecret(t, "the test", fmt.Sprintf("%v %+v", err, delivery))
				wantNoSecret(t, "the log", log.String())
			})
		}
	}
}

// A command may print its environment.
func TestExec_printsItsEnvironment_isKeptWithoutItsSecrets(t *testing.T) {
	// What a command inherits is the process's own.
	for name, secret := range map[string]string{
		"SONIQ_HOOK_TEST_TOKEN": "pathsecret1", "TEST_DB_PASSWORD": "cookiesecret5", "SONIQ_TEST_URL": "postgres://ann:pass%3Aword4@db/x",
		"GIVEN_BY_NAME": "bearer.secret.3", "SONIQ_HOOK_KEY": "plain header secret 6",
	} {
		t.Setenv(name, secret)
	}
	pool := testdb.New(t)
	vars := "$SONIQ_HOOK_TEST_TOKEN $TEST_DB_PASSWORD $SONIQ_TEST_URL $GIVEN_BY_NAME [$SONIQ_HOOK_KEY]"
	addCommand(t, pool, "prints", `cat >/dev/null; echo "says `+vars+`"`)
	addCommand(t, pool, "fails", `cat >/dev/null; echo "fails with `+vars+`" >&2; exit 1`)
	addCommand(t, pool, "long", `cat >/dev/null; printf '%02030d' 0 >&2; echo "$SONIQ_HOOK_TEST_TOKEN" >&2; printf '%02040d' 0 >&2; exit 1`)
	var log logged
	dispatchWith(t, pool, hooks.Config{AllowExec: true, Logger: log.logger(), Env: []string{"GIVEN_BY_NAME"}})
	die(t, pool, 1, "j", "boom")
	eventually.True(t, "the verdicts", func() bool {
		return value[int](t, pool, `select count(*) from soniq_hook_deliveries where attempts = 1 and lease is null`) == 3
	})
	table := value[string](t, pool, `select string_agg(d::text, ' ') from soniq_hook_deliveries d`)
	wantNoSecret(t, "the table", table)
	wantNoSecret(t, "the log", log.String())
	if !strings.Contains(table, "says [redacted]") || !strings.Contains(table, "fails with [redacted]") || !strings.Contains(table, "[]") {
		t.Errorf("%s", table)
	}
	if os.Getenv("SONIQ_HOOK_KEY") == "" {
		t.Error("the key is gone from this process too")
	}
}

// However an endpoint answers, it costs no more than its time and a few
// kilobytes: endless and compressed bodies, drips, floods of headers.
func TestAnswer_hostile_isBounded(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request)
		state  string
		text   string
	}{
		"compressed": {
			answer: func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Encoding", "gzip")
				z := gzip.NewWriter(w)
				for range 1000 {
					_, _ = z.Write(make([]byte, 64<<10))
				}
				_ = z.Close()
			}, state: "delivered", text: "(the answer is compressed)",
		},
		"drips": {
			answer: func(w http.ResponseWriter, r *http.Request) {
				rc := http.NewResponseController(w)
				_, _ = io.WriteString(w, "drop")
				_ = rc.Flush()
				<-r.Context().Done() // it hangs up long before the request's 20 s
			}, state: "delivered", text: "drop",
		},
		"endless": {
			answer: func(w http.ResponseWriter, r *http.Request) {
				for r.Context().Err() == nil {
					if _, err := w.Write([]byte(strings.Repeat("x", 4096))); err != nil {
						return
					}
				}
			}, state: "delivered", text: "xxx",
		},
		"many headers": {
			answer: func(w http.ResponseWriter, _ *http.Request) {
				for i := range 100_000 {
					w.Header().Add("X-"+fmt.Sprint(i), "x")
				}
			}, state: "pending", text: "",
		},
		"endless trailers": {
			answer: func(w http.ResponseWriter, _ *http.Request) {
				conn, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					return
				}
				defer func() { _ = conn.Close() }()
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n")
				for i := range 100_000 {
					if _, err := fmt.Fprintf(conn, "X-%d: x\r\n", i); err != nil {
						return
					}
				}
			}, state: "delivered", text: "ok",
		},
		"another protocol": {
			answer: func(w http.ResponseWriter, _ *http.Request) {
				conn, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					return
				}
				defer func() { _ = conn.Close() }()
				_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nhello")
				_, _ = io.Copy(io.Discard, conn) // until it hangs up
			}, state: "pending", text: "",
		},
		"endless early answers": {
			answer: func(w http.ResponseWriter, _ *http.Request) {
				conn, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					return
				}
				defer func() { _ = conn.Close() }()
				for range 1_000_000 {
					if _, err := io.WriteString(conn, "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"); err != nil {
						return
					}
				}
			}, state: "pending", text: "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := testdb.New(t)
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body) // else its context doesn't end with the connection
				c.answer(w, r)
			}))
			t.Cleanup(server.Close)
			addHook(t, pool, "webhook", server.URL)
			die(t, pool, 1, "j", "boom")
			dispatch(t, pool)
			eventually.True(t, "the verdict", func() bool {
				return value[int](t, pool, `select count(*) from soniq_hook_deliveries where attempts = 1 and lease is null`) == 1
			})
			var state, answer string
			var took float64
			err := pool.QueryRow(t.Context(), `
				select state, coalesce(last_answer, ''), extract(epoch from coalesce(delivered_at, clock_timestamp()) - created_at)::float8
				from soniq_hook_deliveries`).Scan(&state, &answer, &took)
			if err != nil || state != c.state || !strings.HasPrefix(answer, c.text) || len(answer) > 2<<10 {
				t.Errorf("%v: %s, %q", err, state, answer)
			}
			if took > 15 {
				t.Errorf("it took %.1f s", took)
			}
		})
	}
}

// One that takes the connection and says nothing has no more than the request's
// time, and leaves none of its text.
func TestAnswer_none_endsWithTheRequest(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	pool := testdb.New(t)
	addHook(t, pool, "webhook", "http://"+l.Addr().String()+"/pathsecret1")
	ctx := t.Context()
	d := dispatcherOf(t, pool, hooks.Config{Allow: loopback})
	infos, err := storeOf(t, pool, nil).List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	_, err = storeOf(t, pool, nil).Test(ctx, d, infos[0].Name)
	if err == nil || !strings.HasSuffix(err.Error(), "no answer within 20s") || time.Since(began) > deadline {
		t.Errorf("%v", err)
	}
	wantNoSecret(t, "the error", fmt.Sprint(err))
}
