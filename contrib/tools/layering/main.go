// Command layering checks the direction of the module's imports:
//
//	cmd -> service -> {store, schedule}
//
// and the layers inside service. It prints each import that goes against it
// and fails if there is one, if a package of service has no layer yet, or if
// it finds no package to check.
//
// Tests keep to the direction between the top folders too, and only they may
// import test support.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// pkg is what `go list -json` says of a package.
type pkg struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

const module = "jetkeep"

// layer says how high a package of service stands. A package imports only
// lower ones; those that share a layer may import each other only where peers
// says so.
func layer(name string) (level int, peers, known bool) {
	layers := []struct {
		peers bool
		names []string
	}{
		{false, []string{"service/api"}},
		{false, []string{"service/archive", "service/embedded", "service/jsapi", "service/metrics", "service/progress"}},
		{true, []string{"service/client", "service/config", "service/jetsnap", "service/natsconn", "service/queue", "service/session", "service/state"}},
		{false, []string{"service/backup", "service/hooks", "service/restore", "service/scheduler", "service/stores", "service/transfer"}},
		{false, []string{"service/worker"}},
		{false, []string{"service"}},
	}
	for i, l := range layers {
		if slices.Contains(l.names, name) {
			return i, l.peers, true
		}
	}
	return 0, false, false
}

// support names the packages that only tests may import.
func support(name string) bool {
	return slices.Contains([]string{
		"service/metrics/gatewaytest", "service/natstest", "store/freeport", "store/object/faulty", "store/object/objectserver", "store/object/objecttest", "store/testenv",
	}, name)
}

// leaf names the packages that import nothing of this module.
func leaf(name string) bool {
	return slices.Contains([]string{"service/api", "store/record", "store/retain", "store/seal", "store/seqset", "store/sign"}, name)
}

func top(name string) string {
	first, _, _ := strings.Cut(name, "/")
	return first
}

// own returns the name of a package inside the module.
func own(path string) (string, bool) {
	if path == module {
		return "", true
	}
	return strings.CutPrefix(path, module+"/")
}

func standard(path string) bool { return !strings.Contains(top(path), ".") && top(path) != module }

func main() {
	out, err := exec.Command("go", "list", "-json", "./...").Output()
	if err != nil {
		fmt.Fprintln(os.Stderr, "layering: list packages:", err)
		os.Exit(1)
	}
	packages, err := decode(strings.NewReader(string(out)))
	if err != nil {
		fmt.Fprintln(os.Stderr, "layering:", err)
		os.Exit(1)
	}
	faults := check(packages)
	for _, f := range faults {
		fmt.Println(f)
	}
	if len(faults) > 0 {
		os.Exit(1)
	}
	fmt.Printf("layering: %d packages in order\n", len(packages))
}

func decode(r io.Reader) ([]pkg, error) {
	var all []pkg
	for d := json.NewDecoder(r); ; {
		var p pkg
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("decode packages: %w", err)
		}
		all = append(all, p)
	}
}

// check returns a line for each fault.
func check(packages []pkg) []string {
	if len(packages) == 0 {
		return []string{"no package found"}
	}
	var faults []string
	for _, p := range packages {
		name, _ := own(p.ImportPath)
		if _, _, known := layer(name); top(name) == "service" && !known && !support(name) {
			faults = append(faults, name+" has no layer: give it one in contrib/tools/layering")
		}
		for _, path := range p.Imports {
			if why := forbidden(name, path); why != "" {
				faults = append(faults, fmt.Sprintf("%s imports %s: %s", name, path, why))
			}
		}
		for _, path := range slices.Concat(p.TestImports, p.XTestImports) {
			if why := forbiddenInTest(name, path); why != "" {
				faults = append(faults, fmt.Sprintf("a test of %s imports %s: %s", name, path, why))
			}
		}
	}
	return faults
}

// forbidden says why a package must not import path, empty if it may.
func forbidden(name, path string) string {
	to, ours := own(path)
	if name == "service/api" && !standard(path) {
		return "only the standard library" // so that any program can import it
	}
	if leaf(name) && ours {
		return "it imports nothing of this module"
	}
	if !ours {
		if path == "testing" && !support(name) {
			return "only tests may"
		}
		return ""
	}
	if support(to) && !support(name) {
		return "only tests may"
	}
	if why := forbiddenInTest(name, path); why != "" {
		return why
	}
	if top(name) == "service" && top(to) == "service" {
		return layered(name, to)
	}
	return ""
}

func layered(name, to string) string {
	from, peers, fromKnown := layer(name)
	level, _, toKnown := layer(to)
	if !fromKnown || !toKnown {
		return "" // reported for the package itself
	}
	if from < level || from == level && !peers {
		return "it stands in no lower layer"
	}
	return ""
}

// forbiddenInTest is the direction between the top folders.
func forbiddenInTest(name, path string) string {
	to, ours := own(path)
	if !ours {
		return ""
	}
	allowed := map[string][]string{
		"cmd":      {"cmd", "service", "store", "schedule"},
		"service":  {"service", "store", "schedule"},
		"store":    {"store"},
		"schedule": {"schedule"},
		"contrib":  {"contrib", "cmd", "service", "store", "schedule"},
	}
	folders, ok := allowed[top(name)]
	if !ok {
		return top(name) + " is no folder of the design"
	}
	if !slices.Contains(folders, top(to)) {
		return top(name) + " must not know " + top(to)
	}
	return ""
}
