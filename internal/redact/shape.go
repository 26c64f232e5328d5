package redact

import "strings"

// A shape is a token that is known by its beginning.
type shape struct {
	prefix string
	// chars are those that follow, at least min of them; a dash or a dot at the
	// end belongs to the sentence.
	chars *charset
	min   int
	// max, if set, is how many may follow; more make another word.
	max int
	// keep leaves the prefix as it is: it says whose secret it was.
	keep bool
	// check, if set, has the last word about what follows.
	check func(rest string) bool
}

type charset [256]bool

func chars(extra string) *charset {
	var c charset
	for b := range 256 {
		c[b] = isAlnum(byte(b)) || strings.IndexByte(extra, byte(b)) >= 0
	}
	return &c
}

var (
	alnum     = chars("")
	wordChars = chars("_-")
	dotted    = chars("_-.")
	base64Set = chars("+/=_-")
	pathChars = chars("/_-.~%?=&:@+")
)

// shapes by the first byte.
var shapes = func() (table [256][]shape) {
	add := func(keep bool, minimum int, c *charset, prefixes ...string) {
		for _, p := range prefixes {
			table[p[0]] = append(table[p[0]], shape{prefix: p, chars: c, min: minimum, keep: keep})
		}
	}
	// Source code hosting and package registries.
	add(false, 20, alnum, "ghp_", "gho_", "ghu_", "ghs_", "ghr_")
	add(false, 20, wordChars, "github_pat_")
	add(false, 16, dotted, "glpat-", "gldt-", "glrt-", "glptt-", "glcbt-", "glft-", "glsoat-", "glimt-", "glagent-", "gloas-", "glffct-")
	add(false, 30, alnum, "npm_", "hf_", "r8_")
	add(false, 16, wordChars, "pypi-AgE", "dckr_pat_", "dckr_oat_", "rubygems_", "ATATT3", "ATCTT3", "CCIPAT_", "bkua_")
	// Chat.
	add(false, 8, dotted, "xoxb-", "xoxp-", "xoxa-", "xoxr-", "xoxs-", "xoxe-", "xoxc-", "xoxd-", "xoxe.", "xapp-")
	// Payment, mail and webhooks.
	add(false, 8, wordChars, "sk_live_", "sk_test_", "rk_live_", "rk_test_")
	add(false, 8, base64Set, "whsec_", "whsk_")
	add(false, 16, wordChars, "shpat_", "shpss_", "shpca_", "shppa_", "sq0atp-", "sq0csp-", "xkeysib-", "xsmtpsib-")
	// Models.
	add(false, 16, wordChars, "sk-ant-", "sk-proj-", "sk-or-", "sk-svcacct-", "sk-admin-", "sk-lf-", "gsk_", "xai-", "pplx-")
	// Clouds and tools.
	add(false, 20, dotted, "ya29.", "GOCSPX-", "hvs.", "hvb.", "hvr.", "dp.pt.", "dp.st.", "1//0", "AGE-SECRET-KEY-1")
	add(false, 30, wordChars, "AIza")
	add(false, 20, base64Set, "dop_v1_", "doo_v1_", "dor_v1_", "lin_api_", "ntn_", "glsa_", "glc_", "pscale_tkn_", "pscale_pw_", "pul-",
		"tskey-auth-", "tskey-api-", "tskey-client-", "sbp_", "sb_secret_", "nfp_", "fo1_", "figd_", "PMAK-", "NRAK-", "HRKU-", "sntrys_", "sntryu_", "phx_")
	// Incoming webhooks, whose address is the secret.
	add(true, 1, pathChars, "hooks.slack.com/", "discord.com/api/webhooks/", "discordapp.com/api/webhooks/", "webhook.office.com/",
		"outlook.office.com/webhook/", "outlook.office365.com/webhook/", "hooks.zapier.com/hooks/", "api.telegram.org/bot",
		"maker.ifttt.com/trigger/", "chat.googleapis.com/v1/spaces/")

	for _, s := range []shape{
		{prefix: "AKIA", chars: alnum, min: 16, max: 16, check: upper},
		{prefix: "ASIA", chars: alnum, min: 16, max: 16, check: upper},
		{prefix: "ABIA", chars: alnum, min: 16, max: 16, check: upper},
		{prefix: "ACCA", chars: alnum, min: 16, max: 16, check: upper},
		{prefix: "LTAI", chars: alnum, min: 12, max: 22, check: mixed},
		{prefix: "SG.", chars: dotted, min: 22, check: func(rest string) bool { return strings.Contains(rest, ".") }},
		{prefix: "sk-", chars: alnum, min: 20, check: mixed},
		{prefix: "SK", chars: alnum, min: 32, max: 32, check: isHex},
		{prefix: "key-", chars: alnum, min: 32, max: 32, check: isHex},
		{prefix: "dapi", chars: alnum, min: 32, max: 32, check: isHex},
	} {
		table[s.prefix[0]] = append(table[s.prefix[0]], s)
	}
	return table
}()

// find returns what is to be hidden of the token at the beginning of s, or an
// end of 0.
func (t *shape) find(s string) (from, end int) {
	if !strings.HasPrefix(s, t.prefix) {
		return 0, 0
	}
	end = len(t.prefix)
	for end < len(s) && t.chars[s[end]] {
		end++
	}
	for end > len(t.prefix) && (s[end-1] == '.' || s[end-1] == ':' || s[end-1] == '?') {
		end--
	}
	rest := s[len(t.prefix):end]
	if len(rest) < t.min || t.max > 0 && len(rest) > t.max || t.check != nil && !t.check(rest) {
		return 0, 0
	}
	if t.keep {
		return len(t.prefix), end
	}
	return 0, end
}

func every(s string, ok func(byte) bool) bool {
	for i := range len(s) {
		if !ok(s[i]) {
			return false
		}
	}
	return true
}

func upper(s string) bool {
	return every(s, func(b byte) bool { return b < 'a' || b > 'z' })
}

func isHex(s string) bool {
	return every(s, func(b byte) bool { return isDigit(b) || 'a' <= b && b <= 'f' })
}

// mixed reports whether s has letters and digits: no word of a language does.
func mixed(s string) bool {
	digits := 0
	for i := range len(s) {
		if isDigit(s[i]) {
			digits++
		}
	}
	return digits > 0 && digits < len(s)
}
