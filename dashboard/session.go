package dashboard

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"soniq/internal/pg"
	"soniq/internal/safetext"
)

const (
	// cookieName is the cookie of somebody who has signed in with the key.
	cookieName = "soniq_session"
	// sessionLasts is how long they stay signed in.
	sessionLasts = 12 * time.Hour
	// maxUserName bounds the name in the history, in bytes.
	maxUserName = 200
	// Wrong keys: ten at once from one address, then one in ten seconds.
	attemptsAtOnce  = 10
	attemptInterval = 10 * time.Second
	// mostAddresses bounds how many addresses are remembered that sent a wrong key.
	mostAddresses = 10_000
)

var errTooManyAttempts = errors.New("too many wrong keys: wait a minute, then try again")

// sessions knows who has the key. Its cookies are signed with it: they outlive a restart, and
// one of another key is worth nothing.
type sessions struct {
	digest [sha256.Size]byte // of the key
	sign   []byte            // the key of the signatures
	now    func() time.Time

	mu       sync.Mutex
	attempts map[string]*rate.Limiter
}

func newSessions(key string) *sessions {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte("soniq dashboard session 1"))
	return &sessions{digest: sha256.Sum256([]byte(key)), sign: mac.Sum(nil), now: time.Now, attempts: map[string]*rate.Limiter{}}
}

// isKey compares in constant time, whatever the lengths.
func (s *sessions) isKey(given string) bool {
	digest := sha256.Sum256([]byte(given))
	return hmac.Equal(digest[:], s.digest[:])
}

// try reports whether a key is right. Only wrong ones count against the limit of the address,
// and beyond it no key is looked at.
//
// Errors: errTooManyAttempts.
func (s *sessions) try(address, key string) (bool, error) {
	limiter := s.limiter(address)
	if limiter.TokensAt(s.now()) < 1 {
		return false, errTooManyAttempts
	}
	if s.isKey(key) {
		return true, nil
	}
	limiter.AllowN(s.now(), 1)
	return false, nil
}

func (s *sessions) limiter(address string) *rate.Limiter {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.attempts[address]; l != nil {
		return l
	}
	if len(s.attempts) >= mostAddresses {
		// Those that have waited long enough are as good as new ones. If none has, all
		// that are new share one limit.
		for a, l := range s.attempts {
			if l.TokensAt(s.now()) >= attemptsAtOnce {
				delete(s.attempts, a)
			}
		}
		if len(s.attempts) >= mostAddresses {
			address = "others"
			if l := s.attempts[address]; l != nil {
				return l
			}
		}
	}
	l := rate.NewLimiter(rate.Every(attemptInterval), attemptsAtOnce)
	s.attempts[address] = l
	return l
}

// A session is what the cookie says.
type session struct {
	Name    string `json:"n"`
	Expires int64  `json:"e"`
}

// cookie is the value of a cookie for somebody who has just signed in.
func (s *sessions) cookie(name string) (string, error) {
	payload, err := json.Marshal(session{name, s.now().Add(sessionLasts).Unix()})
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(payload) + "." + base64.RawURLEncoding.EncodeToString(s.signature(payload)), nil
}

func (s *sessions) signature(payload []byte) []byte {
	mac := hmac.New(sha256.New, s.sign)
	mac.Write(payload)
	return mac.Sum(nil)
}

// read returns the name in a cookie that is signed with the key and hasn't expired.
func (s *sessions) read(cookie string) (name string, ok bool) {
	head, tail, _ := strings.Cut(cookie, ".")
	payload, err := base64.RawURLEncoding.DecodeString(head)
	if err != nil {
		return "", false
	}
	signature, err := base64.RawURLEncoding.DecodeString(tail)
	if err != nil || !hmac.Equal(signature, s.signature(payload)) {
		return "", false
	}
	var told session
	if json.Unmarshal(payload, &told) != nil || s.now().Unix() >= told.Expires {
		return "", false
	}
	return told.Name, true
}

