package redact

import "strings"

// maxName bounds the names that are looked for in a text, in bytes.
const maxName = 100

var nameChars = chars("_-.")

// A value is where the value of an assignment is: the text that is hidden, and
// where to go on.
type value struct{ from, end, next int }

// assignment hides the value of the assignment whose separator is s[i], which is
// ':', '=' or '%' (of %3D), if the name before it is that of a secret. It returns
// where to go on.
func (x *scanner) assignment(i int) (next int) {
	s := x.s
	after := i + 1
	switch s[i] {
	case ':':
		if strings.HasPrefix(s[after:], "//") {
			return x.url(i)
		}
		if after < len(s) && s[after] == ':' || i > 0 && s[i-1] == ':' {
			return i // a scope: Token::Error
		}
		if after < len(s) && s[after] == '=' {
			after++
		}
	case '=':
		for after < len(s) && after < i+3 && (s[after] == '=' || s[after] == '>') {
			after++
		}
	default:
		if !strings.HasPrefix(s[i:], "%3D") && !strings.HasPrefix(s[i:], "%3d") {
			return i
		}
		after = i + 3
	}
	n, ok := x.name(i)
	if !ok {
		return i
	}
	from := after
	for from < len(s) && (s[from] == ' ' || s[from] == '\t') {
		from++
	}
	if from == len(s) || s[from] == '\n' || s[from] == '\r' {
		return i
	}
	paired := x.pair > i && (n.is("value") || n.is("val") || n.is("content"))
	secret := paired || n.secret()
	if !secret {
		x.remember(n, from)
		if v, ok := formPart(s, n, from); ok {
			x.hide(v.from, v.end)
			return v.next
		}
		return i
	}
	if v, ok := x.block(n, i, from); ok {
		x.hide(v.from, v.end)
		return v.next
	}
	v, ok := x.value(n, i, after, from)
	if !ok {
		return i
	}
	if signatureKey(n.text) && !n.query && v.end-v.from < 16 {
		return i
	}
	x.hide(v.from, v.end)
	return v.next
}

// A name is what stands before a separator.
type name struct {
	text string
	// begin is where it begins in the text, with its quote.
	begin int
	// quote is what stands around it, or 0.
	quote byte
	// query: it is within the query of a URL.
	query bool
	// path: it is the last part of a path, /oauth/token.
	path bool
}

func (n *name) is(text string) bool { return strings.EqualFold(n.text, text) }

func (n *name) secret() bool {
	if n.query {
		return queryKey(n.text)
	}
	return Key(n.text) || signatureKey(n.text)
}

// name reads the name that ends before the separator s[i].
func (x *scanner) name(i int) (n name, ok bool) {
	s := x.s
	end, quote := x.nameEnd(i)
	begin := end
	for begin > x.done && end-begin < maxName && (nameChars[s[begin-1]] || quote != 0 && s[begin-1] == ' ') {
		begin--
	}
	if begin == end {
		return n, false
	}
	if begin > 0 && s[begin-1] == '\\' && end-begin > 1 && strings.IndexByte("nrt", s[begin]) >= 0 {
		begin++ // an escaped line break
	}
	n = name{text: s[begin:end], begin: begin, quote: quote}
	if begin > 0 {
		x.surroundings(&n, end)
	}
	return n, true
}

// nameEnd returns the end of the name before the separator s[i], and the quote around
// the name, or 0.
func (x *scanner) nameEnd(i int) (end int, quote byte) {
	s := x.s
	end = i
	if end > 0 && s[end-1] == '!' { // password != 'x'
		end--
	}
	for spaces := 0; end > x.done && (s[end-1] == ' ' || s[end-1] == '\t') && spaces < 40; spaces++ {
		end--
	}
	if end > x.done && s[end-1] == ']' { // form['password'] = x, password[] = x, password[0] = x
		end--
		open := end
		for open > x.done && isDigit(s[open-1]) {
			open--
		}
		if open > x.done && s[open-1] == '[' {
			end = open - 1
		}
	}
	if end > x.done && (s[end-1] == '"' || s[end-1] == '\'' || s[end-1] == '`') {
		end--
		quote = s[end]
		for end > x.done && s[end-1] == '\\' {
			end--
		}
	}
	return end, quote
}

