// Package term writes for people: amounts, tables, bars, and on a terminal
// lines that are drawn again as things move on.
//
// A Screen never writes a line wider than the terminal, because a wrapped line
// would break the redrawing, and never passes on a control character: what it
// shows comes from servers. It uses plain ANSI sequences only.
package term

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// defaultWidth is assumed where the terminal does not say.
const defaultWidth = 80

// Width returns the width of the terminal behind w, and whether it is one.
func Width(w io.Writer) (int, bool) {
	file, ok := w.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" {
		return defaultWidth, false
	}
	width, ok := terminalWidth(file)
	if ok && width <= 0 {
		width = defaultWidth
	}
	return width, ok
}

// Screen draws a block of lines at the bottom of a terminal.
type Screen struct {
	out   io.Writer
	width func() int

	mu    sync.Mutex
	drawn int
}

// NewScreen returns a screen on out; width is asked at each drawing, so that
// the terminal may be resized.
func NewScreen(out io.Writer, width func() int) *Screen { return &Screen{out: out, width: width} }

// Draw replaces the block.
func (s *Screen) Draw(lines []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.write(nil, lines)
}

// Print writes lines that stay, above the block, and draws the block again.
func (s *Screen) Print(stay, lines []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.write(stay, lines)
}

// write builds everything first and writes once, so that nothing flickers.
func (s *Screen) write(stay, lines []string) {
	width := max(s.width(), 1)
	var b strings.Builder
	b.WriteString("\r")
	if s.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", s.drawn)
	}
	b.WriteString("\x1b[J")
	for _, line := range stay {
		b.WriteString(Printable(line) + "\n")
	}
	for _, line := range lines {
		// A full line would move the cursor to the next one on some terminals.
		b.WriteString(Clip(Printable(line), width-1) + "\n")
	}
	s.drawn = len(lines)
	_, _ = io.WriteString(s.out, b.String())
}

// Printable replaces control characters, which could steer the terminal.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s)
}

// Clip cuts a string to a number of characters.
func Clip(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	runes := []rune(s)
	if width < 1 {
		return ""
	}
	return string(runes[:width-1]) + "…"
}

// Bar draws how much of width is done; a fraction below 0 means unknown.
func Bar(width int, fraction float64) string {
	if width < 1 {
		return ""
	}
	if fraction < 0 {
		return strings.Repeat("·", width)
	}
	full := int(min(fraction, 1) * float64(width))
	return strings.Repeat("█", full) + strings.Repeat("░", width-full)
}

// Percent is a fraction for people; it says 100 only when all is done.
func Percent(fraction float64) string {
	switch {
	case fraction < 0:
		return "  ?%"
	case fraction >= 1:
		return "100%"
	}
	return fmt.Sprintf("%3d%%", min(int(fraction*100), 99))
}

// Count groups digits: 12,345.
func Count(n uint64) string {
	digits := strconv.FormatUint(n, 10)
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return b.String()
}

// Bytes is an amount of bytes for people: 20.4 MiB.
func Bytes(n uint64) string {
	if n < 1024 {
		return strconv.FormatUint(n, 10) + " B"
	}
	value, unit := float64(n)/1024, 0
	for value >= 1023.95 && unit < 5 {
		value, unit = value/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTPE"[unit])
}

// Duration is a time span for people: 0.42s, 12.3s, 4m05s, 2h07m.
func Duration(d time.Duration) string {
	switch {
	case d < 0:
		return "-"
	case d < 10*time.Second:
		return fmt.Sprintf("%.2fs", d.Seconds())
	case d < 59950*time.Millisecond:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Hour:
		d = d.Round(time.Second)
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	d = d.Round(time.Minute)
	return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
}

// Plural is a number with its noun: 1 stream, 2 streams.
func Plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return Count(uint64(max(n, 0))) + " " + noun + "s"
}
