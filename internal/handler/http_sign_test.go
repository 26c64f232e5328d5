package handler

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"soniq/internal/testkit"
)

// The example of RFC 9421, appendix B.2.5, and that of RFC 9530 for the digest.
func TestHTTP_messageSignature_isTheStandardsOwn(t *testing.T) {
	t.Parallel()
	secret, err := base64.StdEncoding.DecodeString("uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==")
	if err != nil {
		t.Fatal(err)
	}
	components := []component{{"date", "Tue, 20 Apr 2021 02:07:55 GMT"}, {"@authority", "example.com"}, {"content-type", "application/json"}}
	params := signatureParams(components, `;created=1618884473;keyid="test-shared-secret"`)
	if want := `("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret"`; params != want {
		t.Errorf("parameters %s, want %s", params, want)
	}
	if got, want := signBase(secret, signatureBase(components, params)), ":pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=:"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got, want := contentDigest([]byte(`{"hello": "world"}`)), "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// signedRequest is a job's request as an endpoint gets it, in a form that other
// programs can read.
type signedRequest struct {
	Method  string            `json:"method"`
	Headers map[string]string `json:"headers"` // by lower-case names
	Body    string            `json:"body"`
}

// signed makes the request of a job at a time.
func signed(t *testing.T, secret string, at time.Time) signedRequest {
	t.Helper()
	got := signedRequest{Headers: map[string]string{}}
	server := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got.Method, got.Body = r.Method, string(body)
		for name, values := range r.Header {
			got.Headers[strings.ToLower(name)] = strings.Join(values, ", ")
		}
	})
	h := endpointHandler(t, HTTP{URL: server.URL, Secret: secret, Headers: map[string]string{
		"X-Tenant": " acme ", "Authorization": "Bearer abc", "Cookie": "a=b", "X-Forwarded-Proto": "https", "X-Empty": "", "X-Name": "Zoë",
	}})
	h.now, h.nonce = func() time.Time { return at }, func() string { return "7ZQ2NKWBQDZ5RLOX3JAVHTUC4M" }
	job := endpointJob()
	job.ID = uuid.MustParse("01983c1e-6e2f-7b4e-9d8a-2f1c5b7a9e10")
	if _, err := h.run(t.Context(), job); err != nil {
		t.Fatal(err)
	}
	return got
}

var signedAt = time.Unix(1764547200, 0)

// What docs/worker.md shows. A change of it breaks the endpoints that verify.
func TestHTTP_messageSignature_vector(t *testing.T) {
	t.Parallel()
	r := signed(t, vectorSecret, signedAt)
	doc, err := os.ReadFile("../../docs/worker.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Content-Digest", "Signature-Input", "Signature"} {
		if line := "\n" + name + ": " + r.Headers[strings.ToLower(name)] + "\n"; !strings.Contains(string(doc), line) {
			t.Errorf("docs/worker.md does not have%s", line)
		}
	}
}

// While a secret is being replaced, either verifies; the labels and key ids
// tell which signature is whose.
func TestHTTP_messageSignature_twoSecrets(t *testing.T) {
	t.Parallel()
	other := "whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("o", 64)))
	r := signed(t, other+" "+vectorSecret, signedAt)
	single := signed(t, vectorSecret, signedAt)
	if got, want := strings.Replace(strings.Split(r.Headers["signature"], ", ")[1], "soniq2=", "soniq=", 1), single.Headers["signature"]; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if n := strings.Count(r.Headers["signature-input"], "keyid="); n != 2 || !strings.Contains(r.Headers["signature-input"], `, soniq2=("@method"`) {
		t.Error(r.Headers["signature-input"])
	}
	if strings.Count(r.Headers["webhook-signature"], "v1,") != 2 {
		t.Error(r.Headers["webhook-signature"])
	}
}