// surroundings completes a name that doesn't begin the text by the byte before it. end
// is where the name ends.
func (x *scanner) surroundings(n *name, end int) {
	s, begin := x.s, n.begin
	switch s[begin-1] {
	case '?', '&':
		n.query = true
	case ';':
		n.query = strings.HasSuffix(s[:begin-1], "&amp")
	case '%':
		if strings.HasPrefix(n.text, "3F") || strings.HasPrefix(n.text, "3f") || strings.HasPrefix(n.text, "26") {
			n.query, n.text = true, n.text[2:]
		}
	case '/':
		n.path = true
	case '"', '\'', '`':
		if n.quote != 0 {
			n.begin--
		}
	case ' ':
		// API key: x
		if n.quote == 0 && secondWords[strings.ToLower(n.text)] {
			first := begin - 1
			for first > x.done && begin-first < 20 && isAlnum(s[first-1]) {
				first--
			}
			if two := s[first:end]; first < begin-1 && Key(two) {
				n.text, n.begin = two, first
			}
		}
	}
}

// secondWords make the name of a secret together with the word before.
var secondWords = set("key", "keys", "number", "code", "codes", "phrase", "string")

// remember keeps in mind that a pair such as {"name": "password", "value": "x"}
// began.
func (x *scanner) remember(n name, from int) {
	if !n.is("name") && !n.is("key") && !n.is("header") {
		return
	}
	if v, ok := quoted(x.s[:min(len(x.s), from+2*maxName)], from); ok && v.end-v.from <= maxName && Key(x.s[v.from:v.end]) {
		x.pair = v.end + maxName
	}
}

// formPart finds the value in a part of a form, which follows an empty line:
//
//	Content-Disposition: form-data; name="password"
//
//	x
func formPart(s string, n name, from int) (v value, ok bool) {
	if !n.is("name") || n.begin < 2 || s[n.begin-2] != ';' {
		return v, false
	}
	of, ok := quoted(s[:min(len(s), from+2*maxName)], from)
	if !ok || !Key(s[of.from:of.end]) {
		return v, false
	}
	for _, empty := range [...]string{"\r\n\r\n", "\n\n", `\r\n\r\n`, `\n\n`} {
		if strings.HasPrefix(s[of.next:], empty) {
			begin := of.next + len(empty)
			end := lineEndFrom(s, begin)
			return value{begin, end, end}, end > begin && !placeholderAt(s, begin)
		}
	}
	return v, false
}

// block finds the lines of a block of YAML, which are indented further than its
// key:
//
//	password: |
//	  x
func (x *scanner) block(n name, sep, from int) (v value, ok bool) {
	s := x.s
	if s[sep] != ':' || s[from] != '|' && s[from] != '>' {
		return v, false
	}
	line := from + 1
	for line < len(s) && (s[line] == '-' || s[line] == '+' || isDigit(s[line])) {
		line++
	}
	if line == len(s) || s[line] != '\n' && s[line] != '\r' {
		return v, false
	}
	key := n.begin
	for key > 0 && n.begin-key < maxName && s[key-1] != '\n' {
		key--
	}
	indent := indentOf(s, key)
	for next := line; next < len(s); {
		begin := next + strings.IndexByte(s[next:], '\n') + 1
		if begin == next { // no line follows
			break
		}
		deep := indentOf(s, begin)
		end := begin + deep
		for end < len(s) && s[end] != '\n' && s[end] != '\r' {
			end++
		}
		if end > begin+deep { // not empty
			if deep <= indent {
				break
			}
			if v.end == 0 {
				v.from = begin + deep
			}
			v.end = end
		}
		next = end
	}
	v.next = v.end
	if placeholderAt(s, v.from) {
		v.from += len(Placeholder)
	}
	return v, v.end > 0
}

// indentOf counts the spaces from s[i] on.
func indentOf(s string, i int) int {
	n := 0
	for i+n < len(s) && s[i+n] == ' ' {
		n++
	}
	return n
}

// value finds the value of a secret. sep is the place of the separator, after is its
// end, and from is the first byte behind it that is no space.
func (x *scanner) value(n name, sep, after, from int) (v value, ok bool) {
	s := x.s
	if placeholderAt(s, from) {
		end := from + len(Placeholder)
		return value{end, end, end}, true
	}
	if strings.HasPrefix(s[from:], "-----") {
		if _, end := pem(s, from, from); end > from {
			return value{from, end, end}, true
		}
	}
	if n.path && s[sep] == ':' {
		return v, false
	}
	if q := from + 1; q < len(s) && (s[q] == '"' || s[q] == '\'') && strings.IndexByte("bBuUrRfF", s[from]) >= 0 {
		from++
	}
	if v, ok = quoted(s, from); ok {
		return v, v.end > v.from && !reference(s[v.from:v.end])
	}
	switch s[from] {
	case '{', '[', '(':
		return bracketed(s, from), true
	}
	if n.quote == 0 && !n.query && s[from] == '/' && (n.is("pwd") || n.is("oldpwd")) {
		return v, false // the working directory
	}
	if s[sep] == ':' && n.quote == 0 && pathAt(s, from) {
		return v, false
	}
	return x.bareValue(n, sep, after, from)
}

