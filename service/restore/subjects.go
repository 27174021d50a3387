package restore

import "strings"

// overlap tells whether one subject could match both filters.
func overlap(a, b string) bool {
	for {
		ta, ra, moreA := strings.Cut(a, ".")
		tb, rb, moreB := strings.Cut(b, ".")
		if ta == ">" || tb == ">" {
			return true
		}
		if ta != tb && ta != "*" && tb != "*" {
			return false
		}
		if moreA != moreB {
			return false
		}
		if !moreA {
			return true
		}
		a, b = ra, rb
	}
}

// overlapping returns the first pair of subjects that overlap.
func overlapping(as, bs []string) (string, string, bool) {
	for _, a := range as {
		for _, b := range bs {
			if overlap(a, b) {
				return a, b, true
			}
		}
	}
	return "", "", false
}
