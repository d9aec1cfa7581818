package main

import (
	"bytes"
	"errors"
	"flag"
	"strings"
	"testing"
)

// Whoever asks for help gets it, and no error that is one to a shell.
func TestHelpIsNoError(t *testing.T) {
	for _, args := range []string{"help", "-help", "--help", "-h", "bench -help", "bench memory -help", "bench scale -h", "report -help", "differential -help"} {
		if err := run(t.Context(), strings.Fields(args)); err != nil && !errors.Is(err, flag.ErrHelp) {
			t.Errorf("%s: %v", args, err)
		}
	}
}

func TestUnknownCommandIsNamed(t *testing.T) {
	for args, want := range map[string]string{
		"":                    "what to do?",
		"measure":             `no command "measure"`,
		"bench everything":    `no command "bench everything"`,
		"bench scale more":    `does not know "more"`,
		"report":              "of what?",
		"report a.json b":     `does not know "b"`,
		"report /not/here.js": "read a report",
	} {
		if err := run(t.Context(), strings.Fields(args)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", args, err, want)
		}
	}
}

func TestUsageNamesEveryCommand(t *testing.T) {
	var out bytes.Buffer
	if err := usage(&out, "loadtest", commands()); err != nil {
		t.Fatal(err)
	}
	for _, c := range commands() {
		if !strings.Contains(out.String(), "\n  "+c.name+" ") {
			t.Errorf("%s is not in the usage", c.name)
		}
	}
}
