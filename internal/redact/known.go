package redact

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"html"
	"net/url"
	"slices"
	"strings"
)

const (
	// minKnown is the shortest value that is looked for, in bytes. Shorter ones
	// are found in any text.
	minKnown = 4
	// minEncoded is the same for the middle of a longer text in base64, whose
	// ends are unknown.
	minEncoded = 6
	// maxKnown bounds one value: what is longer is looked for by its beginning.
	maxKnown = 16 << 10
)

// Known returns text with [Placeholder] in the place of each of values. It finds a value as
// it is, escaped for a URL, for JSON or for HTML, in base64 (standard or for URLs, also
// within a longer text) and in hexadecimal. It ignores values of less than four bytes.
func Known(text string, values ...string) string {
	return NewSet(values...).Text(text)
}

// A Set is a set of known secrets. The zero value and nil are empty sets. It is safe for
// concurrent use.
type Set struct {
	forms  []string
	public []string
}

// NewSet returns a set of values.
func NewSet(values ...string) *Set {
	s := &Set{}
	seen := map[string]bool{}
	for _, value := range values {
		for _, form := range forms(value) {
			// What is part of the mark would be found in it.
			if !seen[form] && !strings.Contains(Placeholder, form) {
				seen[form] = true
				s.forms = append(s.forms, form)
			}
		}
	}
	slices.SortFunc(s.forms, func(a, b string) int { return len(b) - len(a) })
	return s
}

// Keep adds texts that stay although a value contains them, such as the host of a URL. It
// returns s.
func (s *Set) Keep(public ...string) *Set {
	for _, text := range public {
		if text != "" {
			s.public = append(s.public, text)
		}
	}
	return s
}

// Longest returns the length in bytes of the longest form of a value. A caller that cuts a
// text reads so much more of it, to recognise a value that begins before the cut.
func (s *Set) Longest() int {
	if s == nil || len(s.forms) == 0 {
		return 0
	}
	return len(s.forms[0])
}

// Text is [Known] for the values of the set.
func (s *Set) Text(text string) string { return s.text(text, false, false) }

// Cut is [Set.Text] for a text whose beginning (start) or end is missing: a part of a value
// may stand there.
func (s *Set) Cut(text string, start, end bool) string { return s.text(text, start, end) }

func (s *Set) text(text string, start, end bool) string {
	if s == nil || len(s.forms) == 0 || text == "" {
		return text
	}
	var hidden []bool // by byte; nil while nothing was found
	hide := func(from, to int) {
		if hidden == nil {
			hidden = make([]bool, len(text))
		}
		for i := from; i < to; i++ {
			hidden[i] = true
		}
	}
	s.find(&view{text: text}, start, end, hide)
	for v, rounds := unescape(&view{text: text}), 0; v != nil && rounds < maxEscapes; v, rounds = unescape(v), rounds+1 {
		s.find(v, start, end, hide)
	}
	if v := unfold(text); v != nil {
		s.find(v, start, end, hide)
	}
	if hidden == nil {
		return text
	}
	for _, public := range s.public {
		for at := 0; ; {
			i := strings.Index(text[at:], public)
			if i < 0 {
				break
			}
			for j := at + i; j < at+i+len(public); j++ {
				hidden[j] = false
			}
			at += i + len(public)
		}
	}
	var out strings.Builder
	for i := range len(text) {
		switch {
		case !hidden[i]:
			out.WriteByte(text[i])
		case i == 0 || !hidden[i-1]:
			out.WriteString(Placeholder)
		}
	}
	return out.String()
}

// find hides what v has of the values.
func (s *Set) find(v *view, start, end bool, hide func(from, to int)) {
	text := v.text
	for _, form := range s.forms {
		// Also those that overlap: 'aaaa' is twice in 'aaaaa'.
		for at := 0; ; {
			i := strings.Index(text[at:], form)
			if i < 0 {
				break
			}
			hide(v.place(at+i), v.end(at+i+len(form)))
			at += i + 1
		}
		if start {
			// The cut may be within an escape, whose rest reads as itself.
			for skip := 0; skip <= v.escape && skip < len(text); skip++ {
				if n := overlap(form, text[skip:]); n > 0 {
					hide(0, v.end(skip+n))
					break
				}
			}
		}
		if end {
			for skip := 0; skip <= v.escape && skip < len(text); skip++ {
				whole := text[:len(text)-skip]
				if n := overlap(whole, form); n > 0 {
					hide(v.place(len(whole)-n), v.place(len(text)))
					break
				}
			}
		}
	}
}

// overlap is how many bytes, minKnown at least, the end of before and the
// beginning of after have in common, all of neither.
func overlap(before, after string) int {
	for n := min(len(before), len(after)) - 1; n >= minKnown; n-- {
		if strings.HasSuffix(before, after[:n]) {
			return n
		}
	}
	return 0
}

