package devdb

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"time"
)

// repositoryEnv names a mirror of the Maven repository that the programs come
// from.
const repositoryEnv = "SONIQ_DEV_POSTGRES_REPOSITORY"

const defaultRepository = "https://repo1.maven.org/maven2"

const (
	// fetchTimeout bounds a download: 70 MB, the largest, by 1 Mbit/s.
	fetchTimeout = 10 * time.Minute
	// stallTimeout is how long a download may stand still, before its first
	// byte too.
	stallTimeout = 30 * time.Second
)

// source is where archives come from.
type source struct {
	url *url.URL
	// stall is how long a download may stand still.
	stall time.Duration
}

// findSource is the repository, or the mirror that the environment names. The
// programs are checked against their pins wherever they come from; https keeps
// from others what is fetched, and the password of a mirror.
func findSource() (source, error) {
	u, err := url.Parse(cmp.Or(os.Getenv(repositoryEnv), defaultRepository))
	switch {
	case err != nil || u.Host == "":
		// What it says may hold a password.
		return source{}, fmt.Errorf("%s is not a URL such as %s", repositoryEnv, defaultRepository)
	case !safeURL(u):
		return source{}, fmt.Errorf("%s must begin with https://, not %s://: programs that will be run are not fetched in the clear", repositoryEnv, u.Scheme)
	}
	return source{u, stallTimeout}, nil
}

// safeURL also allows http to this machine itself, whose mirrors are the
// tests'.
func safeURL(u *url.URL) bool {
	if u.Scheme == "https" {
		return true
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return u.Scheme == "http" && (err == nil && ip.IsLoopback() || u.Hostname() == "localhost")
}

// address of an archive in a Maven repository.
func (s source) address(platform string, p pin) string {
	artifact := "embedded-postgres-binaries-" + platform
	return s.url.JoinPath("io/zonky/test/postgres", artifact, p.version, artifact+"-"+p.version+".jar").String()
}

// fetch writes the archive to a new file and returns it, at its beginning, once
// it is known to be the pinned one. The caller closes and removes it.
func (s source) fetch(ctx context.Context, platform string, p pin, path string) (_ *os.File, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, fetchTimeout, fmt.Errorf("not done after %s", fetchTimeout))
	defer cancel()
	ctx, abort := context.WithCancelCause(ctx)
	defer abort(nil)
	stalled := time.AfterFunc(s.stall, func() { abort(fmt.Errorf("nothing came for %s", s.stall)) })
	defer stalled.Stop()

	client, closeIdle := s.client()
	defer closeIdle()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.address(platform, p), nil)
	if err != nil {
		return nil, errors.New("the repository's URL is not valid")
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, s.failed(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers HTTP %d for the archive of version %s for %s", s.url.Host, resp.StatusCode, p.version, platform)
	}

	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = file.Close()
		}
	}()
	sum := sha256.New()
	// One byte beyond the end shows that there is more.
	body := &ticking{io.LimitReader(resp.Body, p.size+1), stalled, s.stall}
	got, err := io.Copy(io.MultiWriter(file, sum), body)
	if err != nil {
		return nil, s.failed(ctx, err)
	}
	if got > p.size {
		return nil, fmt.Errorf("%s sent another archive than the pinned one: it is longer than %d bytes", s.url.Host, p.size)
	}
	if got < p.size {
		return nil, fmt.Errorf("%s sent another archive than the pinned one: it has %d bytes, not %d", s.url.Host, got, p.size)
	}
	if is := hex.EncodeToString(sum.Sum(nil)); is != p.sha256 {
		return nil, fmt.Errorf("%s sent another archive than the pinned one: its SHA-256 is %s, not %s", s.url.Host, is, p.sha256)
	}
	_, err = file.Seek(0, io.SeekStart)
	return file, err
}

// client is for one download. It follows redirects, but never from https to
// http.
func (s source) client() (client *http.Client, closeIdle func()) {
	transport := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: stallTimeout}).DialContext,
		TLSHandshakeTimeout:    stallTimeout,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true,
		ForceAttemptHTTP2:      true,
	}
	return &http.Client{
		Transport: transport,
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			const most = 5
			if len(via) >= most {
				return fmt.Errorf("more than %d redirects", most)
			}
			if !safeURL(req.URL) || s.url.Scheme == "https" && req.URL.Scheme != "https" {
				return errors.New("it redirects to an address without https")
			}
			return nil
		},
	}, transport.CloseIdleConnections
}

// failed says which host it was, and not the URL, which may hold a password.
func (s source) failed(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	return fmt.Errorf("fetch from %s: %w", s.url.Host, err)
}

// ticking puts the alarm off with each read that brings something.
type ticking struct {
	io.Reader
	alarm *time.Timer
	stall time.Duration
}

func (t *ticking) Read(p []byte) (int, error) {
	n, err := t.Reader.Read(p)
	if n > 0 {
		t.alarm.Reset(t.stall)
	}
	return n, err
}
