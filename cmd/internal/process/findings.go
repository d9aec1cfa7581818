package process

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// Findings are what is found in a configuration that is looked at and not started.
type Findings struct {
	// Wrong is what the start would refuse, Doubts what it would take and is probably not meant: each joins any number.
	Wrong, Doubts error
}

// WarnOf logs doubts, which join any number, in one line if there are any.
func WarnOf(logger *slog.Logger, doubts error) {
	var texts []string
	for _, doubt := range Each(doubts) {
		texts = append(texts, doubt.Error())
	}
	if len(texts) > 0 {
		logger.Warn("the configuration is probably not meant so", "doubts", texts)
	}
}

// Report writes one line for each, or ok if nothing is wrong. Its error says how many are.
func (f Findings) Report(w io.Writer) error {
	for _, doubt := range Each(f.Doubts) {
		fmt.Fprintln(w, "warning:", doubt)
	}
	mistakes := Each(f.Wrong)
	for _, mistake := range mistakes {
		fmt.Fprintln(w, "error:", mistake)
	}
	switch len(mistakes) {
	case 0:
		fmt.Fprintln(w, "ok")
		return nil
	case 1:
		return errors.New("there is a mistake in the configuration")
	}
	return fmt.Errorf("there are %d mistakes in the configuration", len(mistakes))
}
