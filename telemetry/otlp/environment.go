package otlp

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"soniq/internal/webhook"
)

// The protocols.
const (
	protocolHTTP = "http/protobuf"
	protocolGRPC = "grpc"
)

// environment looks up a variable.
type environment func(name string) string

// settings are where and how spans are sent.
type settings struct {
	protocol string
	url      *url.URL
	header   http.Header
	gzip     bool
	timeout  time.Duration
	tls      *tls.Config
}

// target is the protocol, the scheme and the host: the rest may be secret.
func (s *settings) target() string { return s.protocol + " " + s.url.Scheme + "://" + s.url.Host }

// hint is what is often wrong with an endpoint that does not answer.
func (s *settings) hint() string {
	switch {
	case s.protocol == protocolHTTP && s.url.Port() == "4317":
		return "port 4317 is mostly for grpc: set OTEL_EXPORTER_OTLP_PROTOCOL=grpc, or use port 4318"
	case s.protocol == protocolGRPC && s.url.Port() == "4318":
		return "port 4318 is mostly for http/protobuf: set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, or use port 4317"
	}
	return ""
}

// of looks up a setting of traces, else that of all signals. name is the variable that has it.
func (e environment) of(setting string) (value, name string) {
	for _, prefix := range []string{"OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"} {
		if value := e(prefix + setting); value != "" {
			return value, prefix + setting
		}
	}
	return "", "OTEL_EXPORTER_OTLP_" + setting
}

func (e environment) disabled() bool { return strings.EqualFold(e("OTEL_SDK_DISABLED"), "true") }

