package redact

import "strings"

// Text returns s with [Placeholder] in the place of each secret that it recognises by its
// name or its form. The time is linear in the length of s, and redacting twice is redacting
// once. Bytes that are not UTF-8 stay.
func Text(s string) string {
	return settle(s, scanText)
}

// A scanner goes over a text once. What is hidden is in front of what is read
// next, so that no byte is hidden twice.
type scanner struct {
	s   string
	out strings.Builder
	// done is up to where the text has been copied or hidden.
	done int
	// noJWT is up to where no token of that kind can begin: to look for the end
	// of each would cost the square of their number.
	noJWT int
	// pair is up to where "value": stands for a secret, since "name": named one.
	pair int
	// line is the end of the line that was last looked at, last that of its last
	// word.
	line, last int
	// at is the next '@'.
	at int
	// hidden are the beginnings and ends of what was hidden.
	hidden [][2]int
}

// scanText redacts s once: as it stands or, where that has no secret, as it reads
// without the escapes of URLs and HTML. So pages of errors are written, and forms
// with JSON in them.
func scanText(s string) (string, bool) {
	x := scanner{s: s, at: -1}
	if redacted, changed := x.scan(); changed {
		return redacted, true
	}
	for v, rounds := unescapeMarkup(&view{text: s}), 0; v != nil && rounds < maxEscapes; v, rounds = unescapeMarkup(v), rounds+1 {
		reads := scanner{s: v.text, at: -1}
		if _, changed := reads.scan(); !changed {
			continue
		}
		x = scanner{s: s, at: -1}
		for _, part := range reads.hidden {
			x.hide(v.place(part[0]), v.place(part[1]))
		}
		if x.done > 0 {
			x.out.WriteString(s[x.done:])
			return x.out.String(), true
		}
	}
	return s, false
}

func (x *scanner) scan() (string, bool) {
	s := x.s
	for i := 0; i < len(s); {
		if isAlnum(s[i]) {
			if i > 0 && s[i-1] == '\\' && (s[i] == 'n' || s[i] == 'r' || s[i] == 't') {
				i++ // an escaped line break is no part of the word behind it
				continue
			}
			end := x.word(i)
			for end < len(s) && isAlnum(s[end]) && isAlnum(s[end-1]) {
				end++
			}
			i = end
			continue
		}
		next := i
		switch s[i] {
		case ':', '=', '%':
			next = x.assignment(i)
		case '-':
			if next = x.pem(i); next == i {
				next = x.flag(i)
			}
		case '@':
			x.dsn(i)
		case '>':
			next = x.element(i)
		case ',':
			next = x.tuple(i)
		case '"', '\'':
			next = x.sqlPassword(i)
		}
		i = max(next, i+1)
	}
	if x.done == 0 {
		return s, false
	}
	x.out.WriteString(s[x.done:])
	return x.out.String(), true
}

// hide takes s[from:end] out, unless it is out already.
func (x *scanner) hide(from, end int) {
	from = max(from, x.done)
	if from >= end || x.s[from:end] == Placeholder {
		return
	}
	x.out.WriteString(x.s[x.done:from])
	x.out.WriteString(Placeholder)
	x.done = end
	x.hidden = append(x.hidden, [2]int{from, end})
}

// word hides the token that begins at s[i], a letter or a digit after something
// else, and returns where to go on.
func (x *scanner) word(i int) (next int) {
	s, b := x.s, x.s[i]
	for k := range shapes[b] {
		if from, end := shapes[b][k].find(s[i:]); end > 0 {
			x.hide(i+from, i+end)
			return i + end
		}
	}
	var end int
	switch {
	case isDigit(b):
		if end = card(s, i); end == i {
			end = botToken(s, i)
		}
	case b == 'e':
		end = x.jwt(i)
	case b == 'P':
		// A private key's first line whose beginning was cut.
		if strings.HasPrefix(s[i:], "PRIVATE KEY-----") {
			from := i
			if from >= x.done+4 && s[from-1] == ' ' {
				for from > x.done && (s[from-1] >= 'A' && s[from-1] <= 'Z' || s[from-1] == ' ' || s[from-1] == '-') {
					from--
				}
			}
			end = bodyAfter(s, i+len("PRIVATE KEY-----"))
			x.hide(from, end)
			return end
		}
	case b == 'b' || b == 'B':
		if from, to := scheme(s, i); to > from {
			x.hide(from, to)
			return to
		}
	}
	if end > i {
		x.hide(i, end)
		return end
	}
	return i + 1
}

