package transfer

import (
	"slices"

	"jetkeep/service/api"
)

// A Selection says which streams are meant, in the way of requests to the
// service: by names and by patterns, in which * stands for any characters and ?
// for one. An empty one means all streams. jetkeep's own streams, which hold its
// secrets, match no pattern: they are meant only by their names.
type Selection []string

// Means tells whether a stream is meant.
func (s Selection) Means(stream string) bool {
	if api.Reserved(stream) {
		return slices.Contains(s, stream)
	}
	return s.matches(stream)
}

// PassesOver tells whether a stream is not meant only because it is jetkeep's
// own.
func (s Selection) PassesOver(stream string) bool {
	return s.matches(stream) && !s.Means(stream)
}

func (s Selection) matches(stream string) bool {
	return len(s) == 0 || slices.ContainsFunc(s, func(p string) bool { return api.Match(p, stream) })
}

// Named tells whether all streams that are meant are named.
func (s Selection) Named() bool {
	return len(s) > 0 && !slices.ContainsFunc(s, api.IsPattern)
}

// Missing returns the names, not the patterns, that are not among the streams.
func (s Selection) Missing(streams []string) []string {
	var out []string
	for _, p := range s {
		if !api.IsPattern(p) && !slices.Contains(streams, p) {
			out = append(out, p)
		}
	}
	return out
}
