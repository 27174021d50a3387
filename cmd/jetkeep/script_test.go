package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rogpeppe/go-internal/testscript"

	"jetkeep/cmd/jetkeep/internal/compare"
	"jetkeep/cmd/jetkeep/internal/sample"
	"jetkeep/service/natstest"
	"jetkeep/store/freeport"
	"jetkeep/store/seal"
	"jetkeep/store/testenv"
)

// TestScript runs the command line as its users do. Besides testscript's own
// commands, the scripts use those of scriptCommands.
func TestScript(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		Cmds:                scriptCommands(),
		Setup: func(env *testscript.Env) error {
			port, err := freeport.Get()
			if err != nil {
				return err
			}
			env.Setenv("PORT", strconv.Itoa(port))
			env.Setenv("NATS_URL", fmt.Sprintf("nats://127.0.0.1:%d", port))
			env.Setenv("TMPDIR", env.Getenv("TMPDIR"))
			env.Values[recordings{}] = map[string]*compare.Account{}
			return nil
		},
	})
}

// recordings is the key under which a script keeps what it recorded.
type recordings struct{}

type scriptCommand = func(ts *testscript.TestScript, neg bool, args []string)

func scriptCommands() map[string]scriptCommand {
	return map[string]scriptCommand{
		// code N COMMAND...: the command exits with N.
		"code": func(ts *testscript.TestScript, _ bool, args []string) {
			want, err := strconv.Atoi(args[0])
			ts.Check(err)
			got := 0
			if err := ts.Exec(args[1], args[2:]...); err != nil {
				exit := new(exec.ExitError)
				if !errors.As(err, &exit) {
					ts.Fatalf("run %s: %v", args[1], err)
				}
				got = exit.ExitCode()
			}
			if got != want {
				ts.Fatalf("exit code %d, want %d", got, want)
			}
		},
		// ready: the service of the script answers.
		"ready": func(ts *testscript.TestScript, _ bool, _ []string) {
			waitFor(ts, func() error {
				nc, err := nats.Connect(ts.Getenv("NATS_URL"))
				if err != nil {
					return err
				}
				defer nc.Close()
				_, err = nc.Request("jetkeep.v1.target.list", nil, time.Minute)
				return err
			})
		},
		// fill: make sample data.
		"fill": func(ts *testscript.TestScript, _ bool, _ []string) {
			withConn(ts, func(ctx context.Context, nc *nats.Conn) error {
				return sample.Fill(ctx, nc, small(), 1)
			})
		},
		// publish SUBJECT TEXT
		"publish": func(ts *testscript.TestScript, _ bool, args []string) {
			withConn(ts, func(ctx context.Context, nc *nats.Conn) error {
				js, err := jetstream.New(nc)
				if err != nil {
					return err
				}
				_, err = js.Publish(ctx, args[0], []byte(args[1]))
				return err
			})
		},
		// stream NAME SUBJECT: make a stream.
		"stream": func(ts *testscript.TestScript, _ bool, args []string) {
			withConn(ts, func(ctx context.Context, nc *nats.Conn) error {
				js, err := jetstream.New(nc)
				if err != nil {
					return err
				}
				_, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: args[0], Subjects: args[1:]})
				return err
			})
		},
		// delete STREAM...: delete streams; all that are not the service's if
		// none is named.
		"delete": scriptDelete,
		// record NAME: record the account.
		"record": func(ts *testscript.TestScript, _ bool, args []string) {
			all := ts.Value(recordings{}).(map[string]*compare.Account)
			withConn(ts, func(ctx context.Context, nc *nats.Conn) (err error) {
				all[args[0]], err = compare.Take(ctx, nc, ts.MkAbs("recording-"+args[0]), ours)
				return err
			})
		},
		// same NAME NAME: two recordings are equal.
		"same": func(ts *testscript.TestScript, neg bool, args []string) {
			all := ts.Value(recordings{}).(map[string]*compare.Account)
			diff, err := compare.Diff(all[args[0]], all[args[1]])
			ts.Check(err)
			for _, d := range diff.Differences {
				ts.Logf("%s", d)
			}
			if diff.Equal() == neg {
				ts.Fatalf("equal: %v", diff.Equal())
			}
		},
		// capture NAME: set an environment variable to the word of the last
		// standard output that looks like a session's id.
		"capture": func(ts *testscript.TestScript, _ bool, args []string) {
			id := sessionID.FindString(ts.ReadFile("stdout"))
			if id == "" {
				ts.Fatalf("no session id in the output")
			}
			ts.Setenv(args[0], id)
		},
		// selected NAME [URL]: the nats command has a context of that name, and it
		// is selected; without a URL it is selected and gone.
		"selected": func(ts *testscript.TestScript, _ bool, args []string) {
			dir := filepath.Join(ts.Getenv("XDG_CONFIG_HOME"), "nats")
			ts.Check(os.MkdirAll(filepath.Join(dir, "context"), 0o700))
			if len(args) > 1 {
				ts.Check(os.WriteFile(filepath.Join(dir, "context", args[0]+".json"), []byte(`{"url":"`+args[1]+`"}`), 0o600))
			}
			ts.Check(os.WriteFile(filepath.Join(dir, "context.txt"), []byte(args[0]), 0o600))
		},
		// printed NAME: set an environment variable to the first time that
		// jetkeep ls prints.
		"printed": func(ts *testscript.TestScript, _ bool, args []string) {
			ts.Check(ts.Exec("jetkeep", "ls"))
			at := printedTime.FindString(ts.ReadFile("stdout"))
			if at == "" {
				ts.Fatalf("no time in the output")
			}
			ts.Setenv(args[0], at)
		},
		// await FILE TEXT: a file holds a text.
		"await": func(ts *testscript.TestScript, _ bool, args []string) {
			waitFor(ts, func() error {
				text, err := os.ReadFile(ts.MkAbs(args[0]))
				if err == nil && !strings.Contains(string(text), args[1]) {
					err = fmt.Errorf("%s does not hold %s: %s", args[0], args[1], text)
				}
				return err
			})
		},
		// empty DIR: a directory has no entries.
		"empty": func(ts *testscript.TestScript, _ bool, args []string) {
			entries, err := os.ReadDir(ts.MkAbs(args[0]))
			ts.Check(err)
			if len(entries) > 0 {
				ts.Fatalf("%s holds %v", args[0], entries)
			}
		},
		// damage DIR: overwrite the middle of every file of at least 100 kB
		// below a directory, which are the packs of a repository.
		"damage": scriptDamage,
		// secret FILE PATTERN: a line of a file that is for its owner alone.
		"secret": func(ts *testscript.TestScript, _ bool, args []string) {
			info, err := os.Stat(ts.MkAbs(args[0]))
			ts.Check(err)
			if info.Mode().Perm() != 0o600 {
				ts.Fatalf("%s has mode %o", args[0], info.Mode().Perm())
			}
			if !regexp.MustCompile("(?m)" + args[1]).MatchString(ts.ReadFile(args[0])) {
				ts.Fatalf("%s does not hold %s", args[0], args[1])
			}
		},
		// unseen DIR WORD...: no file below a directory holds a word.
		"unseen": scriptUnseen,
		// fingerprint NAME FILE: set an environment variable to the
		// fingerprint of a secret key.
		"fingerprint": func(ts *testscript.TestScript, _ bool, args []string) {
			ids, err := seal.ParseIdentities(ts.ReadFile(args[1]))
			ts.Check(err)
			ts.Setenv(args[0], ids[0].Recipient().Fingerprint())
		},
	}
}

