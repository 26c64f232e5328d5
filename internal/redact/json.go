package redact

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// JSON returns a document with [Placeholder] in the place of each value whose key is that
// of a secret (see [Key]). Its other texts and its keys are redacted by [Text]. A text that
// is JSON is redacted as JSON. null, true and false stay, and so do order, spaces and
// digits. A doc that isn't JSON is redacted by Text. The time is linear in the length, and
// redacting twice is redacting once.
func JSON(doc json.RawMessage) json.RawMessage {
	return redactDocument(doc, false)
}

// Document is [JSON] for a document of this program, whose keys can be names that users
// chose, such as the counts of jobs by name. Numbers stay.
func Document(doc json.RawMessage) json.RawMessage {
	return redactDocument(doc, true)
}

func redactDocument(doc json.RawMessage, numbers bool) json.RawMessage {
	if len(doc) == 0 {
		return doc
	}
	if !json.Valid(doc) {
		return json.RawMessage(Text(string(doc)))
	}
	s := string(doc)
	redacted := settle(s, func(s string) (string, bool) { return scanDocument(document{s: s, numbers: numbers}) })
	switch redacted {
	case s:
		return doc
	case Placeholder:
		return json.RawMessage(`"` + Placeholder + `"`)
	}
	return json.RawMessage(redacted)
}

// maxNested is how often JSON within a text of JSON is read as such.
const maxNested = 8

// scanJSON redacts valid JSON once.
func scanJSON(s string, nested int) (string, bool) {
	return scanDocument(document{s: s, nested: nested})
}

func scanDocument(d document) (string, bool) {
	d.out = make([]byte, 0, len(d.s)+len(d.s)/16)
	d.value(place{})
	d.space()
	return string(d.out), string(d.out) != d.s
}

// A document goes over valid JSON once.
type document struct {
	s      string
	i      int
	out    []byte
	nested int
	// numbers: they stay as they are.
	numbers bool
}

// A place is what is known of a value by where it stands.
type place struct {
	secrecy secrecy
	// headers: names and values follow each other, or are pairs.
	headers bool
	// listed: the value is an element of an array.
	listed bool
	// id: a long number is no card number.
	id bool
}

func (d *document) space() {
	from := d.i
	for d.i < len(d.s) && d.s[d.i] <= ' ' {
		d.i++
	}
	d.out = append(d.out, d.s[from:d.i]...)
}

// take copies a byte of the document's structure.
func (d *document) take() byte {
	b := d.s[d.i]
	d.out = append(d.out, b)
	d.i++
	return b
}

// value copies the next value, and returns its text where it is one.
func (d *document) value(c place) (text string) {
	d.space()
	if c.secrecy != open {
		return d.hidden(c)
	}
	switch b := d.s[d.i]; b {
	case '{':
		d.object(c)
	case '[':
		d.array(c)
	case '"':
		raw := d.skipString()
		text = unquote(raw)
		d.text(raw, text)
	default:
		raw := d.skipScalar()
		if !c.id && !d.numbers && isDigit(raw[0]) && len(raw) >= 13 && len(raw) <= 19 && card(raw, 0) == len(raw) {
			d.placeholder()
			break
		}
		d.out = append(d.out, raw...)
	}
	return text
}

// hidden skips the value of a secret.
func (d *document) hidden(c place) (text string) {
	switch b := d.s[d.i]; b {
	case '{', '[':
		d.skipNested()
	case '"':
		if raw := d.skipString(); len(raw) == 2 || reference(raw[1:len(raw)-1]) {
			d.out = append(d.out, raw...)
			return ""
		}
	default:
		if raw := d.skipScalar(); b == 't' || b == 'f' || b == 'n' || c.secrecy == hideTexts || d.numbers {
			d.out = append(d.out, raw...)
			return ""
		}
	}
	d.placeholder()
	return ""
}

func (d *document) placeholder() {
	d.out = append(d.out, '"')
	d.out = append(d.out, Placeholder...)
	d.out = append(d.out, '"')
}

