package redact

// card returns the end of the card number that begins at s[i], a digit which
// begins a word, or i if none does. A card number has 13 to 19 digits, in one
// piece or in the groups that are printed on cards, the beginning of an issuer,
// and the right check digit: what a timestamp, an id or a UUID hardly ever has.
func card(s string, i int) (end int) {
	if i > 0 && !beginsNumber(s, i) {
		return i
	}
	var digits [19]byte
	var groups [6]int
	n, g, separator := 0, 0, byte(0)
	for end = i; end < len(s); end++ {
		b := s[end]
		if isDigit(b) {
			if n == len(digits) {
				return i
			}
			digits[n] = b - '0'
			n++
			groups[g]++
			continue
		}
		next := end + 1
		if b != ' ' && b != '-' || separator != 0 && b != separator || next == len(s) || !isDigit(s[next]) {
			break
		}
		// A number after a card number is another one.
		if validGroups(groups[:g+1]) && b == ' ' {
			break
		}
		if g++; g == len(groups) || n < 4 {
			return i
		}
		separator = b
	}
	if end < len(s) {
		switch b := s[end]; {
		case isAlnum(b) || b == '_':
			return i
		case (b == '-' || b == '.') && end+1 < len(s) && isAlnum(s[end+1]):
			// Part of an id, a version or a decimal number.
			if b == '-' || isDigit(s[end+1]) {
				return i
			}
		}
	}
	if n < 13 || !validGroups(groups[:g+1]) || !issued(digits[:n]) || !luhn(digits[:n]) {
		return i
	}
	return end
}

// beginsNumber reports whether the digit at s[i] may begin a card number: it is
// no part of an id, a decimal number or a version.
func beginsNumber(s string, i int) bool {
	switch before := s[i-1]; before {
	case '-', '.', '_':
		return i == 1 || !isAlnum(s[i-2])
	default:
		return !isAlnum(before)
	}
}

// validGroups reports whether cards print their digits in such groups.
func validGroups(groups []int) bool {
	switch len(groups) {
	case 1:
		return groups[0] >= 13
	case 3: // American Express, Diners
		return groups[0] == 4 && groups[1] == 6 && (groups[2] == 5 || groups[2] == 4)
	case 4:
		return groups[0] == 4 && groups[1] == 4 && groups[2] == 4 && (groups[3] == 4 || groups[3] == 1)
	case 5:
		return groups[0] == 4 && groups[1] == 4 && groups[2] == 4 && groups[3] == 4 && groups[4] <= 3
	default:
		return false
	}
}

// issued reports whether the digits begin as those of an issuer whose cards are
// that long.
func issued(d []byte) bool {
	two := int(d[0])*10 + int(d[1])
	four := two*100 + int(d[2])*10 + int(d[3])
	three := four / 10
	n := len(d)
	switch {
	case d[0] == 4: // Visa
		return n == 13 || n == 16 || n == 19
	case two >= 51 && two <= 55 || four >= 2221 && four <= 2720: // Mastercard
		return n == 16
	case two == 34 || two == 37: // American Express
		return n == 15
	case two == 36 || two == 38 || two == 39 || three >= 300 && three <= 305: // Diners Club
		return n == 14 || n == 16 || n == 19
	case four == 6011 || three >= 644 && three <= 649 || two == 65 || two == 62 || four >= 3528 && four <= 3589:
		return n >= 16 // Discover, UnionPay, JCB
	case four == 5018 || four == 5020 || four == 5038 || four == 5893 || four == 6304 || four == 6759 ||
		four >= 6761 && four <= 6763: // Maestro
		return n >= 13
	default:
		return false
	}
}

// luhn checks the last digit.
func luhn(d []byte) bool {
	sum := 0
	for i := range d {
		v := int(d[len(d)-1-i])
		if i%2 == 1 {
			if v *= 2; v > 9 {
				v -= 9
			}
		}
		sum += v
	}
	return sum%10 == 0
}
