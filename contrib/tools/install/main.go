// Command install builds the tools that jetkeep's tests run, each at a fixed
// version, into the user's cache directory under jetkeep/tools.
//
// A tool whose file is there is not built again, because its name holds its
// version or its module's lock file does not change it often; delete the file
// to build it anew. A file appears only when it is whole. The command fails,
// naming the tool, if one cannot be built. With -for it builds what one purpose
// needs: "test" (the default), "lint" or "bench". With -where it prints the
// directory and builds nothing.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"time"
)

// A tool is built from a package at a version, or, if it has no version, from
// the module in dir, whose lock file fixes it.
type tool struct {
	name    string // of the file
	path    string // package
	version string
	dir     string
	purpose string
}

// Purposes of the tools, each with a target of the Makefile that installs them.
const (
	forTest  = "test"
	forLint  = "lint"
	forBench = "bench"
)

// natsVersion is the version of the nats command that the lock file in natscli
// fixes. The file's name is plain, for tests that have its folder in their PATH.
const natsVersion = "0.5.1"

func tools() []tool {
	list := []tool{
		{purpose: forTest, name: filepath.Join("nats-"+natsVersion, "nats"), path: "github.com/nats-io/natscli/nats", dir: filepath.Join("contrib", "tools", "natscli")},
		{purpose: forTest, name: "age-1.3.2", path: "filippo.io/age/cmd/age", version: "v1.3.2"},
		{purpose: forLint, name: "golangci-lint-2.15.0", path: "github.com/golangci/golangci-lint/v2/cmd/golangci-lint", version: "v2.15.0"},
		{purpose: forTest, name: "versitygw-1.8.0", path: "github.com/versity/versitygw/cmd/versitygw", version: "v1.8.0"},
		{purpose: forBench, name: "mc-cf909e1063a9", path: "github.com/minio/mc", version: "v0.0.0-20250313080218-cf909e1063a9"},
		{purpose: forTest, name: "minio-7aac2a2c5b7c", path: "github.com/minio/minio", version: "v0.0.0-20260212201848-7aac2a2c5b7c"},
	}
	for _, v := range []string{"2.6.1", "2.8.2", "2.9.25", "2.10.29", "2.11.12", "2.12.6", "2.14.5", "2.15.3"} {
		list = append(list, tool{purpose: forTest, name: "nats-server-" + v, path: "github.com/nats-io/nats-server/v2", version: "v" + v})
	}
	return list
}

func main() {
	where := flag.Bool("where", false, "print the directory of the tools and build nothing")
	purpose := flag.String("for", forTest, "purpose of the tools: test, lint or bench")
	flag.Parse()
	if err := run(*where, *purpose); err != nil {
		fmt.Fprintln(os.Stderr, "install:", err)
		os.Exit(1)
	}
}

func run(where bool, purpose string) error {
	cache, err := os.UserCacheDir()
	if err != nil {
		return fmt.Errorf("find cache directory: %w", err)
	}
	dir := filepath.Join(cache, "jetkeep", "tools")
	if where {
		fmt.Println(dir)
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	slots := make(chan struct{}, 2) // each build uses every core for a part of its time
	known := false
	for _, t := range tools() {
		if t.purpose != purpose {
			continue
		}
		known = true
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if err := install(dir, t); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("build %s: %w", t.name, err))
			}
		})
	}
	wg.Wait()
	if !known {
		return fmt.Errorf("-for %q: no tool has that purpose", purpose)
	}
	return errors.Join(errs...)
}

func install(dir string, t tool) error {
	target := filepath.Join(dir, t.name)
	if _, err := os.Stat(target); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	begin := time.Now()
	work, err := os.MkdirTemp(dir, ".build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if err := build(work, t); err != nil {
		return err
	}
	entries, err := os.ReadDir(work)
	if err != nil {
		return err
	}
	if len(entries) != 1 {
		return fmt.Errorf("%d files were built, not 1", len(entries))
	}
	if err := os.Rename(filepath.Join(work, entries[0].Name()), target); err != nil {
		return err
	}
	fmt.Printf("built %-26s in %s\n", t.name, time.Since(begin).Round(time.Second))
	return nil
}

func build(work string, t tool) error {
	cmd := exec.Command("go", "build", "-o", work+string(filepath.Separator), t.path)
	cmd.Dir = t.dir
	if t.version != "" {
		flags, err := exec.Command("go", "env", "GOFLAGS").Output()
		if err != nil {
			return fmt.Errorf("ask for GOFLAGS: %w", err)
		}
		// Away from this module, so that its requirements have no say.
		cmd = exec.Command("go", "install", t.path+"@"+t.version)
		cmd.Dir = filepath.VolumeName(work) + string(filepath.Separator)
		cmd.Env = append(os.Environ(), "GOBIN="+work, "GOFLAGS="+string(bytes.TrimSpace(flags))+" -mod=mod")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s (%s, %s)", err, bytes.TrimSpace(out), runtime.Version(), runtime.GOARCH)
	}
	return nil
}