// jwt returns the end of the JSON web token at s[i], signed or encrypted, or i.
// The header alone says nothing.
func (x *scanner) jwt(i int) int {
	s := x.s
	if i < x.noJWT || !strings.HasPrefix(s[i:], "eyJ") {
		return i
	}
	dot := i
	for dot < len(s) && wordChars[s[dot]] {
		dot++
	}
	if dot == len(s) || s[dot] != '.' {
		x.noJWT = dot
		return i
	}
	if dot-i < 11 || dot+1 == len(s) || !wordChars[s[dot+1]] && s[dot+1] != '.' {
		return i
	}
	end := dot
	for end < len(s) && dotted[s[end]] {
		end++
	}
	for s[end-1] == '.' {
		end--
	}
	if end <= dot {
		return i
	}
	return end
}

// botToken returns the end of a Telegram bot's token, or i.
func botToken(s string, i int) int {
	end := i
	for end < len(s) && isDigit(s[end]) && end-i <= 12 {
		end++
	}
	if end-i < 8 || !strings.HasPrefix(s[end:], ":AA") {
		return i
	}
	from := end
	for end++; end < len(s) && wordChars[s[end]]; {
		end++
	}
	if end-from < 30 {
		return i
	}
	return end
}

// scheme returns what follows the name of an HTTP authentication scheme at s[i],
// where that looks like credentials.
func scheme(s string, i int) (from, end int) {
	for _, name := range [...]string{"bearer", "basic"} {
		if len(s)-i <= len(name) || !strings.EqualFold(s[i:i+len(name)], name) {
			continue
		}
		from = i + len(name)
		for from < len(s) && (s[from] == ' ' || s[from] == '\t') {
			from++
		}
		if from == i+len(name) {
			return 0, 0
		}
		end = from
		for end < len(s) && bearerChars[s[end]] {
			end++
		}
		for end > from && s[end-1] == '.' {
			end--
		}
		if end-from >= 8 && random(s[from:end]) {
			return from, end
		}
	}
	return 0, 0
}

var bearerChars = chars("._~+/=-")

// random reports whether a word looks like a secret rather than one of a
// language: it has a digit, a capital that doesn't begin it, or a sign within
// that words don't have; or it is very long.
func random(word string) bool {
	if len(word) >= 24 {
		return true
	}
	for i := range len(word) {
		switch b := word[i]; {
		case isDigit(b), b == '_', b == '+', b == '=', b == '~', b == '!', b == '@', b == '#', b == '$', b == '%', b == '^', b == '*':
			return true
		case i > 0 && 'A' <= b && b <= 'Z':
			return true
		case b == '.' && i > 0 && i < len(word)-1:
			return true
		}
	}
	return false
}

// pem hides the private key at the dashes of s[i].
func (x *scanner) pem(i int) (next int) {
	from, end := pem(x.s, i, x.done)
	if end == i {
		return i
	}
	x.hide(from, end)
	return end
}

// maxTag bounds the tags that are looked at, in bytes.
const maxTag = 200

// element hides the content of <password>x</password>, with attributes too, and of
// <entry key="password">x</entry>.
func (x *scanner) element(i int) (next int) {
	s := x.s
	begin := i
	for begin > 0 && i-begin < maxTag && s[begin-1] != '<' && s[begin-1] != '>' && s[begin-1] != '\n' {
		begin--
	}
	if begin == 0 || s[begin-1] != '<' || begin == i || s[i-1] == '/' || !secretTag(s[begin:i]) {
		return i
	}
	from, close := i+1, "<"
	if strings.HasPrefix(s[from:], cdata) {
		from, close = from+len(cdata), "]]>"
	}
	end := from
	for end < len(s) && s[end] != '\n' && !strings.HasPrefix(s[end:], close) {
		end++
	}
	if strings.TrimSpace(s[from:end]) == "" || placeholderAt(s, from) {
		return i
	}
	x.hide(from, end)
	return end
}

const cdata = "<![CDATA["

