package handler

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// Two signatures go with each request of a handler that has a secret.
//
// The first is Standard Webhooks', which covers the job's id, the time and the
// body, and nothing else: who holds such a request could give the arguments to
// another job's name. It stays for the endpoints that verify it.
//
// The second is that of RFC 9421, HTTP Message Signatures, which was made to
// cover headers: the job's name, its queue, its attempt, whatever an endpoint
// acts on. The body is covered by its Content-Digest (RFC 9530). The other ways
// to cover the name (another body, a webhook-id that holds it) would break the
// endpoints that there are, or be a format of our own.

const (
	// signatureLabel names our signature among others in the two headers, and
	// signatureTag says in what is signed whose it is.
	signatureLabel, signatureTag = "soniq", "soniq"
	signatureAlgorithm           = "hmac-sha256"
)

// signedAlways are the components of each signature. @method is the request's.
var signedAlways = []string{
	"@method", "content-digest", "content-type", "idempotency-key",
	"soniq-job-id", "soniq-job-name", "soniq-queue", "soniq-attempt", "soniq-max-attempts",
}

// A component is one line of what is signed.
type component struct{ name, value string }

// signKey is a secret, and how the endpoint finds it among several.
type signKey struct {
	id     string
	secret []byte
}

// signKeys names each secret by the beginning of the SHA-256 of its text:
// enough to tell a few apart, and no help in guessing 24 random bytes.
func signKeys(texts []string, secrets [][]byte) []signKey {
	keys := make([]signKey, len(secrets))
	for i, secret := range secrets {
		sum := sha256.Sum256([]byte(texts[i]))
		keys[i] = signKey{hex.EncodeToString(sum[:8]), secret}
	}
	return keys
}

// signMessage sets the three headers of RFC 9421 and 9530 for a body. All other
// headers are there already; those of own, the operator's, that can arrive as
// they were sent are covered too. created is in seconds. nonce is this
// request's alone.
func signMessage(header http.Header, own http.Header, keys []signKey, body []byte, created int64, nonce string) {
	header.Set("Content-Digest", contentDigest(body))
	components := []component{}
	for _, name := range signedAlways {
		if name == "@method" {
			components = append(components, component{name, http.MethodPost})
			continue
		}
		components = append(components, component{name, fieldValue(header, name)})
	}
	for _, name := range slices.Sorted(maps.Keys(own)) {
		if value := fieldValue(own, name); arrivesAsSent(name, value) {
			components = append(components, component{strings.ToLower(name), value})
		}
	}
	var inputs, signatures []string
	for i, key := range keys {
		label := signatureLabel
		if i > 0 {
			label += strconv.Itoa(i + 1)
		}
		params := signatureParams(components, fmt.Sprintf(`;created=%d;keyid="%s";alg="%s";nonce="%s";tag="%s"`,
			created, key.id, signatureAlgorithm, nonce, signatureTag))
		inputs = append(inputs, label+"="+params)
		signatures = append(signatures, label+"="+signBase(key.secret, signatureBase(components, params)))
	}
	header.Set("Signature-Input", strings.Join(inputs, ", "))
	header.Set("Signature", strings.Join(signatures, ", "))
}

// contentDigest is the body's header after RFC 9530.
func contentDigest(body []byte) string {
	sum := sha256.Sum256(body)
	return "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
}

// signatureParams are the names of what is signed, and what is said about it.
func signatureParams(components []component, about string) string {
	names := make([]string, len(components))
	for i, c := range components {
		names[i] = `"` + c.name + `"`
	}
	return "(" + strings.Join(names, " ") + ")" + about
}

// signatureBase is what is signed: RFC 9421, section 2.5.
func signatureBase(components []component, params string) string {
	var b strings.Builder
	for _, c := range components {
		fmt.Fprintf(&b, "\"%s\": %s\n", c.name, c.value)
	}
	fmt.Fprintf(&b, "\"@signature-params\": %s", params)
	return b.String()
}

// signBase is a signature as a byte sequence of a structured field.
func signBase(secret []byte, base string) string {
	mac := hmac.New(sha256.New, secret)
	_, _ = mac.Write([]byte(base))
	return ":" + base64.StdEncoding.EncodeToString(mac.Sum(nil)) + ":"
}

// fieldValue is the value of a header that is there once, as it is signed.
func fieldValue(header http.Header, name string) string {
	values := header[http.CanonicalHeaderKey(name)]
	if values == nil {
		values = header[name] // one that is spelt so on purpose
	}
	return strings.Trim(strings.Join(values, ", "), " \t")
}

// arrivesAsSent reports whether a header of the operator's reaches the endpoint
// unchanged: credentials may be taken off by a gateway that checks them, what
// proxies write is added to, and an empty value or one that is not ASCII is
// lost or read in different ways.
func arrivesAsSent(name, value string) bool {
	switch name = http.CanonicalHeaderKey(name); name {
	case "Authorization", "Cookie", "Forwarded", "Via", "X-Real-Ip":
		return false
	}
	return !strings.HasPrefix(name, "X-Forwarded-") && value != "" &&
		!strings.ContainsFunc(value, func(r rune) bool { return r > '~' })
}

// signatureHeader reports whether a header, by its canonical name, belongs to
// the signature.
func signatureHeader(name string) bool {
	return name == "Content-Digest" || name == "Signature" || name == "Signature-Input"
}
