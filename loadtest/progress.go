package main

import (
	"cmp"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// progress shows how far a run has come: on one line that is drawn again and again if it goes to a terminal, else on a line for
// each step. What else goes to the same terminal is printed between clear and the next show.
type progress struct {
	out   *os.File
	width int       // of the terminal, 0 if there is none
	began time.Time // the first step; zero before
}

func newProgress(out *os.File) *progress {
	p := &progress{out: out}
	if size, err := unix.IoctlGetWinsize(int(out.Fd()), unix.TIOCGWINSZ); err == nil {
		p.width = cmp.Or(int(size.Col), 80) // some do not know
	}
	return p
}

// clear takes the line away.
func (p *progress) clear() {
	if p.width > 0 {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}

// say prints a line that stays.
func (p *progress) say(line string) {
	p.clear()
	fmt.Fprintln(p.out, line)
}

// show tells that so many steps are done of all, and what is done now. What is done as long as there are none is no part of the time
// that they take.
func (p *progress) show(done, all int, now string) {
	if all > 0 && p.began.IsZero() {
		p.began = time.Now()
	}
	line := progressLine(done, all, time.Since(p.began), now)
	if p.width == 0 {
		p.say(line)
		return
	}
	p.clear()
	runes := []rune(bar(done, all) + " " + line)
	fmt.Fprint(p.out, string(runes[:min(len(runes), p.width-1)]))
}

// progressLine says the same in words. The steps that are left are taken to be as long as the others were.
func progressLine(done, all int, took time.Duration, now string) string {
	if all == 0 {
		return now
	}
	line := fmt.Sprintf("%d of %d turns", done, all)
	if done > 0 && done < all {
		left := took / time.Duration(done) * time.Duration(all-done)
		line += fmt.Sprintf(", %v left", left.Round(time.Second))
	}
	return line + ": " + now
}

func bar(done, all int) string {
	const width = 20
	full := width * done / max(all, 1)
	return "[" + strings.Repeat("#", full) + strings.Repeat("-", width-full) + "]"
}