// forms are the ways in which value can stand in a text.
func forms(value string) []string {
	if len(value) > maxKnown {
		value = value[:maxKnown]
	}
	if len(value) < minKnown {
		return nil
	}
	query, path := url.QueryEscape(value), url.PathEscape(value)
	found := []string{value, query, path, lowerEscapes(query), lowerEscapes(path), html.EscapeString(value)}
	found = append(found, strings.NewReplacer("&#34;", "&quot;", "&#39;", "&#x27;").Replace(found[5]), strings.ReplaceAll(found[5], "&#39;", "&apos;"))
	for _, forHTML := range []bool{false, true} {
		found = append(found, quotedForm(value, forHTML))
	}
	found = append(found, strings.ReplaceAll(found[len(found)-2], "/", `\/`))
	digits := hex.EncodeToString([]byte(value))
	found = append(found, digits, strings.ToUpper(digits))
	for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
		found = append(found, encoding.EncodeToString([]byte(value)), encoding.WithPadding(base64.NoPadding).EncodeToString([]byte(value)))
		for shift := range 3 {
			if inner := within(encoding, value, shift); len(inner) >= minEncoded {
				found = append(found, inner)
			}
		}
	}
	return slices.DeleteFunc(found, func(form string) bool { return len(form) < minKnown })
}

// quotedForm is value as JSON writes it, without the quotes around it.
func quotedForm(value string, forHTML bool) string {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(forHTML)
	if err := enc.Encode(value); err != nil {
		return "" // never fails for text
	}
	return strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(out.String()), `"`), `"`)
}

// within is what value looks like in the base64 of something longer, in which
// it begins shift bytes after a group of three. The characters at both ends,
// which what is beside it decides too, are left out.
func within(encoding *base64.Encoding, value string, shift int) string {
	text := encoding.WithPadding(base64.NoPadding).EncodeToString(append(make([]byte, shift), value...))
	if (shift+len(value))%3 != 0 {
		text = text[:len(text)-1]
	}
	// 8 bits before take one character and a part of the second, 16 two and a
	// part of the third.
	return text[min(len(text), []int{0, 2, 3}[shift]):]
}

// lowerEscapes writes the digits of %XX in lower case.
func lowerEscapes(text string) string {
	out := []byte(text)
	for i := 0; i+2 < len(out); i++ {
		if out[i] == '%' {
			copy(out[i+1:i+3], bytes.ToLower(out[i+1:i+3]))
			i += 2
		}
	}
	return string(out)
}

// HeaderParts returns the secrets in the value of an HTTP header: the whole, the part after
// a scheme such as Bearer, user and password of Basic, and the values of a list such as
// that of Cookie.
func HeaderParts(value string) []string {
	value = strings.TrimSpace(value)
	parts := []string{value}
	scheme, rest, found := strings.Cut(value, " ")
	if found {
		rest = strings.TrimSpace(rest)
		parts = append(parts, rest)
		if raw, err := base64.StdEncoding.DecodeString(rest); err == nil && strings.EqualFold(scheme, "basic") {
			parts = append(parts, string(raw))
			if user, password, found := strings.Cut(string(raw), ":"); found {
				parts = append(parts, user, password)
			}
		}
	}
	for _, item := range strings.FieldsFunc(value, func(r rune) bool { return strings.ContainsRune(";, \t", r) }) {
		if _, after, found := strings.Cut(item, "="); found {
			parts = append(parts, strings.Trim(after, `"'`))
		}
	}
	return parts
}

// URLParts returns the secrets in a URL: all of it but its scheme and host. A text that is
// no URL is a secret as a whole.
func URLParts(text string) []string {
	parts := []string{text}
	u, err := url.Parse(text)
	if err != nil {
		return parts
	}
	parts = append(parts, u.RequestURI(), u.EscapedPath(), u.Path, u.RawQuery, u.Fragment)
	if u.User != nil {
		password, _ := u.User.Password()
		parts = append(parts, u.User.String(), u.User.Username(), password)
	}
	for segment := range strings.SplitSeq(u.EscapedPath(), "/") {
		parts = append(parts, segment)
		if plain, err := url.PathUnescape(segment); err == nil {
			parts = append(parts, plain)
		}
	}
	for pair := range strings.FieldsFuncSeq(u.RawQuery, func(r rune) bool { return r == '&' || r == ';' }) {
		parts = append(parts, pair)
		// A token alone, without a name, is the key.
		name, value, named := strings.Cut(pair, "=")
		if !named {
			value = name
		}
		parts = append(parts, value)
		if plain, err := url.QueryUnescape(value); err == nil {
			parts = append(parts, plain)
		}
	}
	return parts
}
