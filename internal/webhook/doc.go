// Package webhook has what Standard Webhooks (https://www.standardwebhooks.com)
// and HTTP say about requests that carry an event: secrets, signatures, names of
// headers and Retry-After. It sends nothing itself.
package webhook
