package process

import (
	"bytes"
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v2"
)

// FileForm is how a program's configuration file differs from YAML whose keys are the names of flags, and whose values are
// theirs. The zero value is no difference.
type FileForm struct {
	// Sections are keys that hold keys, and the flags that those stand for.
	Sections map[string]map[string]string
	// Ignored are keys that are somebody else's.
	Ignored []string
	// Nanoseconds says that a whole number is a duration in nanoseconds; else a duration needs its unit.
	Nanoseconds bool
}

// ReadFile sets flags from a configuration file, but those that are already given: what is nearer to who starts the program
// counts more. It reads the file each time it is called. A key without a value sets nothing. Whatever is not understood is refused,
// since a setting that is silently not there may mean an empty store: unknown keys, a key that is there twice, a value of
// another type than the flag's. The error is of all mistakes, each one line that names the file and the line in it, and none
// has a value of the file in it if the flag is Secret. After an error some flags may be set: the set is of no more use.
//
// The decoder is the one that etcd's files are read with (YAML 1.1, in which yes is true), and it tells lines only in its errors;
// see whereIs. The rejected alternative, a newer one that tells them, takes some of etcd's files for something else.
func (f *Flags) ReadFile(path string, form FileForm) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read --config-file: %w: give a file that this user can read", err)
	}
	entries, err := parseFile(text)
	if err != nil {
		return fmt.Errorf("%s%w", path, err)
	}
	r := fileReader{flags: f, path: path, form: form, lines: map[string]int{}}
	f.VisitAll(func(fl *flag.Flag) {
		if f.Given(fl.Name) {
			r.given = append(r.given, fl.Name)
		}
	})
	r.keys("", entries)
	return r.wrong.Err()
}

// fileReader is the reading of one file.
type fileReader struct {
	flags *Flags
	path  string
	form  FileForm
	given []string       // flags that the file does not count for
	lines map[string]int // where the file has which flag
	wrong Mistakes
}

func (r *fileReader) refuse(line int, format string, args ...any) {
	at := r.path
	if line > 0 {
		at += ":" + strconv.Itoa(line)
	}
	r.wrong.Addf("%s: %w", at, fmt.Errorf(format, args...))
}

// keys takes the keys of the file, or of a section of it.
func (r *fileReader) keys(section string, entries map[fileKey]fileValue) {
	seen := map[string]int{}
	for _, k := range slices.SortedFunc(maps.Keys(entries), fileKey.compare) {
		name := strings.TrimPrefix(section+"."+k.name, ".")
		if before, twice := seen[k.name]; twice {
			r.refuse(k.line, "the key %s is in line %d too: remove one", name, before)
			continue
		}
		seen[k.name] = k.line
		v := entries[k]
		switch flags, isSection := r.form.Sections[k.name]; {
		case section != "":
			r.key(k.line, name, r.form.Sections[section][k.name], v)
		case slices.Contains(r.form.Ignored, k.name):
		case !isSection:
			r.key(k.line, name, k.name, v)
		case v.keys == nil && v.given:
			r.refuse(k.line, "%s must have keys below it: %s", name, strings.Join(slices.Sorted(maps.Keys(flags)), ", "))
		default:
			r.keys(k.name, v.keys)
		}
	}
}

// key sets a flag to the value of a key.
func (r *fileReader) key(line int, key, flagName string, v fileValue) {
	fl := r.flags.Lookup(flagName)
	switch before, twice := r.lines[flagName]; {
	case fl == nil || slices.Contains(notInFiles, flagName):
		r.refuse(line, "unknown key %s: leave it out, or see --help", key)
		return
	case !v.given: // as in etcd's sample, in which most keys have none
		return
	case twice:
		r.refuse(line, "%s is --%s, as is line %d: remove one", key, flagName, before)
		return
	}
	r.lines[flagName] = line
	settings, err := r.settings(fl, v)
	if err != nil {
		r.refuse(v.line, "%s %w", key, err)
		return
	}
	if slices.Contains(r.given, flagName) {
		return
	}
	for _, s := range settings {
		switch err := r.flags.Set(flagName, s); {
		case errors.Is(err, ErrNotThere):
			r.refuse(v.line, "weir does not have %s yet, leave it out", key)
			return
		case err != nil && r.flags.isSecret(flagName):
			r.refuse(v.line, "%s has a value that is not possible", key)
			return
		case err != nil:
			r.refuse(v.line, "%s has the invalid value %q: %w", key, s, howTo(fl, err))
			return
		}
	}
	r.flags.fromFile[flagName] = fmt.Sprintf("%s:%d", r.path, line)
}

// notInFiles are flags that make no sense there.
var notInFiles = []string{"config-file", "version"}

// settings are what the flag has to be set to, one after the other, for the value of its key.
func (r *fileReader) settings(fl *flag.Flag, v fileValue) ([]string, error) {
	if v.keys != nil {
		return nil, errors.New("must have a value, and no keys below it")
	}
	if v.list == nil {
		s, err := r.setting(fl, v)
		return []string{s}, err
	}
	if !slices.Contains(r.flags.lists, fl.Name) {
		return nil, errors.New("must have one value, not a list")
	}
	var elements []string
	for _, e := range v.list {
		if !e.given || e.list != nil || e.keys != nil {
			return nil, errors.New("must be a list of plain values")
		}
		s, err := r.setting(fl, e)
		if err != nil {
			return nil, err
		}
		elements = append(elements, s)
	}
	if _, isText := get(fl).(string); isText {
		return []string{strings.Join(elements, ",")}, nil
	}
	return elements, nil // one by one
}