// secretTag reports whether a tag, without its brackets, is that of a secret.
func secretTag(tag string) bool {
	end := 0
	for end < len(tag) && (nameChars[tag[end]] || tag[end] == ':') {
		end++
	}
	name := tag[:end]
	name = name[strings.LastIndexByte(name, ':')+1:]
	if end < len(tag) && tag[end] != ' ' {
		return false
	}
	if name != "" && Key(name) {
		return true
	}
	for _, attribute := range [...]string{` name="`, ` key="`, ` name='`, ` key='`} {
		if at := strings.Index(tag[end:], attribute); at >= 0 {
			value, _, _ := strings.Cut(tag[end+at+len(attribute):], attribute[len(attribute)-1:])
			return Key(value)
		}
	}
	return false
}

// tuple hides the second of two texts whose first is the name of a secret:
// ('password', 'x'), ["Authorization", "Bearer x"].
func (x *scanner) tuple(i int) (next int) {
	s := x.s
	if i < 3 || s[i-1] != '"' && s[i-1] != '\'' {
		return i
	}
	quote, begin := s[i-1], i-1
	for begin > 0 && i-begin < maxName && nameChars[s[begin-1]] {
		begin--
	}
	key := s[begin : i-1]
	if begin < 2 || s[begin-1] != quote || s[begin-2] != '(' && s[begin-2] != '[' || !Key(key) {
		return i
	}
	from := i + 1
	for from < len(s) && s[from] == ' ' {
		from++
	}
	v, ok := quoted(s, from)
	if !ok || v.next >= len(s) || s[v.next] != ')' && s[v.next] != ']' {
		return i
	}
	x.hide(v.from, v.end)
	return v.next
}

// sqlPassword hides what ALTER ROLE ann PASSWORD 'x', PASSWORD('x') and IDENTIFIED
// BY 'x' say.
func (x *scanner) sqlPassword(i int) (next int) {
	s, k := x.s, i
	if k > 0 && strings.IndexByte("EeNn", s[k-1]) >= 0 { // a kind of text: E'x'
		k--
	}
	if k < 10 || s[k-1] != ' ' && s[k-1] != '(' {
		return i
	}
	before := s[max(0, k-14) : k-1]
	if !hasSuffixFold(before, "password") && !hasSuffixFold(before, "identified by") && !hasSuffixFold(before, "passphrase") {
		return i
	}
	v, ok := quoted(s, i)
	if !ok {
		return i
	}
	x.hide(v.from, v.end)
	return v.next
}

func hasSuffixFold(s, suffix string) bool {
	return len(s) >= len(suffix) && strings.EqualFold(s[len(s)-len(suffix):], suffix)
}

// flag hides the value of --password x, also where each is quoted, as in the
// list of a command's arguments. -u ann:x has a password too.
func (x *scanner) flag(i int) (next int) {
	s := x.s
	if i > 0 && (isAlnum(s[i-1]) || s[i-1] == '-' || s[i-1] == '_') {
		return i
	}
	begin := i + 1
	if begin < len(s) && s[begin] == '-' {
		begin++
	}
	end := begin
	for end < len(s) && end-begin < maxName && wordChars[s[end]] {
		end++
	}
	name := s[begin:end]
	user := name == "u" || name == "user" || name == "proxy-user"
	if end == begin || end == len(s) || !user && !Key(name) {
		return i
	}
	// Between name and value: a space, or "," with spaces.
	from := end
	for from < len(s) && s[from] == '\\' {
		from++
	}
	switch {
	case from < len(s) && (s[from] == '"' || s[from] == '\''):
		after := from + 1
		for from = after; from < len(s) && (s[from] == ',' || s[from] == ' '); {
			from++
		}
		if from == after {
			return i
		}
	case s[end] == ' ' || user && s[end] == '=':
		from = end + 1
	default:
		return i
	}
	v, ok := quoted(s, from)
	if !ok {
		v = bare(s, from, false)
		if v.from >= v.end || s[v.from] == '-' || prose(s[v.from:v.end]) || reference(s[v.from:v.end]) {
			return i
		}
	}
	if user {
		colon := strings.IndexByte(s[v.from:v.end], ':')
		if colon < 0 {
			return i
		}
		v.from += colon + 1
		if strings.HasPrefix(s[v.from:], "//") || v.from == v.end {
			return i
		}
	}
	x.hide(v.from, v.end)
	return v.next
}
