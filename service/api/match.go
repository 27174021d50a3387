package api

import "strings"

// IsPattern tells whether p is a pattern of stream names and not one of them.
func IsPattern(p string) bool { return strings.ContainsAny(p, "*?") }

// Match tells whether the name s matches p, where * stands for any characters
// and ? for one. It takes time proportional to the product of their lengths at
// most.
func Match(p, s string) bool {
	ps, rs := []rune(p), []rune(s)
	i, j := 0, 0
	star, mark := -1, 0
	for j < len(rs) {
		switch {
		case i < len(ps) && ps[i] == '*':
			star, mark = i, j
			i++
		case i < len(ps) && (ps[i] == '?' || ps[i] == rs[j]):
			i++
			j++
		case star >= 0:
			mark++
			i, j = star+1, mark
		default:
			return false
		}
	}
	for i < len(ps) && ps[i] == '*' {
		i++
	}
	return i == len(ps)
}
