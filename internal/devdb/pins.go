package devdb

import (
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// pin is an archive of server programs as it was when it was looked at: what
// is not that, to the byte, is not unpacked.
type pin struct {
	version string // of the archive: that of PostgreSQL and a counter
	size    int64  // in bytes
	sha256  string
}

// pins are the archives for each platform and major version: the newest of
// each that the repository also publishes a checksum of, which the download
// had to match. `.ci/pins` makes the lines anew.
var pins = map[string]map[int]pin{
	"linux-amd64": {
		14: {"14.24.0", 14500812, "2722d05eb22c671104c9918d59d8ba9f5656898f5452a0207bb4cce21eef5dc4"},
		15: {"15.19.0", 14629992, "95f0b66fe72d4ca66c815773c44cb1196ea38552463e89a35f18114b3ed1565f"},
		16: {"16.15.0", 14737226, "653abc065c682b85d3da50168fb95dc524bd85426cdec9ce3695a550ef431df2"},
		17: {"17.11.0", 14987378, "0dd7b72b6f335b8ecfb355fa24c5781e8a93edd09880bb77eb52ebbf29b3e96d"},
		18: {"18.6.0", 15119738, "008ee189eaa7ca2b58bd01dd950291e638b998392cf982297acd4779ec898ac1"},
	},
	"linux-arm64v8": {
		14: {"14.23.0", 13655000, "a55b93f67051a602be033b298461709f88789dccee925236f2fb5a4eaf9dd526"},
		15: {"15.19.0", 13686798, "95baf4bd4af31b91b3050118df59388ed0064756b556b850669e0300aa7b9911"},
		16: {"16.15.0", 13744494, "f846a9989d686b7977d6eca9bc9d8b2b69e3f70c7eb60e032197d9c574a6136c"},
		17: {"17.11.0", 14015430, "8b042e0ea418b1927d95399207950da0734d27fe01e29503ade3bdc464ad4c2b"},
		18: {"18.4.0", 14176928, "a9ec284923b9a7d2db41509bfb88c3d0eeb9f4aa5e2b29ea0aac5e8dbaf4c335"},
	},
	"linux-amd64-alpine": {
		14: {"14.22.0", 14207880, "e949c495cb77636f8d6097ecaa3397b02f3148e24efa73851801f76b53fc1eff"},
		15: {"15.19.0", 14368642, "a04a72fb429fed3624507f54244a69f43be491c67f744e58c1a3696a67262aab"},
		16: {"16.15.0", 14520043, "6bcfdb579fae7fb11e6ea2dba2cc8086c14cc58506db49ad36ce4d70de250dd6"},
		17: {"17.11.0", 14730308, "ace9a6f95b1c98ce84c9841267cd04ebee5d7de5dc7b8fea148ead44f145afbd"},
		18: {"18.6.0", 14856560, "1568b3805c3a3b99b5f4f0d7f6cf16e2a39075462ed47a614bfbabd92508350d"},
	},
	"linux-arm64v8-alpine": {
		16: {"16.15.0", 14000067, "1842bbbb3232a9f14fe86609d902f76a9b763b11f9bd1c46c1c33b6a2c874409"},
	},
	"darwin-amd64": {
		14: {"14.22.0", 28212448, "846e5bb797f372c8e370df51e4151f4e4237058e8c27cfcaf62aa93203a4c5b0"},
		15: {"15.19.0", 61269320, "11d0a55e26f4c74c6ea6c72c5e4e6ac959b29a06cc6da5e5ac8162f9fd9f8055"},
		16: {"16.15.0", 61884586, "1229188b99515d2160d5cb6222bc96d9c5f3a248268df3bc2dfe0047e6c233d8"},
		17: {"17.11.0", 62141006, "d464ff178e9860ba204662ac23fa547504b7fd392392ff2fb92e3fd73b5bdb64"},
		18: {"18.6.0", 71185174, "690941008aac9ee360820fde9bb7870a4f3dcac5e9e2f9e45e42333a436ad0f9"},
	},
	"darwin-arm64v8": {
		14: {"14.23.0", 28203296, "b3afa06270a5db96748ded366b9af590b29035ce16677e88c8ab65d0c455f613"},
		15: {"15.19.0", 61269320, "9bfc44d3f50298bb14fa125da4b67a36f382f8134ab2fc95349b72bcd5ec4e87"},
		16: {"16.15.0", 61884586, "65b953905f0a4d46030767a6b44a52360170d69a7985f1b02aa435f2f6256a83"},
		17: {"17.11.0", 62141006, "a1c2786acb0c398f9b2d76806fc52f5dc8b222cbc8e9383a9b9702084daaf3a5"},
		18: {"18.4.0", 33143779, "ab698c4486a795d2aa8a158b3a41e1201a77e7ff72a6255094cd5900080853c2"},
	},
}

// platform is how the archives for this machine are named.
func platform() string {
	_, err := os.Stat("/etc/alpine-release")
	return platformOf(runtime.GOOS, runtime.GOARCH, err == nil)
}

func platformOf(system, processor string, musl bool) string {
	if processor == "arm64" {
		processor = "arm64v8"
	}
	name := system + "-" + processor
	if musl {
		name += "-alpine"
	}
	return name
}

// pinFor is the pin of a major version, the newest one for 0.
func pinFor(platform string, major int) (pin, error) {
	majors := slices.Sorted(maps.Keys(pins[platform]))
	if len(majors) == 0 {
		return pin{}, fmt.Errorf("there is none to download for %s", platform)
	}
	if major == 0 {
		major = majors[len(majors)-1]
	}
	p, ok := pins[platform][major]
	if !ok {
		list := make([]string, len(majors))
		for i, m := range majors {
			list[i] = strconv.Itoa(m)
		}
		return pin{}, fmt.Errorf("there is no version %d to download for %s, only %s", major, platform, strings.Join(list, ", "))
	}
	return p, nil
}
