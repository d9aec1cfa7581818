package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// DefaultRotation is etcd's default of --log-rotation-config-json.
const DefaultRotation = `{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}`

// Rotation is when a log file is put aside for a new one, and what becomes of the old ones.
type Rotation struct {
	MaxSize    int  `json:"maxsize"`    // of a file, in MiB; 0 is 100
	MaxAge     int  `json:"maxage"`     // of old files, in days; 0 is no limit
	MaxBackups int  `json:"maxbackups"` // how many old files are kept; 0 is all
	LocalTime  bool `json:"localtime"`  // names of old files are in local time, not UTC
	Compress   bool `json:"compress"`   // old files, with gzip
}

// ParseRotation reads the value of --log-rotation-config-json. Unlike etcd it refuses what it does not know: a limit that
// is misspelt is no limit.
func ParseRotation(text string) (*Rotation, error) {
	var r Rotation
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	err := d.Decode(&r)
	if err == nil && !errors.Is(d.Decode(&struct{}{}), io.EOF) {
		err = errors.New("it goes on after the object")
	}
	if err != nil {
		return nil, fmt.Errorf("malformed --log-rotation-config-json: %w: give it as %s", err, DefaultRotation)
	}
	if r.MaxSize < 0 || r.MaxAge < 0 || r.MaxBackups < 0 {
		return nil, errors.New("--log-rotation-config-json has a negative limit: 0 is no limit")
	}
	return &r, nil
}
