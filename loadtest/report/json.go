package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// WriteJSON writes the report on one line, so that Read gives the same again. Numbers are in the units that the names say.
func WriteJSON(w io.Writer, r *Report) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	if err := e.Encode(r); err != nil {
		return fmt.Errorf("writing the report as JSON: %w", err)
	}
	return nil
}

// WriteJSON writes the section on one line, for ReadSection.
func (s *Section) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		return fmt.Errorf("writing a report's section as JSON: %w", err)
	}
	return nil
}

// Read reads what WriteJSON has written. A field that is not known is an error, for it may hold what the report must say; so
// are results of systems that the report does not have, and names that stand twice.
func Read(from io.Reader) (*Report, error) {
	var r Report
	if err := read(from, &r, r.check); err != nil {
		return nil, fmt.Errorf("reading a report: %w", err)
	}
	return &r, nil
}

// ReadSection reads what a section's WriteJSON has written, as Read does.
func ReadSection(from io.Reader) (*Section, error) {
	var s Section
	if err := read(from, &s, s.check); err != nil {
		return nil, fmt.Errorf("reading a report's section: %w", err)
	}
	return &s, nil
}

// read reads one value, which is then checked, and that there is nothing else.
func read(from io.Reader, into any, check func() error) error {
	d := json.NewDecoder(from)
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more after it")
	}
	return check()
}

// check tells what in a section could not be shown.
func (s *Section) check() error {
	if s.Title == "" {
		return errors.New("a section has no title")
	}
	for _, t := range s.Tables {
		if err := t.check(); err != nil {
			return fmt.Errorf("section %q: %w", s.Title, err)
		}
	}
	return nil
}

// check tells what in a report could not be shown.
func (r *Report) check() error {
	systems, bases := map[string]bool{}, 0
	for _, s := range r.Systems {
		if systems[s.Name] {
			return fmt.Errorf("system %q stands there twice", s.Name)
		}
		systems[s.Name] = true
		if s.Base {
			bases++
		}
	}
	if bases > 1 {
		return fmt.Errorf("%d systems are the base of ratios", bases)
	}
	scenarios := map[string]bool{}
	for _, s := range r.Scenarios {
		if scenarios[s.Name] {
			return fmt.Errorf("scenario %q stands there twice", s.Name)
		}
		scenarios[s.Name] = true
		results := map[string]bool{}
		for _, result := range s.Results {
			if !systems[result.System] {
				return fmt.Errorf("scenario %q has a result of %q, which is no system of the report", s.Name, result.System)
			}
			if results[result.System] {
				return fmt.Errorf("scenario %q has two results of %q", s.Name, result.System)
			}
			results[result.System] = true
		}
	}
	for i := range r.Tables {
		if err := r.Tables[i].check(); err != nil {
			return err
		}
	}
	return nil
}
