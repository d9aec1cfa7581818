package scale

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// busy is what /proc/stat says of this machine's processor time since it was started, in ticks: see proc_stat(5).
type busy struct{ idle, all float64 }

func readBusy() (busy, error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return busy{}, fmt.Errorf("read how busy the machine is: %w", err)
	}
	return parseBusy(string(stat))
}

func parseBusy(stat string) (b busy, err error) {
	const idle, wait, guest = 3, 4, 8 // of the numbers; guests' time is in others too
	line, _, _ := strings.Cut(stat, "\n")
	fields := strings.Fields(line)
	if len(fields) <= wait || fields[0] != "cpu" {
		return b, fmt.Errorf("read how busy the machine is: %q is not as proc_stat(5) says", line)
	}
	for i, field := range fields[1:min(len(fields), guest+1)] {
		n, err := strconv.ParseFloat(field, 64)
		if err != nil {
			return b, fmt.Errorf("read how busy the machine is: %w", err)
		}
		b.all += n
		if i == idle || i == wait {
			b.idle += n
		}
	}
	return b, nil
}

// since is the part of all cores that was busy since an earlier moment.
func (b busy) since(earlier busy) float64 {
	if b.all <= earlier.all {
		return 0 // less than a tick
	}
	return 1 - (b.idle-earlier.idle)/(b.all-earlier.all)
}
