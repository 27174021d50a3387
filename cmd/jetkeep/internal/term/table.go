package term

import (
	"io"
	"strings"
	"unicode/utf8"
)

// Table lays out rows in columns as wide as their widest cell.
type Table struct {
	right []bool
	rows  [][]string
}

// NewTable starts a table. A heading that starts with > makes a column of
// amounts, which is aligned to the right.
func NewTable(headings ...string) *Table {
	t := &Table{}
	row := make([]string, len(headings))
	for i, heading := range headings {
		name, right := strings.CutPrefix(heading, ">")
		t.right = append(t.right, right)
		row[i] = name
	}
	t.rows = append(t.rows, row)
	return t
}

// Row adds a row, a cell for each column.
func (t *Table) Row(cells ...string) {
	row := make([]string, len(t.right))
	for i := range row {
		if i < len(cells) {
			row[i] = Printable(cells[i])
		}
	}
	t.rows = append(t.rows, row)
}

// Lines returns the table's lines.
func (t *Table) Lines() []string {
	widths := make([]int, len(t.right))
	for _, row := range t.rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	lines := make([]string, 0, len(t.rows))
	for _, row := range t.rows {
		var b strings.Builder
		for i, cell := range row {
			if i > 0 {
				b.WriteString("  ")
			}
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if t.right[i] {
				b.WriteString(pad + cell)
			} else {
				b.WriteString(cell + pad)
			}
		}
		lines = append(lines, strings.TrimRight(b.String(), " "))
	}
	return lines
}

// Write writes the table.
func (t *Table) Write(w io.Writer) error {
	_, err := io.WriteString(w, strings.Join(t.Lines(), "\n")+"\n")
	return err
}
