package handler

import (
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"soniq/deadletter"
)

// What an endpoint may do at worst: the job fails, and the error is short.
func TestHTTP_hostileResponse_isBounded(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 1<<20)
	bomb := func(status int) http.HandlerFunc {
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		for range 64 {
			_, _ = z.Write(make([]byte, 1<<20))
		}
		_ = z.Close()
		return answer(status, packed.String(), "Content-Encoding", "gzip")
	}
	for name, test := range map[string]struct {
		handle http.HandlerFunc
		want   string
	}{
		"long status line":      {raw("HTTP/1.1 500 "+long+"\r\n\r\n", false), "POST http"},
		"no HTTP":               {raw(long+"\r\n\r\n", false), "POST http"},
		"long header":           {raw("HTTP/1.1 200 OK\r\nX: "+long+"\r\n\r\n", false), "POST http"},
		"many headers":          {raw("HTTP/1.1 200 OK\r\n"+strings.Repeat("X: y\r\n", 100_000)+"\r\n", false), "POST http"},
		"interim responses":     {raw(strings.Repeat("HTTP/1.1 103 Early Hints\r\nX: "+long[:1000]+"\r\n\r\n", 1000), false), "POST http"},
		"switching protocols":   {raw("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", true), "HTTP 101"},
		"long trailer":          {raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n2\r\n{}\r\n0\r\nX: "+long+"\r\n\r\n", false), "POST http"},
		"chunk that never ends": {raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7fffffffffffffff\r\n"+long+long, false), "HTTP 200: the work was done, but"},
		"no chunk":              {raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"+long, false), "POST http"},
		"two lengths":           {raw("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}", false), "POST http"},
		"cut short":             {raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}", false), "POST http"},
		"bomb":                  {bomb(200), "HTTP 200: the work was done, but"},
		"bomb in an error":      {bomb(500), "HTTP 500: "},
		"no gzip":               {answer(200, "abc", "Content-Encoding", "gzip"), "POST http"},
		"unknown encoding":      {answer(500, "abc", "Content-Encoding", "zstd"), "HTTP 500: abc"},
		"long redirect":         {answer(302, "", "Location", "https://"+long[:60_000]+"/"), "HTTP 302: Found; redirects are not followed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := endpointHandler(t, HTTP{URL: endpoint(t, test.handle).URL})
			result, err := h.run(t.Context(), endpointJob())
			if err == nil || !strings.HasPrefix(err.Error(), test.want) || len(err.Error()) > httpMaxError+200 {
				t.Errorf("%.300v, want %s", err, test.want)
			}
			if result != nil {
				t.Errorf("a result: %v", result)
			}
		})
	}
}

func TestHTTP_hostileResponse_http2(t *testing.T) {
	t.Parallel()
	for name, handle := range map[string]http.HandlerFunc{
		"headers": func(w http.ResponseWriter, _ *http.Request) {
			for i := range 200 {
				w.Header().Set(fmt.Sprintf("X-%d", i), strings.Repeat("x", 1000))
			}
		},
		"trailers": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "{}")
			_ = http.NewResponseController(w).Flush()
			for i := range 200 {
				w.Header().Set(fmt.Sprintf("%sX-%d", http.TrailerPrefix, i), strings.Repeat("x", 1000))
			}
		},
	} {
		server := unstartedEndpoint(t, handle)
		server.EnableHTTP2 = true
		server.StartTLS()
		h := endpointHandler(t, HTTP{URL: server.URL})
		roots := x509.NewCertPool()
		roots.AddCert(server.Certificate())
		h.transport.TLSClientConfig = &tls.Config{RootCAs: roots}
		if _, err := h.run(t.Context(), endpointJob()); err == nil || !strings.HasPrefix(err.Error(), "POST https") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// echoSpec is an endpoint with a secret in each place, and those secrets.
func echoSpec(host string) (HTTP, []string) {
	spec := HTTP{
		URL:       "http://ann%40x:pass%2Fword9@" + host + `/hooks/T0K/sec%3Cret%3E-path?token=que%22ry-one&x=quer%C3%BF-two&bare`,
		Reference: "env:ENDPOINT",
		Headers:   map[string]string{"X-Api-Key": `he"ad<er&one`, "Cookie": "session=cook/ie-one; other=cookie-two", "X-Auth": "Bearer bear+er-one"},
		Secret:    vectorSecret,
	}
	return spec, []string{
		"ann@x", "pass/word9", base64.StdEncoding.EncodeToString([]byte("ann@x:pass/word9")),
		"sec<ret>-path", `que"ry-one`, "quer\u00ff-two", `he"ad<er&one`, "cook/ie-one", "cookie-two", "bear+er-one",
		strings.TrimPrefix(vectorSecret, "whsec_"),
	}
}

// forms are the ways in which an endpoint writes a text.
func forms(text string) []string {
	quoted, _ := json.Marshal(text)
	found := []string{text, url.QueryEscape(text), url.PathEscape(text), html.EscapeString(text)}
	for _, q := range []string{string(quoted), strconv.Quote(text)} {
		found = append(found, q[1:len(q)-1])
	}
	return found
}

// An endpoint that says back all that it was sent puts nothing of it into the
// error, whichever way it says it.
func TestHTTP_echo_showsNoSecretOfTheRequest(t *testing.T) {
	t.Parallel()
	dump := func(r *http.Request) string {
		var b strings.Builder
		fmt.Fprintf(&b, "%s %s %s\n", r.Method, r.RequestURI, r.URL.Path)
		for name, values := range r.Header {
			fmt.Fprintf(&b, "%s: %s\n", name, strings.Join(values, ", "))
		}
		for name, values := range r.URL.Query() {
			fmt.Fprintf(&b, "%s is %s\n", name, strings.Join(values, ", "))
		}
		user, password, _ := r.BasicAuth()
		fmt.Fprintf(&b, "%s and %s", user, password)
		return b.String()
	}
	for name, say := range map[string]http.HandlerFunc{
		"text": func(w http.ResponseWriter, r *http.Request) { answer(500, dump(r))(w, r) },
		"json": func(w http.ResponseWriter, r *http.Request) {
			text, _ := json.Marshal(map[string]any{"request": dump(r)})
			answer(422, string(text))(w, r)
		},
		"html":  func(w http.ResponseWriter, r *http.Request) { answer(404, html.EscapeString(dump(r)))(w, r) },
		"query": func(w http.ResponseWriter, r *http.Request) { answer(410, url.QueryEscape(dump(r)))(w, r) },
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			answer(302, "", "Location", "//"+r.Header.Get("X-Auth")[7:]+"/")(w, r)
		},
		"status line": func(w http.ResponseWriter, r *http.Request) {
			raw("HTTP/1.1 "+r.Header.Get("X-Api-Key")+"\r\n\r\n", false)(w, r)
		},
		"no HTTP": func(w http.ResponseWriter, r *http.Request) {
			raw(strings.ReplaceAll(dump(r), "\n", " ")+"\r\n\r\n", false)(w, r)
		},
		"header": func(w http.ResponseWriter, r *http.Request) {
			raw("HTTP/1.1 200 OK\r\n"+r.Header.Get("X-Auth")+"\r\n\r\n", false)(w, r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var signatures []string
			server := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
				for _, signature := range []string{"Signature", "Webhook-Signature"} {
					signatures = append(signatures, r.Header.Get(signature))
				}
				say(w, r)
			})
			spec, secrets := echoSpec(server.Listener.Addr().String())
			_, err := endpointHandler(t, spec).run(t.Context(), endpointJob())
			if err == nil {
				t.Fatal("no error")
			}
			for _, secret := range append(secrets, signatures...) {
				for _, form := range forms(secret) {
					if strings.Contains(err.Error(), form) {
						t.Errorf("%q is in %s", form, err)
					}
				}
			}
			if name != "redirect" && !strings.Contains(err.Error(), deadletter.Redacted) {
				t.Errorf("nothing was said back: %s", err)
			}
		})
	}
}

// A secret that the end of the error cuts is not half there.
func TestHTTP_echo_cutAnywhere(t *testing.T) {
	t.Parallel()
	const secret = "k7vQzR2mX9pL4wTb"
	before := 0
	server := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		answer(500, strings.Repeat(".", before)+secret+strings.Repeat(".", 100)+secret)(w, r)
	})
	h := endpointHandler(t, HTTP{URL: server.URL, Headers: map[string]string{"X-Key": secret}})
	for before = httpMaxError - 130; before <= httpMaxError+5; before++ {
		_, err := h.run(t.Context(), endpointJob())
		if err == nil || strings.Contains(err.Error(), secret[:4]) {
			t.Fatalf("after %d bytes: %s", before, err)
		}
	}
}
