package classify

import (
	"strconv"

	"soniq/internal/httpverdict"
)

// HTTP classifies errors that have the status of an HTTP response, in a method
// StatusCode() int or HTTPStatusCode() int. Many clients of APIs have such an
// error. net/http has none: write one of your own.
//
// An error with a status of 400 to 499, by which a server says that the request is
// wrong, is permanent, but for those that may pass: 401, 407, 408, 409, 421, 423,
// 425 and 429. 501 and 505 are permanent too. The other statuses from 500 to 599
// are tried again. A status below 400 or above 599 is no error, and gets no advice.
// docs/worker.md has the whole table, beside what the same statuses mean when the
// endpoint of a job itself answers them.
//
// Network errors have no status, and so no advice: they are tried again.
func HTTP() Classifier {
	return Classifier{Name: "http", JudgeEach: judgeHTTP}
}

func judgeHTTP(err error) Opinion {
	var status int
	switch x := err.(type) { //nolint:errorlint // JudgeEach is asked about each error
	case interface{ StatusCode() int }:
		status = x.StatusCode()
	case interface{ HTTPStatusCode() int }:
		status = x.HTTPStatusCode()
	}
	switch httpverdict.Of(status).Dependency {
	case httpverdict.Retry:
		return Opinion{Advice: AdviseRetry, Code: strconv.Itoa(status)}
	case httpverdict.Permanent:
		return Opinion{Advice: AdvisePermanent, Code: strconv.Itoa(status)}
	default:
		return Opinion{}
	}
}
