package redact

import "strings"

// pem looks for the private key whose first or last line has the five dashes at
// s[i]. It returns what to hide, or an end of i. Either line may be missing: a
// text that was cut shows the rest of it. Line breaks may be escaped, as they
// are in JSON. Nothing before floor is looked at.
func pem(s string, i, floor int) (from, end int) {
	const dashes = "-----"
	if !strings.HasPrefix(s[i:], dashes) {
		return i, i
	}
	rest := s[i+len(dashes):]
	begins := strings.HasPrefix(rest, "BEGIN ")
	if !begins && !strings.HasPrefix(rest, "END ") {
		return i, i
	}
	label := 0
	for label < len(rest) && (rest[label] >= 'A' && rest[label] <= 'Z' || isDigit(rest[label]) || rest[label] == ' ') {
		label++
	}
	// A label that the end of the text cut may be that of a private key.
	cut := label == len(rest)
	if !strings.Contains(rest[:label], "PRIVATE") && !cut {
		return i, i
	}
	end = i + len(dashes) + label
	if strings.HasPrefix(s[end:], dashes) {
		end += len(dashes)
	}
	if !begins {
		return bodyBefore(s, i, floor), end
	}
	// Only up to the next dashes, or many first lines would cost their square.
	if next := strings.Index(s[end:], dashes); next >= 0 && strings.HasPrefix(s[end+next:], dashes+"END ") {
		end += next + len(dashes)
		for end < len(s) && (s[end] >= 'A' && s[end] <= 'Z' || isDigit(s[end]) || s[end] == ' ') {
			end++
		}
		if strings.HasPrefix(s[end:], dashes) {
			end += len(dashes)
		}
		return i, end
	}
	return i, bodyAfter(s, end)
}

// bodyAfter returns the end of the lines of base64, and of headers, from s[i] on.
func bodyAfter(s string, i int) (end int) {
	for end = i; ; {
		line := i
		if hasHeader(s[i:]) {
			i, _ = lineFrom(s, i)
		}
		for i < len(s) && (pemChars[s[i]] || s[i] == ' ' || s[i] == '\t') {
			i++
		}
		lineEnd, next := lineFrom(s[:min(len(s), i+8)], i)
		if lineEnd > i {
			// The line has something else in it: an ellipsis where the key was
			// cut, or it is no part of the key at all.
			if i-line >= 20 && strings.IndexByte(s[line:i], ' ') < 0 {
				end = i
			}
			return end
		}
		if i > line {
			end = i
		}
		if next == lineEnd {
			return end
		}
		i = next
	}
}

var pemChars = chars("+/=")

// hasHeader reports whether s begins with a header of a PEM block.
func hasHeader(s string) bool {
	for _, name := range [...]string{"Proc-Type: ", "DEK-Info: ", "Version: ", "Comment: ", "Hash: "} {
		if strings.HasPrefix(s, name) {
			return true
		}
	}
	return false
}

// bodyBefore returns the beginning of the lines of base64 that end at s[i].
func bodyBefore(s string, i, floor int) int {
	begin := i
	for begin > floor {
		end := begin
		// The line break before.
		for end > floor && (s[end-1] == '\n' || s[end-1] == '\r') {
			end--
		}
		for end > floor+1 && (s[end-1] == 'n' || s[end-1] == 'r') && s[end-2] == '\\' {
			for end--; end > floor && s[end-1] == '\\'; end-- {
			}
		}
		if end == begin && begin != i {
			return begin
		}
		line := end
		for line > floor && pemChars[s[line-1]] {
			line--
		}
		// The n of an escaped line break is no base64.
		if line > floor && line < end && s[line-1] == '\\' && (s[line] == 'n' || s[line] == 'r') {
			line++
		}
		if line == end {
			return begin
		}
		begin = line
		if begin > floor && s[begin-1] != '\n' && !(begin > floor+1 && s[begin-2] == '\\') {
			// The first line shares its line with other text.
			return begin
		}
	}
	return begin
}

// lineFrom returns where the line of s[i] ends and the next one begins; both are
// the end of the line where nothing follows. \n, however often escaped, ends a
// line as well.
func lineFrom(s string, i int) (end, next int) {
	for end = i; end < len(s); end++ {
		switch s[end] {
		case '\n':
			return end, end + 1
		case '\\':
			next = end
			for next < len(s) && s[next] == '\\' {
				next++
			}
			if next < len(s) && (s[next] == 'n' || s[next] == 'r') {
				return end, next + 1
			}
			end = next - 1
		case '"', '\'':
			return end, end
		}
	}
	return end, end
}
