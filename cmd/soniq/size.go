package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// sizeUnits are what a number of bytes may be given in.
var sizeUnits = []struct {
	suffix string
	bytes  float64
}{
	{"KiB", 1 << 10},
	{"MiB", 1 << 20},
	{"GiB", 1 << 30},
	{"kB", 1e3},
	{"KB", 1e3},
	{"MB", 1e6},
	{"GB", 1e9},
	{"B", 1},
	{"", 1},
}

// maxSize is far beyond any machine's memory.
const maxSize = 1 << 50

// parseSize reads a number of bytes such as 65536, 16MiB, 1.5GB.
func parseSize(text string) (int64, error) {
	for _, u := range sizeUnits {
		number, ok := strings.CutSuffix(text, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if bytes := n * u.bytes; err == nil && bytes >= 1 && bytes <= maxSize && bytes == math.Trunc(bytes) && !strings.ContainsAny(number, "xXeEpP_") {
			return int64(bytes), nil
		}
		break
	}
	return 0, fmt.Errorf("must be a size such as 65536, 512KiB, 16MiB or 1GB, not %q", text)
}

// size reads a number of bytes.
func (r *configReader) size(n *yaml.Node, where string) *int64 {
	text, ok := r.anyScalar(n, where)
	if !ok {
		return nil
	}
	bytes, err := parseSize(text)
	if err != nil {
		r.wrong(n, "%s %s", where, err)
		return nil
	}
	return &bytes
}