// bareValue is [scanner.value] for a value without quotes and brackets.
func (x *scanner) bareValue(n name, sep, after, from int) (v value, ok bool) {
	s := x.s
	v = bare(s, from, n.query)
	first := s[v.from:v.end]
	switch {
	case v.from == v.end, literal(first), reference(first):
		return v, false
	case secrecyOf(n.text) == hideTexts && every(first, isDigit):
		return v, false
	case n.query, s[sep] == '%':
		return v, true
	case n.quote == 0 && s[sep] == ':' && sep+1 == from && hostPort(n.text, first):
		return v, false
	}
	if n.quote != 0 && s[sep] == ':' && prose(first) {
		return v, false // header "Authorization": the URL has one already
	}
	if n.quote != 0 || s[sep] != ':' {
		if schemeWord(first) {
			v = x.nextWord(v)
		}
		return v, true
	}
	return x.words(n, v, after, from)
}

// words finds the value after a name and a colon: in a header, in YAML or in a
// sentence. v is its first word.
func (x *scanner) words(n name, v value, after, from int) (value, bool) {
	s, first := x.s, x.s[v.from:v.end]
	if prose(first) {
		return v, false
	}
	last := v.end >= x.lastWord(from)
	scheme := schemeWord(first)
	if plainNames[strings.ToLower(n.text)] && !last && !scheme && (!random(first) || strings.Contains(first, "://")) {
		return v, false
	}
	switch {
	case headerKey(n.text):
		end := x.lineEnd(from)
		if n.begin > 0 && (s[n.begin-1] == '"' || s[n.begin-1] == '\'') {
			if quote := strings.IndexByte(s[from:end], s[n.begin-1]); quote >= 0 {
				end = from + quote
			}
		}
		return value{from, end, end}, true
	case scheme:
		two := x.nextWord(v)
		if prose(strings.TrimSpace(s[v.end:two.end])) {
			return v, false // jwt: token is malformed
		}
		v = two
	case from > after && phrases(n.text) && x.beginsLine(n.begin):
		v.end = x.restOfLine(v)
		v.next = v.end
	}
	return v, true
}

// pathAt reports whether a path of several parts begins at s[i]: 'secret:
// /run/secrets/x: no such file'.
func pathAt(s string, i int) bool {
	slashes := 0
	for k := i; k < len(s) && k-i < 256 && s[i] == '/' && (nameChars[s[k]] || s[k] == '/'); k++ {
		if s[k] == '/' {
			slashes++
		}
	}
	return slashes > 1
}

// phrases reports whether the value of that name may be several words.
func phrases(name string) bool {
	name = strings.ToLower(name)
	return strings.Contains(name, "pass") || strings.Contains(name, "phrase") || strings.Contains(name, "secret") || name == "mnemonic"
}

// lineEnd returns the end of the line of s[i].
func (x *scanner) lineEnd(i int) int {
	if i >= x.line || x.line == 0 {
		x.line = lineEndFrom(x.s, i)
		x.last = x.line
		for x.last > i && strings.IndexByte(" \t.,;:!?)]}>\"'`\\", x.s[x.last-1]) >= 0 {
			x.last--
		}
	}
	return x.line
}

// lastWord returns the end of the last word on the line of s[i].
func (x *scanner) lastWord(i int) int {
	x.lineEnd(i)
	return x.last
}

// lineEndFrom returns the end of the line of s[i]. An escaped line break ends
// one as well.
func lineEndFrom(s string, i int) int {
	for end := i; end < len(s); end++ {
		switch s[end] {
		case '\n', '\r':
			return end
		case '\\':
			if end+1 < len(s) && (s[end+1] == 'n' || s[end+1] == 'r') {
				return end
			}
		}
	}
	return len(s)
}

