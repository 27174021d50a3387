package main

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

const (
	passed = `{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:1: hello\n"}
{"Action":"pass","Package":"p","Test":"TestA","Elapsed":2.5}
{"Action":"pass","Package":"p","Elapsed":2.6}
`
	failed = `{"Action":"output","Package":"p","Test":"TestB","Output":"    b_test.go:1: why\n"}
{"Action":"fail","Package":"p","Test":"TestB","Elapsed":0.1}
{"Action":"fail","Package":"p","Elapsed":0.2}
`
	skipped = `{"Action":"skip","Package":"p","Test":"TestC","Elapsed":0}
{"Action":"pass","Package":"p","Elapsed":0.2}
`
	unbuilt = `{"ImportPath":"p","Action":"build-output","Output":"p.go:1: bad\n"}
{"Action":"fail","Package":"p","Elapsed":0,"FailedBuild":"p"}
`
	empty = `{"Action":"skip","Package":"p","Elapsed":0}
`
)

func TestSummary(t *testing.T) {
	for name, c := range map[string]struct {
		in, says, err string
		show          string
	}{
		"passed":           {in: passed, says: "1 passed, 0 failed, 0 skipped"},
		"shown":            {in: passed, says: "hello", show: "^TestA$"},
		"slow":             {in: passed, says: "slow test    2.5s p.TestA"},
		"slow package":     {in: passed, says: "slow package    2.6s p"},
		"failed":           {in: passed + failed, says: "b_test.go:1: why", err: "2 tests or packages failed"},
		"skipped":          {in: passed + skipped, says: "1 passed, 0 failed, 1 skipped", err: "skipped: p.TestC"},
		"does not build":   {in: passed + unbuilt, says: "p.go:1: bad", err: "1 tests or packages failed"},
		"nothing":          {in: "", says: "0 passed", err: "no test ran"},
		"only empty":       {in: empty, says: "0 passed, 0 failed, 0 skipped", err: "no test ran"},
		"text from a tool": {in: passed + "go: strange\n", says: "go: strange"},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			s := newSummary(&out, nil)
			if c.show != "" {
				s.show = regexp.MustCompile(c.show)
			}
			if err := s.read(strings.NewReader(c.in)); err != nil {
				t.Fatal(err)
			}
			err := s.finish()
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("error is %v, want %q", err, c.err)
			}
			if !strings.Contains(out.String(), c.says) {
				t.Errorf("%q is not in:\n%s", c.says, out.String())
			}
		})
	}
}

func TestOutputOfPassedTestsIsNotShown(t *testing.T) {
	var out strings.Builder
	s := newSummary(&out, nil)
	if err := s.read(strings.NewReader(passed)); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "hello") {
		t.Errorf("shown:\n%s", out.String())
	}
}

func TestRunsAreApart(t *testing.T) {
	got := fmt.Sprint(runs(strings.Fields("-race -skip=X ./a ./b -- -run=X -- -run=Y ./c --")))
	if want := "[[-race -skip=X ./a ./b] [-run=Y ./c]]"; got != want {
		t.Errorf("runs are %s, want %s", got, want)
	}
}

// A package may be in two runs: each counts its own tests.
func TestPackageOfTwoRuns(t *testing.T) {
	var out strings.Builder
	s := newSummary(&out, nil)
	for range 2 {
		if err := s.read(strings.NewReader(passed)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.finish(); err != nil || strings.Count(out.String(), "    1 tests") != 2 || !strings.Contains(out.String(), "2 passed,") {
		t.Errorf("%v:\n%s", err, out.String())
	}
}
