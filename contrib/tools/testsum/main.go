// Command testsum runs `go test -json` and says what happened: each package's
// result, the output of each failed test, the slowest packages and tests and the
// totals.
//
//	testsum [-show REGEXP] -- ARGUMENTS [-- ARGUMENTS]...
//
// Each "--" begins the arguments of another run of go test, which follows the one
// before whatever became of that. A run that names no package is left out; flags
// must therefore be written with "=". -show prints the output of the tests so
// named though they pass.
//
// It fails if a run of go test does, and also if a test was skipped or none ran:
// a test that cannot run is not one that passed.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"
)

// event is one line of `go test -json`.
type event struct {
	Action     string
	Package    string
	ImportPath string // of build output
	Test       string
	Elapsed    float64
	Output     string
}

type result struct {
	name    string
	elapsed float64
}

type summary struct {
	out     io.Writer
	show    *regexp.Regexp // nil shows none
	output  map[string][]string
	counts  map[string]int // tests by pass, fail, skip
	inside  map[string]int // finished tests by package
	skipped []string
	failed  []string // tests, and packages without a failed test
	times   []result // of tests
	whole   []result // of packages
}

func newSummary(out io.Writer, show *regexp.Regexp) *summary {
	return &summary{out: out, show: show, output: map[string][]string{}, counts: map[string]int{}, inside: map[string]int{}}
}

func main() {
	show := flag.String("show", "", "print the output of tests whose name matches")
	flag.Parse()
	if err := run(*show, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
		os.Exit(1)
	}
}

func run(show string, args []string) error {
	var pattern *regexp.Regexp
	if show != "" {
		var err error
		if pattern, err = regexp.Compile(show); err != nil {
			return err
		}
	}
	s := newSummary(os.Stdout, pattern)
	var errs []error
	for _, r := range runs(args) {
		if err := s.runTests(r); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, s.finish())...)
}

// runs returns the arguments of each run of go test that names a package.
func runs(args []string) [][]string {
	var all [][]string
	for len(args) > 0 {
		n := slices.Index(args, "--")
		if n < 0 {
			n = len(args)
		}
		if slices.ContainsFunc(args[:n], func(a string) bool { return !strings.HasPrefix(a, "-") }) {
			all = append(all, args[:n])
		}
		args = args[min(n+1, len(args)):]
	}
	return all
}

// runTests runs go test once.
func (s *summary) runTests(args []string) error {
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	readErr := s.read(pipe)
	return errors.Join(readErr, cmd.Wait())
}

func (s *summary) read(r io.Reader) error {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				fmt.Fprintf(s.out, "%s", line) // a tool of go's that speaks no JSON
			} else {
				s.add(e)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read test output: %w", err)
		}
	}
}

func (s *summary) add(e event) {
	name := strings.TrimSuffix(e.Package+"."+e.Test, ".")
	switch e.Action {
	case "output":
		s.output[name] = append(s.output[name], e.Output)
	case "build-output":
		fmt.Fprint(s.out, e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			s.endPackage(e, name)
		} else {
			s.endTest(e, name)
		}
		delete(s.output, name)
	}
}

func (s *summary) endTest(e event, name string) {
	s.counts[e.Action]++
	s.inside[e.Package]++
	s.times = append(s.times, result{name, e.Elapsed})
	switch {
	case e.Action == "fail":
		s.failed = append(s.failed, name)
		s.print(name, "FAIL ")
	case e.Action == "skip":
		s.skipped = append(s.skipped, name)
		s.print(name, "SKIP ")
	case s.show != nil && s.show.MatchString(e.Test):
		s.print(name, "")
	}
}

func (s *summary) endPackage(e event, name string) {
	n := s.inside[e.Package]
	delete(s.inside, e.Package) // a later run may have tests of it, too
	s.whole = append(s.whole, result{name, e.Elapsed})
	switch {
	case e.Action == "fail":
		s.failed = append(s.failed, name)
		s.print(name, "FAIL ")
	case n > 0:
		fmt.Fprintf(s.out, "ok   %-44s %6.1fs %5d tests\n", name, e.Elapsed, n)
	}
}

func (s *summary) print(name, title string) {
	fmt.Fprintf(s.out, "%s%s\n", title, name)
	for _, line := range s.output[name] {
		if !strings.HasPrefix(line, "=== ") {
			fmt.Fprint(s.out, "     ", line)
		}
	}
}

// finish prints the totals and says whether they are good.
func (s *summary) finish() error {
	s.printSlowest("package", s.whole)
	s.printSlowest("test", s.times)
	for _, name := range s.failed {
		fmt.Fprintln(s.out, "failed:", name)
	}
	fmt.Fprintf(s.out, "%d passed, %d failed, %d skipped\n", s.counts["pass"], s.counts["fail"], s.counts["skip"])
	switch {
	case len(s.failed) > 0:
		return fmt.Errorf("%d tests or packages failed", len(s.failed))
	case len(s.skipped) > 0:
		return fmt.Errorf("skipped: %s", strings.Join(s.skipped, ", "))
	case s.counts["pass"] == 0:
		return errors.New("no test ran")
	}
	return nil
}

// printSlowest prints what took longest, and longer than a second.
func (s *summary) printSlowest(what string, all []result) {
	slices.SortStableFunc(all, func(a, b result) int { return cmp.Compare(b.elapsed, a.elapsed) })
	const shown = 12
	for _, r := range all[:min(shown, len(all))] {
		if r.elapsed >= 1 {
			fmt.Fprintf(s.out, "slow %s %7s %s\n", what, time.Duration(r.elapsed*float64(time.Second)).Round(100*time.Millisecond), r.name)
		}
	}
}
