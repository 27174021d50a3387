package service

import (
	"slices"
	"strings"

	"jetkeep/service/api"
)

// selectStreams returns which of the streams a request means, sorted. No
// pattern means all. jetkeep's own streams match no pattern, and a name that is
// given exactly must exist.
func selectStreams(all, include, exclude []string) ([]string, error) {
	there := make(map[string]bool, len(all))
	for _, s := range all {
		there[s] = true
	}
	chosen := map[string]bool{}
	if len(include) == 0 {
		include = []string{"*"}
	}
	for _, p := range include {
		if api.IsPattern(p) {
			for _, s := range all {
				if !api.Reserved(s) && api.Match(p, s) {
					chosen[s] = true
				}
			}
			continue
		}
		switch {
		case api.Reserved(p):
			return nil, api.Errorf(api.CodeReservedStream, "stream %s belongs to jetkeep itself", p)
		case !there[p]:
			return nil, api.Errorf(api.CodeStreamNotFound, "there is no stream %s", p)
		}
		chosen[p] = true
	}
	for s := range chosen {
		if matchAny(exclude, s) {
			delete(chosen, s)
		}
	}
	if len(chosen) == 0 {
		return nil, api.Errorf(api.CodeNoStreams, "no stream matches %s", describePatterns(include, exclude))
	}
	out := make([]string, 0, len(chosen))
	for s := range chosen {
		out = append(out, s)
	}
	slices.Sort(out)
	return out, nil
}

func describePatterns(include, exclude []string) string {
	const most = 5
	list := func(p []string) string {
		if len(p) > most {
			return strings.Join(p[:most], ", ") + ", …"
		}
		return strings.Join(p, ", ")
	}
	s := list(include)
	if len(exclude) > 0 {
		s += " without " + list(exclude)
	}
	return s
}

func matchAny(patterns []string, s string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return api.Match(p, s) })
}