// identify finds out who sends a request. known is false for nobody.
//
// Errors: errTooManyAttempts.
func (d *Dashboard) identify(r *http.Request) (user User, known bool, err error) {
	switch {
	case d.cfg.Open:
		return User{Rights: Rights{See: true}}, true, nil
	case d.cfg.Authenticate != nil:
		user, err := d.cfg.Authenticate(r)
		if err != nil {
			return User{}, false, nil //nolint:nilerr // whoever is not known is told no reason
		}
		user.Name = userName(user.Name)
		return user, true, nil
	}
	user.Rights = d.cfg.KeyRights
	user.See = true
	if key, ok := bearer(r); ok {
		right, err := d.sessions.try(address(r), key)
		user.Name = cmp.Or(userName(r.Header.Get("Soniq-As")), "api")
		if err != nil || !right {
			return User{}, false, err
		}
		return user, true, nil
	}
	cookie, err := r.Cookie(cookieName)
	if err != nil {
		return User{}, false, nil //nolint:nilerr // there is none
	}
	if user.Name, known = d.sessions.read(cookie.Value); !known {
		return User{}, false, nil
	}
	return user, true, nil
}

// bearer is the key in 'Authorization: Bearer KEY'.
func bearer(r *http.Request) (key string, ok bool) {
	scheme, key, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	return key, ok && strings.EqualFold(scheme, "Bearer")
}

// address is the machine that sent a request.
func address(r *http.Request) string {
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		return host
	}
	return r.RemoteAddr
}

// userName is a name as the history keeps it.
func userName(name string) string {
	return pg.Storable(safetext.OneLine(strings.TrimSpace(name)), maxUserName)
}

// signInForm is what the page to sign in shows.
type signInForm struct {
	Next, Name, Wrong string
}

func (d *Dashboard) signInPage(v *visit) error {
	if d.cfg.Key == "" || v.user.See {
		return v.redirect("/")
	}
	return v.show("sign-in", view{Title: "Sign in", Data: signInForm{Next: nextPath(v.r.FormValue("next"))}})
}

func (d *Dashboard) signIn(v *visit) error {
	if d.cfg.Key == "" {
		return errNoPage
	}
	if err := v.r.ParseForm(); err != nil {
		return err
	}
	next, name := nextPath(v.r.PostForm.Get("next")), userName(v.r.PostForm.Get("name"))
	form := signInForm{Next: next, Name: name}
	status := http.StatusUnauthorized
	right, err := d.sessions.try(address(v.r), v.r.PostForm.Get("key"))
	switch {
	case err != nil:
		form.Wrong, status = err.Error(), http.StatusTooManyRequests
	case !right:
		form.Wrong = "That is not the key."
		d.log.WarnContext(v.Context(), "somebody gave the dashboard a wrong key", "address", address(v.r))
	case name == "":
		form.Wrong, status = "Say who you are: the history records it with what you do.", http.StatusBadRequest
	default:
		value, err := d.sessions.cookie(name)
		if err != nil {
			return err
		}
		http.SetCookie(v.w, d.sessionCookie(v.r, value, int(sessionLasts.Seconds())))
		return v.redirect(next)
	}
	return v.show("sign-in", view{Title: "Sign in", Data: form, Status: status})
}

func (d *Dashboard) signOut(v *visit) error {
	http.SetCookie(v.w, d.sessionCookie(v.r, "", -1))
	return v.redirect("/sign-in")
}

func (d *Dashboard) sessionCookie(r *http.Request, value string, maxAge int) *http.Cookie {
	return &http.Cookie{
		Name: cookieName, Value: value, MaxAge: maxAge, Path: d.base + "/", HttpOnly: true,
		// Lax: a link in a chat opens the page for somebody who has signed in.
		SameSite: http.SameSiteLaxMode,
		Secure:   r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https",
	}
}

// nextPath is where somebody goes after signing in: a path within the dashboard.
func nextPath(given string) string {
	if !strings.HasPrefix(given, "/") || strings.HasPrefix(given, "//") || strings.ContainsFunc(given, func(r rune) bool { return r == '\\' || r < ' ' }) {
		return "/"
	}
	return given
}
