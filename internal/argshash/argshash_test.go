package argshash

import (
	"encoding/json"
	"math"
	"testing"
)

// The vectors were computed by Python's json.dumps and hashlib.
func TestSum_equalsPythons(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		`{}`:                        "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
		`{"b": 2, "a": 1}`:          "43258cff783fe7036d8a43033f830adfc60ec037382473548ac742b888292777",
		`{"n":1.0}`:                 "3b6b06ecd1c968c8e738e0f11c4bb361fca80a9a694de22fe66a05286afbd081",
		`{"n":10000000000000000.0}`: "3b2cb112e050812d03ee42b0c83897293d662709d335a4f1ce7e59d29de23ac1",
		`{"n":0.00001}`:             "a4aaff4cb2776bd827d3e6a14a54ccc534ca6b62e36579fc1c53b537c89752a4",
		`{"n":-0.0}`:                "a8a313cade05001e69f7ddb5db01e1e2d06fb8f6913ab492cc4506d4e65d465a",
		`{"u":{"z":1,"a":[1,2,{"y":null,"x":true}]}}`:             "dd1eb51ee499cd29969d4d4e079e734c87c68a1b18ae49363da870aa2ac24d93",
		"{\"\U0001F600\":4,\"a\":2,\"Z\":1,\"\uffff\":5,\"é\":3}": "5a76bec5e9b6b8ae197f10d5cd03136f589ba5e355fb43f4f80a3fb74bce5a67",
		`{"s":"é\u2028😀\u007f<>&\"\\/\b\f\n\r\t\u0001"}`:          "b19b12eda7e65c37be69ac7f8e649766b0f032e25760d55d2ededa1e70dad01d",
	} {
		got, err := Sum(json.RawMessage(raw))
		if err != nil || got != want {
			t.Errorf("Sum(%s) = %s, %v; want %s", raw, got, err, want)
		}
	}
}

func TestPythonFloat_isRepr(t *testing.T) {
	t.Parallel()
	for f, want := range map[float64]string{
		1:                      "1.0",
		0.1:                    "0.1",
		1e15:                   "1000000000000000.0",
		1e16:                   "1e+16",
		1.5e300:                "1.5e+300",
		0.0001:                 "0.0001",
		0.00001:                "1e-05",
		123456789.125:          "123456789.125",
		math.Inf(1):            "Infinity",
		math.Inf(-1):           "-Infinity",
		math.Copysign(0, -1):   "-0.0",
		5e-324:                 "5e-324",
		9007199254740993:       "9007199254740992.0",
		1.7976931348623157e308: "1.7976931348623157e+308",
	} {
		if got := pythonFloat(f); got != want {
			t.Errorf("pythonFloat(%g) = %s, want %s", f, got, want)
		}
	}
}

func TestSum_bigIntegersKeepTheirDigits(t *testing.T) {
	t.Parallel()
	a, _ := Sum(json.RawMessage(`{"n":12345678901234567890123}`))
	b, _ := Sum(json.RawMessage(`{"n":12345678901234567890124}`))
	if a == b {
		t.Error("two big integers hash alike")
	}
}