// beginsLine reports whether nothing but what introduces an entry stands before
// s[i] on its line.
func (x *scanner) beginsLine(i int) bool {
	for k := i; k > 0 && i-k < 40; k-- {
		switch x.s[k-1] {
		case ' ', '\t', '-', '>', '*', '#', '+', '|':
		case '\n', '\r':
			return true
		case 'n', 'r':
			return k > 1 && x.s[k-2] == '\\'
		default:
			return false
		}
		if k == 1 {
			return true
		}
	}
	return i == 0
}

// restOfLine returns where the words end that follow v: at the end of the line,
// or before the next assignment.
func (x *scanner) restOfLine(v value) int {
	s, end := x.s, v.end
	if v.end < v.next || v.end < len(s) && s[v.end] != ' ' {
		return v.end
	}
	lineEnd := x.lineEnd(v.from)
	for i := v.end; i < lineEnd; {
		for i < lineEnd && s[i] == ' ' {
			i++
		}
		word := i
		for i < lineEnd && s[i] != ' ' {
			if s[i] == '=' || s[i] == ':' && (i+1 == lineEnd || s[i+1] == ' ') {
				return end
			}
			i++
		}
		if i > word {
			end = i
		}
	}
	return end
}

// nextWord extends v by the word behind it: 'Basic x' is one value.
func (x *scanner) nextWord(v value) value {
	s, from := x.s, v.end
	for from < len(s) && s[from] == ' ' {
		from++
	}
	if from == v.end || from == len(s) || s[from] == '\n' {
		return v
	}
	next := bare(s, from, false)
	if next.from == next.end {
		return v
	}
	return value{v.from, next.end, next.next}
}

// quoted finds the text in quotes at s[i], which backslashes may precede: the
// JSON that a JSON string holds. Where the other quote is missing, the text goes
// on to the end of the line.
func quoted(s string, i int) (v value, ok bool) {
	open := i
	for open < len(s) && s[open] == '\\' {
		open++
	}
	if open == len(s) || s[open] != '"' && s[open] != '\'' && s[open] != '`' {
		return v, false
	}
	quote, slashes := s[open], open-i
	from := open + 1
	run := 0
	for end := from; end < len(s); end++ {
		switch b := s[end]; {
		case b == '\\':
			run++
			continue
		case b == quote && slashes == 0 && run%2 == 0:
			if end+1 < len(s) && s[end+1] == quote && end > from {
				end++ // a quote within, doubled
				break
			}
			return value{from, end, end + 1}, true
		case b == quote && slashes > 0 && run <= slashes:
			return value{from, end - run, end + 1}, true
		case b == '\n':
			return value{from, end, end}, true
		}
		run = 0
	}
	return value{from, len(s), len(s)}, true
}

// bracketed finds what is between the bracket at s[i] and the one that closes it,
// or the end of the line.
func bracketed(s string, i int) value {
	depth := 0
	for end := i; end < len(s); end++ {
		switch s[end] {
		case '{', '[', '(':
			depth++
		case '}', ']', ')':
			if depth--; depth == 0 {
				return value{i + 1, end, end + 1}
			}
		case '"':
			if v, ok := quoted(s, end); ok {
				end = v.next - 1
			}
		case '\n':
			if depth <= 1 && end > i+1 {
				return value{i + 1, end, end}
			}
		}
	}
	return value{i + 1, len(s), len(s)}
}

// bare finds the word at s[i]. Signs that end a sentence or close a bracket are
// no part of its end.
func bare(s string, i int, query bool) value {
	end := i
scan:
	for end < len(s) {
		switch b := s[end]; b {
		case ' ', '\t', '\n', '\r', '\v', '\f':
			if b == ' ' && end > i && s[end-1] == '\\' { // a space within, as libpq has it
				break
			}
			break scan
		case ';':
			break scan
		case '<':
			if end > i {
				break scan
			}
		case '#':
			if query {
				break scan
			}
		case '&':
			if query || assigns(s, end+1) {
				break scan
			}
		case ',', '|':
			if end+1 < len(s) && (s[end+1] == '"' || s[end+1] == '\'') || assigns(s, end+1) {
				break scan
			}
		case '%':
			if strings.HasPrefix(s[end:], "%26") && assigns(s, end+3) {
				break scan
			}
		case '\\':
			if end+1 < len(s) && (s[end+1] == 'n' || s[end+1] == 'r') && (end+2 == len(s) || !isLower(s[end+2]) || assigns(s, end+2)) {
				break scan
			}
			// The end of the JSON string that all this is in.
			if end+1 < len(s) && s[end+1] == '"' {
				break scan
			}
		}
		end++
	}
	next := end
	for end > i && strings.IndexByte(`,.:!?)]}>"'`+"`\\", s[end-1]) >= 0 && !strings.HasSuffix(s[i:end], Placeholder) {
		end--
	}
	return value{i, end, next}
}

