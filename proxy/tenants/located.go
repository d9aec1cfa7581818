package tenants

import (
	"errors"
	"fmt"
	"strconv"

	"go.yaml.in/yaml/v2"
)

// located is something in the tenants file, and where.
type located[T any] struct {
	value T
	line  int // 0 if it is not there, or is null
}

// UnmarshalYAML is part of yaml.Unmarshaler.
func (l *located[T]) UnmarshalYAML(unmarshal func(any) error) error {
	l.line = lineOf(unmarshal)
	return unmarshal(&l.value)
}

// lineOf is where that stands which unmarshal has: this version of the decoder tells it in its errors only.
func lineOf(unmarshal func(any) error) int {
	var fitsNothing chan struct{}
	var all *yaml.TypeError
	if errors.As(unmarshal(&fitsNothing), &all) {
		if m := inLine.FindStringSubmatch(all.Errors[0]); m != nil {
			line, err := strconv.Atoi(m[1])
			if err == nil {
				return line
			}
		}
	}
	return 0
}

func (l *located[T]) given() bool { return l.line > 0 }

// errorf is an error about l, as what comes after the file's name.
func (l *located[T]) errorf(format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	if !l.given() {
		return errors.New(": " + text)
	}
	return fmt.Errorf(":%d: %s", l.line, text)
}
