package deadletter

import (
	"net/http"
	"strconv"
)

// HTTP knows errors that carry the status of an HTTP response, in a method
// StatusCode() int or HTTPStatusCode() int. net/http has no such error: one of
// your own takes a line, and many clients of APIs have one.
//
// Permanent are the statuses of 400 to 499, by which a server tells that the
// request is wrong, but for those that may pass:
//
//	401, 407  credentials are renewed without a change of the job
//	408       the server waited too long for this request
//	409, 423  something else was at the same thing just then
//	421, 425  another connection may be the right one, or a later moment
//	429       too many requests
//
// 501 and 505 are permanent too: what the server can't do it can't do later. All
// others from 500 to 599 are tried again. What is no error to HTTP (a status
// below 400) is none here either.
//
// Network errors have no status, and so no advice: they are tried again.
func HTTP() Classifier {
	return Classifier{Name: "http", Judge: func(err error) Opinion { return JudgeTree(err, judgeHTTP) }}
}

func judgeHTTP(err error) Opinion {
	var status int
	switch x := err.(type) { //nolint:errorlint // JudgeTree unwraps
	case interface{ StatusCode() int }:
		status = x.StatusCode()
	case interface{ HTTPStatusCode() int }:
		status = x.HTTPStatusCode()
	}
	if status < 400 || status > 599 {
		return Opinion{}
	}
	o := Opinion{Advice: AdvisePermanent, Code: strconv.Itoa(status)}
	switch status {
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
	case http.StatusUnauthorized, http.StatusProxyAuthRequired, http.StatusRequestTimeout, http.StatusConflict,
		http.StatusMisdirectedRequest, http.StatusLocked, http.StatusTooEarly, http.StatusTooManyRequests:
		o.Advice = AdviseRetry
	default:
		if status >= 500 {
			o.Advice = AdviseRetry
		}
	}
	return o
}
