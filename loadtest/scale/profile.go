package scale

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"weir/loadtest/target"
)

// deliverer is the function in which the one goroutine that serves a range gives its watchers their messages.
const deliverer = "weir/coalesce.(*broadcaster).turn"

// serialShare is the part of a server's processor time that deliverer took while f ran, for about a time. The server needs
// --enable-pprof.
func serialShare(ctx context.Context, s *target.Server, length time.Duration, f func() error) (float64, error) {
	var profile string
	taken := make(chan error, 1)
	go func() {
		var err error
		profile, err = s.Get(ctx, fmt.Sprintf("/debug/pprof/profile?seconds=%d", max(1, int(math.Round(length.Seconds())))))
		taken <- err
	}()
	if err := errors.Join(f(), <-taken); err != nil {
		return 0, err
	}
	file, err := os.CreateTemp("", "weir-profile-")
	if err != nil {
		return 0, fmt.Errorf("keep a profile: %w", err)
	}
	defer os.Remove(file.Name())
	_, err = file.WriteString(profile)
	if err := errors.Join(err, file.Close()); err != nil {
		return 0, fmt.Errorf("keep a profile: %w", err)
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "go", "tool", "pprof", "-top", "-cum", "-nodecount=10000", "-nodefraction=0", file.Name())
	cmd.Stderr = &stderr
	top, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("read a profile: %w\n%s", err, &stderr)
	}
	return cumulative(string(top), deliverer)
}

// cumulative is the part of all samples that have a function on their stack, of what go tool pprof -top prints: columns of flat, flat%,
// sum%, cum, cum% and the function's name.
func cumulative(top, function string) (float64, error) {
	const percent, name = 4, 5
	for line := range strings.Lines(top) {
		fields := strings.Fields(line)
		if len(fields) <= name || fields[name] != function {
			continue
		}
		share, err := strconv.ParseFloat(strings.TrimSuffix(fields[percent], "%"), 64)
		if err != nil {
			return 0, fmt.Errorf("read a profile: %w", err)
		}
		return share / 100, nil
	}
	return 0, fmt.Errorf("there is no %s in the profile: it has another name now, or nothing was delivered", function)
}
