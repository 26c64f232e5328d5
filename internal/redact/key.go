package redact

import "strings"

// secretParts are what the names of secrets contain, in lower case and without
// what separates words.
var secretParts = byFirst(
	"password", "passwd", "passphrase", "passcode", "passwort", "pgpass",
	"secret", "token", "authorization", "credential", "cookie", "bearer",
	"apikey", "accesskey", "privatekey", "signingkey", "encryptionkey", "accountkey", "masterkey", "sessionkey",
	"subscriptionkey", "hmackey", "basicauth", "authcode", "otpcode", "mfacode", "securityanswer",
	"authkey", "servicekey", "sshkey", "storagekey", "deploykey", "webhookkey", "sharedaccess",
	"connectionstring", "connstr",
	"cardnumber", "cardno", "creditcard", "ccnumber",
	"securitycode", "verificationcode", "recoverycode", "backupcode", "onetimecode",
	"seedphrase", "recoveryphrase", "mnemonic",
	"jsessionid", "phpsessid",
)

// lastWords are too short to be looked for inside of other words: pin is a
// secret in card_pin, and not in spinner.
var lastWords = set(
	"pass", "pwd", "pw", "pin", "cvc", "cvv", "csc", "ssn", "jwt", "dsn", "otp", "totp",
)

// wholeNames are secrets only where they are all of the name.
var wholeNames = set(
	"auth", "xauth", "pan", "sas",
	"dbpass", "smtppass", "mailpass", "userpass", "rootpass", "ftppass", "adminpass", "mysqlpass", "userpwd", "oldpwd",
)

// about are the last words of names that tell something about a secret:
// token_type, password_changed_at.
var about = set(
	"at", "count", "counts", "type", "kind", "expires", "expiry", "expiration", "ttl", "length", "len", "size",
	"policy", "age", "strength", "attempts", "limit", "usage", "used", "required", "enabled", "status", "version",
	"name", "names", "field", "fields", "file", "path", "ref", "from", "source",
)

// aboutNames are the same in full.
var aboutNames = set(
	"tokenurl", "tokenuri", "tokenendpoint", "authorizationurl", "authorizationuri", "authorizationendpoint",
)

// queryNames are secrets in the query of a URL and in forms, where names are
// short.
var queryNames = set(
	"key", "code", "sig", "hmac", "ticket", "assertion", "session", "sessionid", "sid", "sas", "pw", "auth",
)

// A secrecy says what of a value is hidden because of its name.
type secrecy int

const (
	open secrecy = iota
	// hideTexts leaves numbers as they are: max_tokens is 4096.
	hideTexts
	hideAll
)

// Key reports whether a value with this name is a secret, such as password, api_key,
// userPassword2, X-Api-Key or Authorization.
func Key(key string) bool { return secrecyOf(key) != open }

// maxKey bounds the names that are looked at, in bytes. Of longer ones the end
// counts.
const maxKey = 200

// secrecyOf is Key, with what is hidden.
func secrecyOf(key string) secrecy {
	if len(key) > maxKey {
		key = key[len(key)-maxKey:]
	}
	var buffer [maxKey]byte
	plain, last := plainName(buffer[:0], key)
	for len(plain) > last+1 && isDigit(plain[len(plain)-1]) {
		plain = plain[:len(plain)-1]
	}
	if len(plain) < 2 {
		return open
	}
	name := string(plain)
	word := name[last:]
	switch {
	case about[word], aboutNames[name], strings.HasSuffix(name, "expiresin"):
		return open
	case word == "pass":
		return hideTexts
	case lastWords[word], wholeNames[name]:
		return hideAll
	}
	for i := range len(name) {
		for _, part := range secretParts[name[i]] {
			if rest := name[i:]; strings.HasPrefix(rest, part) && !innocent(rest) {
				if strings.HasPrefix(rest, "tokens") {
					return hideTexts
				}
				return hideAll
			}
		}
	}
	return open
}

// innocent reports whether rest begins with a word that only begins like a
// secret.
func innocent(rest string) bool {
	for _, word := range [...]string{"tokeniz", "tokenis", "secretar", "passwordless"} {
		if strings.HasPrefix(rest, word) {
			return true
		}
	}
	return false
}

// plainName appends key in lower case, without what separates its words, and
// returns where the last word begins. Words are told apart by what is neither
// letter nor digit, and by capitals: user_pin, userPin, userPIN, DBPass.
func plainName(name []byte, key string) (plain []byte, last int) {
	fresh := false
	for i := 0; i < len(key); i++ {
		b := key[i]
		if !isAlnum(b) {
			fresh = true
			continue
		}
		upper := 'A' <= b && b <= 'Z'
		if upper && i > 0 {
			before := key[i-1]
			lowerAfter := i+1 < len(key) && 'a' <= key[i+1] && key[i+1] <= 'z'
			fresh = fresh || 'a' <= before && before <= 'z' || isDigit(before) || lowerAfter
		}
		if fresh && !(isDigit(b) && restDigits(key[i:])) {
			last = len(name)
		}
		fresh = false
		if upper {
			b += 'a' - 'A'
		}
		name = append(name, b)
	}
	return name, last
}

// restDigits reports whether s is digits and separators alone: they are part of
// the word before, as in password_2.
func restDigits(s string) bool {
	for i := 0; i < len(s); i++ {
		if isAlnum(s[i]) && !isDigit(s[i]) {
			return false
		}
	}
	return true
}

// queryKey is Key within the query of a URL.
func queryKey(key string) bool {
	var buffer [maxKey]byte
	if len(key) > maxKey {
		key = key[len(key)-maxKey:]
	}
	name, _ := plainName(buffer[:0], key)
	return queryNames[string(name)] || strings.HasSuffix(string(name), "signature") || Key(key)
}

// signatureKey: a signature gives access only within some requests, so that
// its name alone hides nothing but a long value.
func signatureKey(key string) bool {
	return strings.EqualFold(key, "signature") || strings.EqualFold(key, "sig")
}

func byFirst(words ...string) (table [256][]string) {
	for _, w := range words {
		table[w[0]] = append(table[w[0]], w)
	}
	return table
}

func set(words ...string) map[string]bool {
	m := make(map[string]bool, len(words))
	for _, w := range words {
		m[w] = true
	}
	return m
}

func isDigit(b byte) bool { return '0' <= b && b <= '9' }

func isAlnum(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || isDigit(b)
}
