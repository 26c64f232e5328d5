package dashboard

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"

	"soniq/internal/redact"
)

// contentPolicy lets a page load nothing but its own files, and run no script and no style
// that stands in it.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// maxBody bounds what a form or a program may send: the arguments of a job have at most 16 MiB.
const maxBody = 20 << 20

// guarded refuses what no page should have to think of.
func (d *Dashboard) guarded(next http.Handler) http.Handler {
	protection := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		setHeaders(w.Header())
		v := &visit{d: d, w: w, r: r}
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler { //nolint:errorlint // net/http's own sentinel, compared as it says
					panic(p)
				}
				v.fail(fmt.Errorf("panic: %v\n%s", p, redact.Text(string(debug.Stack()))))
			}
		}()
		r.URL.Path, r.URL.RawPath = d.within(r.URL.Path), ""
		switch {
		case !d.knowsHost(r.Host):
			v.refuse(problem{
				Status: http.StatusMisdirectedRequest, Title: "Unknown host",
				Text: fmt.Sprintf("the dashboard is not served as %q: add the name to Hosts (soniq dashboard --allow-host)", hostname(r.Host)),
			})
		case protection.Check(r) != nil:
			v.refuse(problem{
				Status: http.StatusForbidden, Title: "The request comes from another site",
				Text: "open the page on this site and try again; a proxy in between must keep the Host header",
			})
		case r.URL.Path == "":
			_ = v.redirect("/")
		default:
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			next.ServeHTTP(w, r)
		}
	})
}

// setHeaders says what holds for every answer.
func setHeaders(h http.Header) {
	h.Set("Content-Security-Policy", contentPolicy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	// Nothing is told to other sites. With no-referrer, browsers would say 'Origin: null'
	// to this one too, which looks like another site where it is served over plain HTTP.
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
	h.Set("X-Robots-Tag", "noindex")
	h.Set("Cache-Control", "no-store")
}

// within is the path below the one where the dashboard is mounted. It is empty for the
// mount's own path without its slash.
func (d *Dashboard) within(path string) string {
	if rest, ok := strings.CutPrefix(path, d.base); ok && (rest == "" || rest[0] == '/') {
		return rest
	}
	return path // http.StripPrefix was there first
}

// hostname is the name in a Host header, without the port.
func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
}

// knowsHost reports whether the dashboard is served under the name in a Host header.
func (d *Dashboard) knowsHost(host string) bool {
	name := hostname(host)
	if d.cfg.Authenticate != nil && d.cfg.Hosts == nil || name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return true
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	return slices.ContainsFunc(d.cfg.Hosts, func(allowed string) bool { return strings.EqualFold(allowed, name) })
}

// visited serves a page to those who have the right that it needs.
func (d *Dashboard) visited(p page) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v := &visit{d: d, w: w, r: r}
		user, known, err := d.identify(r)
		switch {
		case err != nil:
			v.fail(err)
		case p.needs == anybody:
			v.user = user
			v.serve(p)
		case !known:
			v.askWho()
		case !user.See:
			v.refuse(problem{Status: http.StatusForbidden, Title: "You may not see this dashboard", Text: "ask whoever runs it"})
		case !user.has(p.needs):
			v.user = user
			v.refuse(problem{Status: http.StatusForbidden, Title: "You may look, and not do this", Text: missingRight(p.needs)})
		default:
			v.user = user
			v.serve(p)
		}
	})
}

func missingRight(r right) string {
	if r == reveal {
		return "whoever runs the dashboard decides who may see secrets"
	}
	return "this dashboard is read-only for you; whoever runs it decides who may act (SONIQ_DASHBOARD_WRITE_ENABLED)"
}

// serve serves the page, or the page of its error.
func (v *visit) serve(p page) {
	if err := p.serve(v); err != nil {
		v.fail(err)
	}
}

// askWho answers somebody who is not known: a person signs in.
func (v *visit) askWho() {
	v.w.Header().Set("WWW-Authenticate", `Bearer realm="soniq"`)
	if v.d.cfg.Key == "" || isAPI(v.r) || v.r.Method != http.MethodGet {
		v.refuse(problem{Status: http.StatusUnauthorized, Title: "Sign in first"})
		return
	}
	v.w.Header().Del("WWW-Authenticate")
	_ = v.redirect("/sign-in?next=" + url.QueryEscape(v.r.URL.RequestURI()))
}
