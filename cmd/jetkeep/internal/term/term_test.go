package term

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

func TestAmounts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ got, want string }{
		{Bytes(0), "0 B"}, {Bytes(1023), "1023 B"}, {Bytes(1024), "1.0 KiB"},
		{Bytes(1<<20 - 1), "1.0 MiB"}, {Bytes(20 << 20), "20.0 MiB"}, {Bytes(1<<64 - 1), "16.0 EiB"},
		{Count(0), "0"}, {Count(999), "999"}, {Count(1000), "1,000"}, {Count(1234567), "1,234,567"},
		{Duration(420 * time.Millisecond), "0.42s"}, {Duration(12340 * time.Millisecond), "12.3s"},
		{Duration(59960 * time.Millisecond), "1m00s"}, {Duration(245 * time.Second), "4m05s"},
		{Duration(127 * time.Minute), "2h07m"}, {Duration(-1), "-"},
		{Percent(-1), "  ?%"}, {Percent(0), "  0%"}, {Percent(0.999), " 99%"}, {Percent(1), "100%"},
		{Plural(1, "stream"), "1 stream"}, {Plural(0, "stream"), "0 streams"}, {Plural(1200, "stream"), "1,200 streams"},
		{Bar(4, 0.5), "██░░"}, {Bar(4, 2), "████"}, {Bar(4, -1), "····"}, {Bar(0, 1), ""},
		{Clip("abcdef", 4), "abc…"}, {Clip("äöüß", 4), "äöüß"}, {Clip("ab", 0), ""},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

// show plays what a screen wrote on a terminal that knows the few sequences
// it may use, and fails on any other.
func show(t *testing.T, written string) string {
	t.Helper()
	var lines []string
	row := 0
	for len(written) > 0 {
		switch {
		case strings.HasPrefix(written, "\r"):
			written = written[1:]
		case strings.HasPrefix(written, "\x1b[J"):
			lines = lines[:min(row, len(lines))]
			written = written[3:]
		case strings.HasPrefix(written, "\x1b["):
			end := strings.IndexByte(written, 'A')
			if end < 0 {
				t.Fatalf("unknown sequence in %q", written)
			}
			up := 0
			for _, d := range written[2:end] {
				up = up*10 + int(d-'0')
			}
			if row -= up; row < 0 {
				t.Fatal("the cursor left the screen")
			}
			written = written[end+1:]
		default:
			line, rest, ok := strings.Cut(written, "\n")
			if !ok || strings.ContainsAny(line, "\x1b\r") {
				t.Fatalf("a line with control characters or no end: %q", line)
			}
			lines = append(lines[:row], line)
			row++
			written = rest
		}
	}
	return strings.Join(lines, "\n")
}

func TestScreenRedraws(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	width := 20
	s := NewScreen(&out, func() int { return width })
	s.Draw([]string{"one", "two"})
	s.Draw([]string{"one done", "two", "three"})
	s.Print([]string{"this stays and may be longer than the terminal"}, []string{"a line that is wider than the terminal"})
	width = 10
	s.Draw([]string{"bell \a\x1b[2J"})
	want := "this stays and may be longer than the terminal\nbell ??[…"
	if got := show(t, out.String()); got != want {
		t.Errorf("the screen shows\n%q, want\n%q", got, want)
	}
	s.Print([]string{"end"}, nil)
	want = "this stays and may be longer than the terminal\nend"
	if got := show(t, out.String()); got != want {
		t.Errorf("the screen shows\n%q, want\n%q", got, want)
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	table := NewTable("stream", ">messages", "verdict")
	table.Row("ORDERS", "1,000", "same")
	table.Row("Übung", "7")
	table.Row("bad\nname", "12", "")
	var out bytes.Buffer
	if err := table.Write(&out); err != nil {
		t.Fatal(err)
	}
	want := "stream    messages  verdict\n" +
		"ORDERS       1,000  same\n" +
		"Übung            7\n" +
		"bad?name        12\n"
	if out.String() != want {
		t.Errorf("got\n%s", out.String())
	}
}

func TestWidthKnowsWhatIsNoTerminal(t *testing.T) {
	t.Parallel()
	if _, ok := Width(io.Discard); ok {
		t.Error("a discarding writer is taken for a terminal")
	}
	file, err := os.Create(t.TempDir() + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	if _, ok := Width(file); ok {
		t.Error("a file is taken for a terminal")
	}
}
