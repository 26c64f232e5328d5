package jsondoc

// Valid reports whether doc is valid JSON. It agrees with [json.Valid] but for the depth, which
// json.Valid limits to 10,000: PostgreSQL stores documents that are nested deeper. It takes a
// byte for each open bracket, and no stack.
func Valid(doc []byte) bool {
	v := validator{doc: doc, next: nextValue}
	for v.next != nextFault {
		v.skipSpace()
		if v.at == len(doc) {
			return v.next == nextSeparator && len(v.open) == 0
		}
		v.step(doc[v.at])
	}
	return false
}

// What a document may have at a place.
const (
	nextValue       = iota
	nextFirstValue  // of an array: a value, or its end
	nextFirstKey    // of an object: a key, or its end
	nextKey         // of an object
	nextSeparator   // a comma or the end of what is open; the end of the document
	nextFault       // nothing: it is not valid
	firstControl    = ' '
	hexDigitsOfUnit = 4
)

type validator struct {
	doc  []byte
	at   int
	next int
	// open are the brackets that are not closed.
	open []byte
}

func (v *validator) skipSpace() {
	for v.at < len(v.doc) {
		switch v.doc[v.at] {
		case ' ', '\t', '\r', '\n':
			v.at++
		default:
			return
		}
	}
}

func (v *validator) step(c byte) {
	switch {
	case v.next == nextSeparator:
		v.separator(c)
	case v.next == nextFirstValue && c == ']', v.next == nextFirstKey && c == '}':
		v.close()
	case v.next == nextFirstKey || v.next == nextKey:
		v.key(c)
	default:
		v.value(c)
	}
}

func (v *validator) separator(c byte) {
	if len(v.open) == 0 {
		v.next = nextFault
		return
	}
	switch inObject := v.open[len(v.open)-1] == '{'; {
	case c == ',' && inObject:
		v.at, v.next = v.at+1, nextKey
	case c == ',':
		v.at, v.next = v.at+1, nextValue
	case c == '}' && inObject, c == ']' && !inObject:
		v.close()
	default:
		v.next = nextFault
	}
}

func (v *validator) close() {
	v.open = v.open[:len(v.open)-1]
	v.at, v.next = v.at+1, nextSeparator
}

func (v *validator) key(c byte) {
	v.next = nextFault
	if c != '"' || !v.text() {
		return
	}
	if v.skipSpace(); v.at < len(v.doc) && v.doc[v.at] == ':' {
		v.at, v.next = v.at+1, nextValue
	}
}

func (v *validator) value(c byte) {
	v.next = nextFault
	valid := false
	switch c {
	case '{', '[':
		v.open = append(v.open, c)
		v.at++
		if v.next = nextFirstValue; c == '{' {
			v.next = nextFirstKey
		}
		return
	case '"':
		valid = v.text()
	case 't':
		valid = v.word("true")
	case 'f':
		valid = v.word("false")
	case 'n':
		valid = v.word("null")
	default:
		valid = v.number()
	}
	if valid {
		v.next = nextSeparator
	}
}

func (v *validator) word(word string) bool {
	end := v.at + len(word)
	if end > len(v.doc) || string(v.doc[v.at:end]) != word {
		return false
	}
	v.at = end
	return true
}

func (v *validator) text() bool {
	for i := v.at + 1; i < len(v.doc); i++ {
		switch c := v.doc[i]; {
		case c == '"':
			v.at = i + 1
			return true
		case c < firstControl:
			return false
		case c != '\\':
		case i+1 == len(v.doc):
			return false
		case v.doc[i+1] == 'u':
			if i+1+hexDigitsOfUnit >= len(v.doc) || !areHex(v.doc[i+2:i+2+hexDigitsOfUnit]) {
				return false
			}
			i += 1 + hexDigitsOfUnit
		case isEscape(v.doc[i+1]):
			i++
		default:
			return false
		}
	}
	return false
}

func isEscape(c byte) bool {
	switch c {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return true
	}
	return false
}

func areHex(digits []byte) bool {
	for _, c := range digits {
		if !isDigit(c) && (c|0x20 < 'a' || c|0x20 > 'f') {
			return false
		}
	}
	return true
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// number reads -?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?
func (v *validator) number() bool {
	v.skip("-")
	if !v.skip("0") && !v.digits() {
		return false
	}
	if v.skip(".") && !v.digits() {
		return false
	}
	if v.skip("eE") {
		v.skip("+-")
		return v.digits()
	}
	return true
}

// skip passes over one byte, if it is one of these.
func (v *validator) skip(any string) bool {
	if v.at < len(v.doc) {
		for i := range len(any) {
			if v.doc[v.at] == any[i] {
				v.at++
				return true
			}
		}
	}
	return false
}

func (v *validator) digits() bool {
	from := v.at
	for v.at < len(v.doc) && isDigit(v.doc[v.at]) {
		v.at++
	}
	return v.at > from
}