// verifier is a snippet of docs/worker.md as a command that reads a
// signedRequest, and what time it is, and says whether it is good.
func verifier(t *testing.T, language string) []string {
	t.Helper()
	doc, err := os.ReadFile("../../docs/worker.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(doc), "\n### Signed requests\n")
	match := regexp.MustCompile("(?ms)^```" + language + "\n(.*?)^```$").FindStringSubmatch(section)
	if match == nil {
		t.Fatalf("docs/worker.md verifies nothing in %s", language)
	}
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if language == "python" {
		write("verify.py", match[1])
		return []string{"python3", write("main.py", pythonHarness)}
	}
	binary := filepath.Join(dir, "verify")
	if out, err := exec.Command("go", "build", "-o", binary, write("verify.go", match[1]), write("main.go", goHarness)).CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	return []string{binary}
}

const pythonHarness = `
import json, sys
import verify

for line in sys.stdin:
    r = json.loads(line)
    try:
        verify.verify(r["secrets"], r["method"], r["headers"], r["body"].encode(), now=r["now"])
        print("good")
    except ValueError as e:
        print("bad:", e)
`

const goHarness = `package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"time"
)

func main() {
	for d := json.NewDecoder(os.Stdin); d.More(); {
		var r struct {
			Secrets []string
			Method, Body string
			Headers map[string]string
			Now int64
		}
		if err := d.Decode(&r); err != nil {
			panic(err)
		}
		req, _ := http.NewRequest(r.Method, "/", nil)
		for name, value := range r.Headers {
			req.Header.Set(name, value)
		}
		if err := verify(req, []byte(r.Body), time.Unix(r.Now, 0), r.Secrets...); err != nil {
			fmt.Println("bad:", err)
		} else {
			fmt.Println("good")
		}
	}
}
`

// The documentation's code, as it stands there: it takes what Soniq sends, and
// nothing that somebody has changed on the way.
func TestHTTP_messageSignature_documentedVerification(t *testing.T) {
	t.Parallel()
	other := "whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("o", 64)))
	type question struct {
		signedRequest
		Secrets []string `json:"secrets"`
		Now     int64    `json:"now"`

		name string
		good bool
	}
	var questions []question
	add := func(name string, good bool, change func(q *question)) {
		q := question{name: name, good: good, signedRequest: signed(t, vectorSecret, signedAt), Secrets: []string{vectorSecret}, Now: signedAt.Unix()}
		change(&q)
		questions = append(questions, q)
	}
	set := func(name, value string) func(*question) {
		return func(q *question) { q.Headers[name] = value }
	}
	add("as sent", true, func(*question) {})
	add("five minutes later", true, func(q *question) { q.Now += 300 })
	add("a slow clock", true, func(q *question) { q.Now -= 300 })
	add("replayed", false, func(q *question) { q.Now += 301 })
	add("from the future", false, func(q *question) { q.Now -= 301 })
	add("one of two secrets", true, func(q *question) { q.Secrets = []string{other, vectorSecret} })
	add("another secret", false, func(q *question) { q.Secrets = []string{other} })
	add("no secret", false, func(q *question) { q.Secrets = []string{} })
	add("signed twice, the first", true, func(q *question) {
		q.signedRequest, q.Secrets = signed(t, other+" "+vectorSecret, signedAt), []string{other}
	})
	add("signed twice, the second", true, func(q *question) {
		q.signedRequest = signed(t, other+" "+vectorSecret, signedAt)
	})
	for _, header := range []string{
		"soniq-job-name", "soniq-job-id", "soniq-queue", "soniq-attempt", "soniq-max-attempts", "idempotency-key",
		"content-type", "content-digest", "x-tenant", "signature", "signature-input",
	} {
		add("another "+header, false, set(header, "1"))
		add("no "+header, false, func(q *question) { delete(q.Headers, header) })
		// Another's signature may stand beside ours.
		further := header == "signature" || header == "signature-input"
		add("more "+header, further, func(q *question) { q.Headers[header] += ", 1" })
	}
	add("another body", false, func(q *question) { q.Body += " " })
	add("another body and digest", false, func(q *question) {
		q.Body += " "
		q.Headers["content-digest"] = contentDigest([]byte(q.Body))
	})
	add("another method", false, func(q *question) { q.Method = "PUT" })
	add("a later time", false, func(q *question) {
		q.Headers["signature-input"] = strings.Replace(q.Headers["signature-input"], "created=1764547200", "created=1764547500", 1)
		q.Now += 400
	})
	add("less signed", false, func(q *question) {
		q.Headers["signature-input"] = strings.Replace(q.Headers["signature-input"], ` "soniq-job-name"`, "", 1)
	})
	// Signed with the right secret, by a program that covers less.
	add("less signed, and rightly", false, func(q *question) {
		components := []component{{"@method", "POST"}, {"content-digest", q.Headers["content-digest"]}}
		params := signatureParams(components, `;created=1764547200;keyid="x"`)
		key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(vectorSecret, "whsec_"))
		if err != nil {
			t.Fatal(err)
		}
		q.Headers["signature-input"], q.Headers["signature"] = "soniq="+params, "soniq="+signBase(key, signatureBase(components, params))
	})
	// Not covered, and free to be added to on the way.
	add("more authorization", true, set("authorization", "Basic abc"))
	add("through a proxy", true, set("x-forwarded-proto", "http"))

	var input bytes.Buffer
	for _, q := range questions {
		if err := json.NewEncoder(&input).Encode(q); err != nil {
			t.Fatal(err)
		}
	}
	for _, language := range []string{"go", "python"} {
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			if language == "python" && !testkit.Installed(t, "python3") {
				return
			}
			command := verifier(t, language)
			cmd := exec.Command(command[0], command[1:]...)
			cmd.Stdin, cmd.Stderr = bytes.NewReader(input.Bytes()), os.Stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			answers := strings.Split(strings.TrimSpace(string(out)), "\n")
			if len(answers) != len(questions) {
				t.Fatalf("%d answers to %d questions: %s", len(answers), len(questions), out)
			}
			for i, q := range questions {
				if (answers[i] == "good") != q.good {
					t.Errorf("%s: %s", q.name, answers[i])
				}
			}
		})
	}
}

// A header that is signed must not be the operator's too.
func TestHTTP_messageSignature_headersAreReserved(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"signature", "Signature-Input", "content-digest"} {
		spec := HTTP{URL: "http://localhost/", Headers: map[string]string{name: "x"}}
		if err := spec.Check(); err != nil {
			t.Errorf("without a secret: %v", err)
		}
		spec.Secret = vectorSecret
		if err := spec.Check(); err == nil || !strings.Contains(err.Error(), "set by soniq") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !slices.Contains(signedAlways, "soniq-job-name") {
		t.Error("the job's name is not signed")
	}
}