var printedTime = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ`)

// waitFor is testenv.Until in a script.
func waitFor(ts *testscript.TestScript, try func() error) {
	err := natstest.Eventually(testenv.Hang, try)
	if err != nil {
		ts.Fatalf("%v\n%s", err, testenv.Report())
	}
}

func withConn(ts *testscript.TestScript, do func(context.Context, *nats.Conn) error) {
	ctx, cancel := context.WithTimeout(context.Background(), testenv.Hang)
	defer cancel()
	nc, err := nats.Connect(ts.Getenv("NATS_URL"))
	ts.Check(err)
	defer nc.Close()
	ts.Check(do(ctx, nc))
}

func scriptDelete(ts *testscript.TestScript, _ bool, args []string) {
	withConn(ts, func(ctx context.Context, nc *nats.Conn) error {
		js, err := jetstream.New(nc)
		if err != nil {
			return err
		}
		names := slices.Clone(args)
		if len(names) == 0 {
			list := js.StreamNames(ctx)
			for name := range list.Name() {
				if ours(name) {
					names = append(names, name)
				}
			}
			if err := list.Err(); err != nil {
				return err
			}
		}
		for _, name := range names {
			if err := js.DeleteStream(ctx, name); err != nil {
				return fmt.Errorf("delete %s: %w", name, err)
			}
		}
		return nil
	})
}

func scriptDamage(ts *testscript.TestScript, _ bool, args []string) {
	damaged := 0
	err := filepath.WalkDir(ts.MkAbs(args[0]), func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil || len(data) < 100_000 {
			return err
		}
		data[len(data)/2] ^= 0xff
		damaged++
		if err := os.Chmod(path, 0o600); err != nil {
			return err
		}
		return os.WriteFile(path, data, 0o600)
	})
	ts.Check(err)
	if damaged == 0 {
		ts.Fatalf("nothing to damage in %s", args[0])
	}
	ts.Logf("%s", strings.Repeat("damaged ", damaged))
}

func scriptUnseen(ts *testscript.TestScript, _ bool, args []string) {
	files := 0
	err := filepath.WalkDir(ts.MkAbs(args[0]), func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		for _, word := range args[1:] {
			if e.Name() != "README.md" && strings.Contains(strings.TrimPrefix(path, ts.MkAbs("."))+string(data), word) {
				ts.Fatalf("%s holds %s", path, word)
			}
		}
		files++
		return err
	})
	ts.Check(err)
	if files < 10 {
		ts.Fatalf("%s holds %d files", args[0], files)
	}
}
