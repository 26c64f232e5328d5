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

// Each request of a handler with a secret has two signatures.
//
// The first is that of Standard Webhooks. It covers the job's id, the time and the
// body, but not the job's name: whoever has recorded a request could send it again
// under another name. It stays for endpoints that verify it.
//
// The second is that of RFC 9421, HTTP Message Signatures. It covers headers too:
// the job's name, its queue, its attempt, whatever an endpoint acts on. The body is
// covered by its Content-Digest (RFC 9530). To put the name into the body or into
// webhook-id would break existing endpoints, or be a format of our own.

const (
	// signatureLabel names our signature among others in the two headers.
	// signatureTag is signed, and says whose signature it is.
	signatureLabel, signatureTag = "soniq", "soniq"
	signatureAlgorithm           = "hmac-sha256"
)

// signedAlways are the components of each signature. @method is the request's.
var signedAlways = []string{
	"@method", "content-digest", "content-type", "idempotency-key",
	"soniq-job-id", "soniq-job-name", "soniq-queue", "soniq-attempt", "soniq-max-attempts",
}

// A component is one line of the text that is signed.
type component struct{ name, value string }

// signKey is a secret, with the id by which an endpoint finds it among several.
type signKey struct {
	id     string
	secret []byte
}

// signKeys gives each secret the beginning of the SHA-256 of its text as its id. That
// tells a few secrets apart, and does not help to guess 24 random bytes.
func signKeys(texts []string, secrets [][]byte) []signKey {
	keys := make([]signKey, len(secrets))
	for i, secret := range secrets {
		sum := sha256.Sum256([]byte(texts[i]))
		keys[i] = signKey{hex.EncodeToString(sum[:8]), secret}
	}
	return keys
}

// signMessage sets the three headers of RFC 9421 and 9530. All other headers must be
// set already. own are the operator's: they are covered if they arrive as they were
// sent. created is in seconds since 1970. nonce must be new for each request.
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

// contentDigest is the body's Content-Digest, by RFC 9530.
func contentDigest(body []byte) string {
	sum := sha256.Sum256(body)
	return "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
}

// signatureParams lists the names of the components, and the signature's parameters.
func signatureParams(components []component, about string) string {
	names := make([]string, len(components))
	for i, c := range components {
		names[i] = `"` + c.name + `"`
	}
	return "(" + strings.Join(names, " ") + ")" + about
}

// signatureBase is the text that is signed: RFC 9421, section 2.5.
func signatureBase(components []component, params string) string {
	var b strings.Builder
	for _, c := range components {
		fmt.Fprintf(&b, "\"%s\": %s\n", c.name, c.value)
	}
	fmt.Fprintf(&b, "\"@signature-params\": %s", params)
	return b.String()
}

// signBase is the signature of base, as a byte sequence of a structured field.
func signBase(secret []byte, base string) string {
	mac := hmac.New(sha256.New, secret)
	_, _ = mac.Write([]byte(base))
	return ":" + base64.StdEncoding.EncodeToString(mac.Sum(nil)) + ":"
}

// fieldValue is the value of a header as it is signed.
func fieldValue(header http.Header, name string) string {
	values := header[http.CanonicalHeaderKey(name)]
	if values == nil {
		values = header[name] // idempotency-key, which is in lower case
	}
	return strings.Trim(strings.Join(values, ", "), " \t")
}

// arrivesAsSent reports whether a header of the operator's reaches the endpoint
// unchanged. A gateway may remove credentials that it checks, proxies add to what
// they write, and a value that is empty or not ASCII is lost or decoded in different
// ways.
func arrivesAsSent(name, value string) bool {
	switch name = http.CanonicalHeaderKey(name); name {
	case "Authorization", "Cookie", "Forwarded", "Via", "X-Real-Ip":
		return false
	}
	return !strings.HasPrefix(name, "X-Forwarded-") && value != "" &&
		!strings.ContainsFunc(value, func(r rune) bool { return r > '~' })
}

// signatureHeader reports whether a header, by its canonical name, is part of the
// signature.
func signatureHeader(name string) bool {
	return name == "Content-Digest" || name == "Signature" || name == "Signature-Input"
}