// object copies an object. Where one member names a secret, another is its
// value: {"name": "password", "value": "x"}.
func (d *document) object(c place) {
	d.take()
	named := open
	valueFrom, valueEnd := -1, -1
	for {
		d.space()
		if d.s[d.i] == '}' {
			break
		}
		if d.s[d.i] == ',' {
			d.take()
			d.space()
		}
		raw := d.skipString()
		key := unquote(raw)
		d.text(raw, key)
		d.space()
		d.take() // the colon
		d.space()
		inner := place{secrecy: secrecyOf(key), id: idKey(key), headers: c.headers || headers(key)}
		from := len(d.out)
		text := d.value(inner)
		switch strings.ToLower(key) {
		case "name", "key", "header", "header_name", "headername", "field", "variable", "param", "parameter", "k":
			named = max(named, secrecyOf(text))
		case "value", "val", "values", "v", "content", "default":
			valueFrom, valueEnd = from, len(d.out)
		}
	}
	if named != open && valueFrom >= 0 {
		d.hideValue(valueFrom, valueEnd)
	}
	d.take()
}

// hideValue replaces what was copied, unless it has no secret in it.
func (d *document) hideValue(from, end int) {
	switch b := d.out[from]; {
	case b == 't' || b == 'f' || b == 'n', end-from == 2, string(d.out[from:end]) == `"`+Placeholder+`"`:
		return
	}
	tail := bytes.Clone(d.out[end:])
	d.out = d.out[:from]
	d.placeholder()
	d.out = append(d.out, tail...)
}

// array copies an array. An element that names a secret makes one of the next:
// ["--password", "x"] as arguments of a command, ["Authorization", "x"] within a
// list of headers, or as a pair among others.
func (d *document) array(c place) {
	d.take()
	next := open
	for n := 0; ; n++ {
		d.space()
		if d.s[d.i] == ']' {
			break
		}
		if d.s[d.i] == ',' {
			d.take()
			d.space()
		}
		text := d.value(place{secrecy: next, headers: c.headers, listed: true, id: c.id})
		next = open
		if strings.HasPrefix(text, "-") && !strings.ContainsAny(text, "= ") || c.headers || c.listed && n == 0 {
			next = secrecyOf(text)
		}
	}
	d.take()
}

// text copies a string, raw as it stands there and text as it reads.
func (d *document) text(raw, text string) {
	// JSON settles the document as a whole: to settle each level would double the
	// rounds with each.
	redacted, changed := scanString(text, d.nested)
	if !changed {
		d.out = append(d.out, raw...)
		return
	}
	d.out = appendString(d.out, redacted)
}

// scanString redacts a text, which may be JSON itself, once.
func scanString(s string, nested int) (string, bool) {
	if t := strings.TrimSpace(s); nested < maxNested && len(t) > 1 && strings.IndexByte(`{["`, t[0]) >= 0 && json.Valid([]byte(s)) {
		return scanJSON(s, nested+1)
	}
	return scanText(s)
}

// skipString returns the string at d.i, with its quotes.
func (d *document) skipString() string {
	from := d.i
	for d.i++; d.s[d.i] != '"'; d.i++ {
		if d.s[d.i] == '\\' {
			d.i++
		}
	}
	d.i++
	return d.s[from:d.i]
}

// skipScalar returns the number or the word at d.i.
func (d *document) skipScalar() string {
	from := d.i
	for d.i < len(d.s) && d.s[d.i] > ' ' && strings.IndexByte(",]}", d.s[d.i]) < 0 {
		d.i++
	}
	return d.s[from:d.i]
}

// skipNested skips the object or the array at d.i.
func (d *document) skipNested() {
	for depth := 0; ; {
		switch d.s[d.i] {
		case '"':
			d.skipString()
			continue
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		d.i++
		if depth == 0 {
			return
		}
	}
}

// unquote reads a JSON string.
func unquote(raw string) string {
	if inner := raw[1 : len(raw)-1]; strings.IndexByte(inner, '\\') < 0 && utf8.ValidString(inner) {
		return inner
	}
	var text string
	_ = json.Unmarshal([]byte(raw), &text) // it is valid
	return text
}

// appendString writes a JSON string, and not for HTML.
func appendString(out []byte, s string) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string always has a JSON
	return append(out, bytes.TrimRight(b.Bytes(), "\n")...)
}

// headers reports whether a key is that of a list of headers.
func headers(key string) bool {
	return len(key) <= maxName && strings.Contains(strings.ToLower(key), "header")
}

// idKey reports whether a key is that of an id or a time.
func idKey(key string) bool {
	var buffer [maxKey]byte
	if len(key) > maxKey {
		return false
	}
	name, last := plainName(buffer[:0], key)
	switch string(name[last:]) {
	case "id", "ids", "uid", "ts", "at", "time", "timestamp", "nonce", "seq", "cursor", "offset", "version":
		return true
	}
	return false
}