// setting is a plain value as on a command line.
func (r *fileReader) setting(fl *flag.Flag, v fileValue) (string, error) {
	switch get(fl).(type) {
	case bool:
		if on, ok := v.plain.(bool); ok {
			return strconv.FormatBool(on), nil
		}
		return "", errors.New("must be true or false, without quotes")
	case int, int64, uint, uint64:
		switch v.plain.(type) {
		case int, int64, uint64:
			return fmt.Sprint(v.plain), nil
		}
		return "", errors.New("must be a whole number, without a unit and quotes, as in 1048576")
	case float64:
		switch v.plain.(type) {
		case int, int64, uint64, float64:
			return fmt.Sprint(v.plain), nil
		}
		return "", errors.New("must be a number, without a unit and quotes")
	case time.Duration:
		switch d := v.plain.(type) {
		case int:
			if r.form.Nanoseconds || d == 0 {
				return time.Duration(d).String(), nil
			}
		case string:
			return d, nil
		}
		return "", errors.New("must be a duration with its unit, as in 5s")
	}
	return v.text, nil // as it is written: 0123 may be a password
}

// get is the value of a flag, of its type; nil if it is of a kind of its own.
func get(fl *flag.Flag) any {
	if getter, ok := fl.Value.(flag.Getter); ok {
		return getter.Get()
	}
	if b, ok := fl.Value.(interface{ IsBoolFlag() bool }); ok && b.IsBoolFlag() {
		return false
	}
	return nil
}

// fileKey is a key of a file. A struct, because one that is there twice is told of with both lines.
type fileKey struct {
	name string
	line int
}

func (k fileKey) compare(other fileKey) int {
	return cmp.Or(cmp.Compare(k.line, other.line), cmp.Compare(k.name, other.name))
}

// UnmarshalYAML is part of yaml.Unmarshaler.
func (k *fileKey) UnmarshalYAML(unmarshal func(any) error) error {
	k.line = whereIs(unmarshal)
	return unmarshal(&k.name)
}

// fileValue is what a key has. The zero value is nothing, as in `key:`.
type fileValue struct {
	given bool
	line  int
	plain any    // of a value that is one thing, of its type in YAML
	text  string // the same as it is written
	list  []fileValue
	keys  map[fileKey]fileValue
}

// UnmarshalYAML is part of yaml.Unmarshaler.
func (v *fileValue) UnmarshalYAML(unmarshal func(any) error) error {
	v.given, v.line = true, whereIs(unmarshal)
	if unmarshal(&v.list) == nil && v.list != nil {
		return nil
	}
	v.list = nil
	var section yaml.MapSlice
	if unmarshal(&section) == nil {
		v.keys = map[fileKey]fileValue{}
		return unmarshal(&v.keys)
	}
	if err := unmarshal(&v.plain); err != nil {
		return err
	}
	return unmarshal(&v.text)
}

// whereIs is the line of what unmarshal has.
func whereIs(unmarshal func(any) error) int {
	var fitsNothing chan struct{}
	var all *yaml.TypeError
	if errors.As(unmarshal(&fitsNothing), &all) {
		if m := lineOf.FindStringSubmatch(all.Errors[0]); m != nil {
			line, _ := strconv.Atoi(m[1]) // it has only digits
			return line
		}
	}
	return 0
}

var lineOf = regexp.MustCompile(`(?s)^(?:yaml: )?line (\d+): (.*)$`)

// parseFile reads the keys of a file. Its errors are what comes after the file's name.
func parseFile(text []byte) (map[fileKey]fileValue, error) {
	var entries map[fileKey]fileValue
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	if err := decoder.Decode(&entries); err != nil && !errors.Is(err, io.EOF) {
		return nil, unreadable(err)
	}
	if err := decoder.Decode(&yaml.MapSlice{}); !errors.Is(err, io.EOF) {
		return nil, errors.New(": there is a second document, which would not be read: leave only one")
	}
	return entries, nil
}

// unreadable says what the decoder has to say of a file that is not keys with values, without what is quoted from there: it may be a
// part of a password.
func unreadable(err error) error {
	var all *yaml.TypeError
	if errors.As(err, &all) {
		at := ""
		if m := lineOf.FindStringSubmatch(all.Errors[0]); m != nil {
			at = ":" + m[1]
		}
		return errors.New(at + ": it must be keys with values, as in name: value")
	}
	text, at := strings.Join(strings.Fields(err.Error()), " "), ": it is not YAML: "
	if m := lineOf.FindStringSubmatch(text); m != nil {
		at, text = ":"+m[1]+": it is not YAML: ", m[2]
	}
	text = quoted.ReplaceAllString(strings.TrimPrefix(text, "yaml: "), "…")
	return errors.New(at + text + ". A value with special characters is written in quotes")
}

var quoted = regexp.MustCompile("'.*'|`.*`|\".*\"|: map\\[.*|, \\S+$")