// settings are nil if nothing is to be sent.
func (e environment) settings() (*settings, error) {
	endpoint, _ := e.of("ENDPOINT")
	exporter := e("OTEL_TRACES_EXPORTER")
	switch {
	case e.disabled(), exporter == "none", endpoint == "":
		return nil, nil
	case exporter != "" && exporter != "otlp":
		return nil, errors.New("OTEL_TRACES_EXPORTER must be otlp or none: Soniq has no other exporter")
	}
	protocol, name := e.of("PROTOCOL")
	s := &settings{protocol: cmp.Or(protocol, protocolHTTP), timeout: 10 * time.Second}
	if s.protocol != protocolHTTP && s.protocol != protocolGRPC {
		return nil, fmt.Errorf("%s must be %s or %s", name, protocolHTTP, protocolGRPC)
	}
	for _, read := range []func(*settings) error{e.endpoint, e.headers, e.compression, e.timeout, e.security} {
		if err := read(s); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (e environment) endpoint(s *settings) error {
	text, name := e.of("ENDPOINT")
	example := "http://localhost:4318"
	if s.protocol == protocolGRPC {
		example = "http://localhost:4317"
		if !strings.Contains(text, "://") {
			// Without a scheme it is a host and a port.
			scheme := "https://"
			if insecure, _ := e.of("INSECURE"); strings.EqualFold(insecure, "true") {
				scheme = "http://"
			}
			text = scheme + text
		}
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || !validPort(u.Port()) {
		return fmt.Errorf("%s must be an http:// or https:// URL, such as %s", name, example)
	}
	if u.User != nil {
		return fmt.Errorf("%s must not have a user name or password; use OTEL_EXPORTER_OTLP_HEADERS", name)
	}
	switch {
	case s.protocol == protocolGRPC:
		u.Path, u.RawPath, u.RawQuery = "/opentelemetry.proto.collector.trace.v1.TraceService/Export", "", ""
	case name == "OTEL_EXPORTER_OTLP_ENDPOINT":
		u = u.JoinPath("/v1/traces")
		if !strings.HasPrefix(u.Path, "/") {
			u.Path = "/" + u.Path
		}
	case u.Path == "":
		u.Path = "/"
	}
	u.Fragment = ""
	s.url = u
	return nil
}

func validPort(text string) bool {
	port, err := strconv.ParseUint(text, 10, 16)
	return text == "" || err == nil && port > 0
}

// pairs reads KEY=VALUE,..., with what is special in percent-encoding.
func pairs(text, name string) (keys, values []string, err error) {
	for pair := range strings.SplitSeq(text, ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		key, value, found := strings.Cut(pair, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		decoded, err := url.PathUnescape(value)
		if !found || key == "" || err != nil {
			return nil, nil, fmt.Errorf("%s must be KEY=VALUE, or several with commas between, and special characters as %%XX", name)
		}
		keys, values = append(keys, key), append(values, decoded)
	}
	return keys, values, nil
}

func (e environment) headers(s *settings) error {
	s.header = http.Header{}
	text, name := e.of("HEADERS")
	keys, values, err := pairs(text, name)
	if err != nil {
		return err
	}
	for i, key := range keys {
		if !webhook.IsHeaderName(key) || strings.ContainsAny(values[i], "\r\n\x00") {
			return fmt.Errorf("%s: number %d is no header", name, i+1)
		}
		s.header.Set(key, values[i])
	}
	return nil
}

func (e environment) compression(s *settings) error {
	switch text, name := e.of("COMPRESSION"); text {
	case "", "none":
	case "gzip":
		s.gzip = true
	default:
		return fmt.Errorf("%s must be gzip or none", name)
	}
	return nil
}

func (e environment) timeout(s *settings) error {
	text, name := e.of("TIMEOUT")
	if text == "" {
		return nil
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < 1 {
		return fmt.Errorf("%s must be a whole number of milliseconds, from 1 on", name)
	}
	s.timeout = time.Duration(n) * time.Millisecond
	return nil
}

// batching is how spans are collected before they are sent.
type batching struct {
	delay, timeout time.Duration
	queue, batch   int
}

// maxQueue limits the queue of spans: the SDK sets aside room for all of it.
const maxQueue = 1_000_000

// batching is read here and not by the SDK, which panics at a queue of -1, and never rests at a
// delay of 0.
func (e environment) batching() (*batching, error) {
	b := &batching{}
	delay, timeout := sdktrace.DefaultScheduleDelay, sdktrace.DefaultExportTimeout
	b.queue, b.batch = sdktrace.DefaultMaxQueueSize, sdktrace.DefaultMaxExportBatchSize
	for _, number := range []struct {
		name        string
		least, most int
		value       *int
	}{
		{"OTEL_BSP_SCHEDULE_DELAY", 1, math.MaxInt32, &delay},
		{"OTEL_BSP_EXPORT_TIMEOUT", 1, math.MaxInt32, &timeout},
		{"OTEL_BSP_MAX_QUEUE_SIZE", 1, maxQueue, &b.queue},
		{"OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 1, maxQueue, &b.batch},
	} {
		text := e(number.name)
		if text == "" {
			continue
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < number.least || n > number.most {
			return nil, fmt.Errorf("%s must be a whole number from %d to %d", number.name, number.least, number.most)
		}
		*number.value = n
	}
	b.delay, b.timeout = time.Duration(delay)*time.Millisecond, time.Duration(timeout)*time.Millisecond
	b.batch = min(b.batch, b.queue)
	return b, nil
}

// processor is the SDK's, that collects spans for an exporter.
func (b *batching) processor(e *exporter) sdktrace.SpanProcessor {
	return counted{sdktrace.NewBatchSpanProcessor(e, sdktrace.WithBatchTimeout(b.delay), sdktrace.WithExportTimeout(b.timeout),
		sdktrace.WithMaxQueueSize(b.queue), sdktrace.WithMaxExportBatchSize(b.batch)), e}
}

func (e environment) security(s *settings) error {
	s.tls = &tls.Config{MinVersion: tls.VersionTLS12}
	if path, name := e.of("CERTIFICATE"); path != "" {
		pem, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		s.tls.RootCAs = x509.NewCertPool()
		if !s.tls.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("%s: the file has no certificate", name)
		}
	}
	certificate, name := e.of("CLIENT_CERTIFICATE")
	key, keyName := e.of("CLIENT_KEY")
	switch {
	case certificate == "" && key == "":
		return nil
	case certificate == "":
		return fmt.Errorf("%s goes with %s: set both", keyName, name)
	case key == "":
		return fmt.Errorf("%s goes with %s: set both", name, keyName)
	}
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		return fmt.Errorf("%s, %s: %w", name, keyName, err)
	}
	s.tls.Certificates = []tls.Certificate{pair}
	return nil
}

// resource is what the spans are of.
func (e environment) resource(config Config) (*resource.Resource, error) {
	attributes := []attribute.KeyValue{attribute.String("service.name", cmp.Or(config.Service, "soniq"))}
	if config.Version != "" {
		attributes = append(attributes, attribute.String("service.version", config.Version))
	}
	if host, err := os.Hostname(); err == nil {
		attributes = append(attributes, attribute.String("host.name", host))
	}
	attributes = append(attributes, attribute.Int("process.pid", os.Getpid()),
		attribute.String("telemetry.sdk.name", "opentelemetry"), attribute.String("telemetry.sdk.language", "go"))
	keys, values, err := pairs(e("OTEL_RESOURCE_ATTRIBUTES"), "OTEL_RESOURCE_ATTRIBUTES")
	if err != nil {
		return nil, err
	}
	for i, key := range keys {
		attributes = append(attributes, attribute.String(key, values[i]))
	}
	if service := e("OTEL_SERVICE_NAME"); service != "" {
		attributes = append(attributes, attribute.String("service.name", service))
	}
	// Of attributes with one key the last counts.
	return resource.NewSchemaless(attributes...), nil
}

// sampler is the one that OTEL_TRACES_SAMPLER names. The default records what the producer's
// trace records.
func (e environment) sampler() (sdktrace.Sampler, error) {
	ratio := 1.0
	name := cmp.Or(e("OTEL_TRACES_SAMPLER"), "parentbased_always_on")
	if text := e("OTEL_TRACES_SAMPLER_ARG"); text != "" && strings.HasSuffix(name, "traceidratio") {
		var err error
		if ratio, err = strconv.ParseFloat(text, 64); err != nil || !(ratio >= 0 && ratio <= 1) {
			return nil, errors.New("OTEL_TRACES_SAMPLER_ARG must be a number from 0 to 1")
		}
	}
	samplers := map[string]sdktrace.Sampler{
		"always_on": sdktrace.AlwaysSample(), "always_off": sdktrace.NeverSample(), "traceidratio": sdktrace.TraceIDRatioBased(ratio),
	}
	root, based := strings.CutPrefix(name, "parentbased_")
	sampler, known := samplers[root]
	if !known {
		names := []string{"always_on", "always_off", "traceidratio"}
		for _, name := range slices.Clone(names) {
			names = append(names, "parentbased_"+name)
		}
		return nil, errors.New("OTEL_TRACES_SAMPLER must be one of " + strings.Join(names, ", "))
	}
	if based {
		sampler = sdktrace.ParentBased(sampler)
	}
	return sampler, nil
}

// dialer limits how long a connection takes.
var dialer = &net.Dialer{Timeout: 5 * time.Second}
