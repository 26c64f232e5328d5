// Package argshash computes args_hash, by which unique jobs of Go and of Python exclude
// each other.
package argshash

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
)

// Sum returns Python Soniq's args_hash: the SHA-256, in hex, of the arguments in a
// canonical form. That is what Python's json.dumps writes with sorted keys, without
// spaces, in ASCII. Both languages must agree to the byte.
//
// Errors: one for raw that is no JSON, or has a number that Python can't read.
func Sum(raw json.RawMessage) (string, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return "", err
	}
	var canonical strings.Builder
	if err := writeCanonical(&canonical, v); err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(canonical.String()))
	return hex.EncodeToString(sum[:]), nil
}

func writeCanonical(w *strings.Builder, v any) error {
	switch v := v.(type) {
	case nil:
		w.WriteString("null")
	case bool:
		w.WriteString(strconv.FormatBool(v))
	case string:
		writeCanonicalString(w, v)
	case json.Number:
		return writeCanonicalNumber(w, v.String())
	case []any:
		w.WriteByte('[')
		for i, e := range v {
			if i > 0 {
				w.WriteByte(',')
			}
			if err := writeCanonical(w, e); err != nil {
				return err
			}
		}
		w.WriteByte(']')
	case map[string]any:
		w.WriteByte('{')
		// Python sorts by code point, which is the order of UTF-8 bytes.
		for i, key := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				w.WriteByte(',')
			}
			writeCanonicalString(w, key)
			w.WriteByte(':')
			if err := writeCanonical(w, v[key]); err != nil {
				return err
			}
		}
		w.WriteByte('}')
	default:
		return fmt.Errorf("unexpected %T in decoded JSON", v)
	}
	return nil
}

// String returns s as a JSON string in ASCII, as Python's json.dumps writes it.
func String(s string) string {
	var b strings.Builder
	writeCanonicalString(&b, s)
	return b.String()
}

func writeCanonicalString(w *strings.Builder, s string) {
	w.WriteByte('"')
	for _, r := range s {
		switch r {
		case '"', '\\':
			w.WriteByte('\\')
			w.WriteRune(r)
		case '\b':
			w.WriteString(`\b`)
		case '\f':
			w.WriteString(`\f`)
		case '\n':
			w.WriteString(`\n`)
		case '\r':
			w.WriteString(`\r`)
		case '\t':
			w.WriteString(`\t`)
		default:
			switch {
			case r >= 0x20 && r < 0x7f:
				w.WriteRune(r)
			case r > 0xffff:
				hi, lo := utf16.EncodeRune(r)
				fmt.Fprintf(w, `\u%04x\u%04x`, hi, lo)
			default:
				fmt.Fprintf(w, `\u%04x`, r)
			}
		}
	}
	w.WriteByte('"')
}

// writeCanonicalNumber writes an integer with all its digits. A number with a point or
// an exponent is a float in Python, and is written as its repr.
func writeCanonicalNumber(w *strings.Builder, s string) error {
	if !strings.ContainsAny(s, ".eE") {
		n, ok := new(big.Int).SetString(s, 10)
		if !ok {
			return fmt.Errorf("number %q", s)
		}
		w.WriteString(n.String())
		return nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil && !math.IsInf(f, 0) {
		return fmt.Errorf("number %q: %w", s, err)
	}
	w.WriteString(pythonFloat(f))
	return nil
}

// pythonFloat returns repr(f): the shortest digits that read back as f. It has an
// exponent, of at least two digits, if that is below -4 or at least 16.
func pythonFloat(f float64) string {
	switch {
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	}
	scientific := strconv.FormatFloat(f, 'e', -1, 64)
	_, exponent, _ := strings.Cut(scientific, "e")
	if exp, _ := strconv.Atoi(exponent); exp < -4 || exp >= 16 {
		return scientific
	}
	fixed := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(fixed, ".") {
		fixed += ".0"
	}
	return fixed
}