func isLower(b byte) bool { return 'a' <= b && b <= 'z' }

// assigns reports whether an assignment begins at s[i].
func assigns(s string, i int) bool {
	for i < len(s) && s[i] == ' ' {
		i++
	}
	k := i
	for k < len(s) && k-i < 40 && (nameChars[s[k]] || s[k] == '[' || s[k] == ']') {
		k++
	}
	if k == i || k == len(s) {
		return false
	}
	return s[k] == '=' || s[k] == ':' || strings.HasPrefix(s[k:], "%3D")
}

func placeholderAt(s string, i int) bool { return strings.HasPrefix(s[i:], Placeholder) }

// literals are values without a secret in them.
var literals = set("true", "false", "null", "none", "nil", "undefined", "<nil", "nan", "yes", "no", "on", "off")

func literal(word string) bool {
	return len(word) <= 9 && literals[strings.ToLower(word)]
}

// reference reports whether a value only names where the secret is:
// env:STRIPE_KEY, ${TOKEN}, %s. $TOKEN can be a password.
func reference(word string) bool {
	rest, ok := strings.CutPrefix(word, "env:")
	if !ok {
		if !strings.HasPrefix(word, "${") {
			return word == "%s" || word == "%v" || word == "%q"
		}
		rest = strings.TrimSuffix(word[2:], "}")
	}
	return rest != "" && !isDigit(rest[0]) && every(rest, func(b byte) bool { return 'A' <= b && b <= 'Z' || isDigit(b) || b == '_' })
}

// hostPort reports whether secret-service:8080 is the address of a server.
func hostPort(name, word string) bool {
	return len(word) <= 5 && every(word, isDigit) && strings.ContainsAny(name, "-.")
}

// plainNames are words that sentences use too: 'refresh token: dial tcp ...'.
// What follows them is a secret only if it looks like one, or ends the line.
var plainNames = set(
	"token", "tokens", "secret", "secrets", "credential", "credentials", "cookie", "cookies", "authorization", "auth",
	"bearer", "pin", "otp", "api key", "access key", "secret key", "private key", "connection string", "jwt", "dsn",
)

// headerKey: the value of such a header is all of its line.
func headerKey(name string) bool {
	switch strings.ToLower(name) {
	case "authorization", "proxy-authorization", "cookie", "set-cookie", "cookie2", "set-cookie2", "x-authorization":
		return true
	}
	return false
}

var schemeWords = set("bearer", "basic", "digest", "token", "negotiate", "ntlm", "hmac", "apikey", "aws4-hmac-sha256", "sharedkey", "sharedaccesssignature", "gnap", "hoba", "dpop")

func schemeWord(word string) bool {
	return len(word) <= 21 && schemeWords[strings.ToLower(word)]
}

// proseWords begin what a sentence says about a secret: 'password: must not be
// empty', 'read token: unexpected EOF'.
var proseWords = set(
	"a", "an", "and", "are", "argument", "as", "at", "authentication", "bad", "be", "but", "by", "can", "can't", "cannot", "command",
	"connect", "connection", "contains", "context", "converting", "could", "couldn't", "deadline", "decode", "denied", "dial", "did", "does", "doesn't", "empty", "ensure", "eof",
	"error", "exceeded", "exit", "expected", "expired", "failed", "failure", "field", "file", "flag", "for", "found", "from", "get", "got",
	"has", "have", "hidden", "http", "https", "if", "illegal", "in", "incorrect", "input", "internal", "invalid", "is", "isn't", "it", "its",
	"json", "key", "length", "less", "lookup", "malformed", "may", "mismatch", "missing", "more", "must", "need", "needs", "no", "not",
	"nothing", "of", "ok", "on", "only", "open", "or", "parse", "parsing", "permission", "please", "post", "pq", "put", "read", "refused",
	"request", "required", "requires", "rpc", "server", "should", "signal", "status", "string", "such", "that", "the", "this", "timeout", "to",
	"too", "type", "unable", "unauthorized", "undefined", "unexpected", "unknown", "unmarshal", "unset", "unsupported", "value", "was", "were",
	"when", "which", "will", "with", "without", "write", "wrong", "x509", "yaml", "you", "your",
)

func prose(word string) bool {
	return len(word) <= 14 && proseWords[strings.ToLower(strings.TrimRight(word, ".,:;!?"))]
}
