package service_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/config"
	"jetkeep/service/natsconn"
	"jetkeep/service/natstest"
	"jetkeep/store/seal"
)

// hostileMemory is what the service may take, whatever it finds in a store.
const hostileMemory = 256 << 20

// The process that works on a hostile repository is told by the environment
// where that is, and prints what the heap took at most.
const (
	hostilePath   = "JETKEEP_TEST_HOSTILE_PATH"
	hostileServer = "JETKEEP_TEST_HOSTILE_SERVER"
	hostileKey    = "JETKEEP_TEST_HOSTILE_KEY"
	peakLine      = "peak of the heap: "
)

// A hostile case changes a repository by what FORMAT.md says.
type hostile struct {
	name  string
	plain bool // makes no sense if it is encrypted
	forge func(f *forge)
}

const mib = 1 << 20

// hostiles has at least one for each kind of object.
func hostiles() []hostile {
	return []hostile{
		{"log of numbers that lie", false, func(f *forge) {
			for number := uint64(1); number <= 1<<45; number *= 2 {
				f.write(fmt.Sprintf("chains/%s/%016d", strings.Repeat("f", 32), number), nil)
			}
		}},
		{"consumers", false, func(f *forge) {
			f.consumers("["+aConsumer, ","+aConsumer, 24*mib/(1+len(aConsumer)), "]", 24*mib/(1+len(aConsumer))+1)
		}},
		{"consumers beyond all bounds", false, func(f *forge) { f.consumers("[{}", ",{}", 80*mib, "]", 80*mib+1) }},
		{"consumer of one long value", false, func(f *forge) { f.consumers(`[{"name":"`, "a", 60*mib, `"}]`, 1) }},
		{"consumer with pending messages", false, func(f *forge) {
			f.consumers(`[{"state":{"pending":[`+aPending, ","+aPending, 48*mib/(1+len(aPending)), `]}}]`, 1)
		}},
		{"consumer nested deeply", false, func(f *forge) { f.consumers(`[`, "[", 60*mib, ``, 1) }},
		{"deleted set", false, func(f *forge) { f.dead("deleted", "JKDELS01", 31*mib) }},
		{"deleted set beyond all bounds", false, func(f *forge) { f.dead("deleted", "JKDELS01", 120*mib) }},
		{"extra set", false, func(f *forge) {
			f.dead("deleted", "JKDELS01", 31*mib)
			f.dead("extra", "JKEXTR01", 15*mib)
		}},
		{"list of tables", false, func(f *forge) { f.tables("[{}", ",{}", 60*mib, 60*mib+1) }},
		{"list of tables that are none", false, func(f *forge) {
			ref := fmt.Sprintf(`{"ref":{"hash":"%064d","size":9,"raw":9},"segments":1,"first":1,"last":1,"count":1}`, 7)
			f.tables("["+ref, ","+ref, 15*mib/len(ref), 15*mib/len(ref)+1)
		}},
		{"table", false, func(f *forge) { f.oneTable(strings.Repeat("\x01", 60), 240*mib/60) }},
		{"table of all that fits", false, func(f *forge) { f.oneTable(string(binary.AppendUvarint(nil, 4096)), 1) }},
		{"list of what is used", false, func(f *forge) { f.useList(`{"name":"","size":0}`, 200*mib/21) }},
		{"list of what is used that names much", false, func(f *forge) {
			f.useList(`{"name":"packs/`+f.chain+`/`+strings.Repeat("e", 64)+`","size":7}`, 15*mib/135)
		}},
		{"proof", true, func(f *forge) {
			f.proof(f.meta("JKPROF01", "\x01"+string(binary.AppendUvarint(nil, 690_000)), "\x01\x00", 15*mib, ""))
		}},
		{"proof beyond all bounds", true, func(f *forge) {
			f.proof(f.meta("JKPROF01", "\x01"+string(binary.AppendUvarint(nil, 100*mib)), "\x01\x00", 120*mib, ""))
		}},
		{"pack that is said to be huge", true, func(f *forge) {
			x := f.table()
			x.size = 5 << 30
			f.setTable(x)
			f.sparse("packs/"+f.chain+"/"+hex.EncodeToString(x.hash), 5<<30)
		}},
		{"pack that is said to be large", true, func(f *forge) {
			x := f.table()
			x.size = 250 * mib
			f.setTable(x)
		}},
		{"segment that is said to be large", true, func(f *forge) {
			x := f.table()
			for i := range x.segments {
				x.segments[i].raw, x.segments[i].count, x.segments[i].span = 250*mib, 1, 0
			}
			f.setTable(x)
		}},
		{"commit records", false, func(f *forge) {
			f.content()["tables"] = map[string]any{"count": 300_000, "list": make([]struct{}, 300_000)}
		}},
		{"many commit records", true, func(f *forge) {
			f.content()["tables"] = map[string]any{"count": 300_000, "list": make([]struct{}, 300_000)}
			f.commit()
			record, err := os.ReadFile(f.path("commits/" + forgedTask))
			if err != nil {
				f.t.Fatal(err)
			}
			for i := range 60 {
				id := fmt.Sprintf("20991231T000000Z-aaaaaaaa.1%03d", i)
				f.write("commits/"+id, record)
			}
		}},
		{"huge files", false, func(f *forge) {
			for _, name := range []string{
				"commits/20991231T000000Z-aaaaaaaa.0009", "pins/20991231T000000Z-aaaaaaaa", "README.md",
				"keys/" + strings.Repeat("a", 32) + ".age", "keys/" + strings.Repeat("a", 32) + ".recipient", "keys/writer-" + strings.Repeat("b", 32) + ".age",
				"chains/" + strings.Repeat("e", 32) + "/0000000000000001", "chains/" + strings.Repeat("e", 32) + "/0000000000000001.done",
			} {
				f.sparse(name, 3<<30)
			}
		}},
		{"pipes and devices", false, func(f *forge) {
			for _, name := range []string{"commits/20991231T000000Z-aaaaaaaa.0009", "pins/x", "chains/" + strings.Repeat("e", 32) + "/0000000000000001", "probe"} {
				f.remove(name)
				if err := syscall.Mkfifo(f.path(name), 0o600); err != nil {
					f.t.Fatal(err)
				}
			}
			f.remove("README.md")
			if err := os.Symlink("/dev/zero", f.path("README.md")); err != nil {
				f.t.Fatal(err)
			}
		}},
		{"marker", true, func(f *forge) { f.sparse("jetkeep.json", 3<<30) }},
	}
}

// The least that consumers, and pending messages of one, can be.
const (
	aConsumer = `{"name":"a","config":{}}`
	aPending  = `{"stream_seq":1}`
)

func (f *forge) remove(name string) {
	f.t.Helper()
	err := os.MkdirAll(filepath.Dir(f.path(name)), 0o700)
	if err == nil {
		err = os.RemoveAll(f.path(name))
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

// sparse makes a file that is long and takes no space.
func (f *forge) sparse(name string, size int64) {
	f.t.Helper()
	f.write(name, nil)
	if err := os.Truncate(f.path(name), size); err != nil {
		f.t.Fatal(err)
	}
}

func (f *forge) consumers(begin, piece string, times int, end string, count int) {
	f.private["consumers"] = map[string]any{"count": count, "ref": f.meta("JKCONS01", begin, piece, times, end)}
}

// dead makes a set of every second sequence.
func (f *forge) dead(name, mark string, ranges int) {
	begin := string(binary.AppendUvarint(nil, uint64(ranges)))
	f.content()[name] = map[string]any{"count": ranges, "ref": f.meta(mark, begin, "\x00\x00", ranges, "")}
}

func (f *forge) tables(begin, piece string, times, count int) {
	f.content()["tables"] = map[string]any{"count": count, "ref": f.meta("JKLIST01", begin, piece, times, "]")}
}

func (f *forge) oneTable(piece string, times int) {
	f.content()["tables"] = map[string]any{"count": 1, "list": []any{map[string]any{
		"ref": f.meta("JKTABL02", "", piece, times, ""), "segments": 4096, "first": 1, "last": 9, "count": 9,
	}}}
}

func (f *forge) useList(piece string, times int) {
	f.summary["uses"].(map[string]any)["lists"] = []any{f.meta("JKUSES01", `{"objects":[`+piece, ","+piece, times, "]}")}
}

// proof has the pack's proof be an object.
func (f *forge) proof(ref map[string]any) {
	x := f.table()
	hash, err := hex.DecodeString(ref["hash"].(string))
	if err != nil {
		f.t.Fatal(err)
	}
	x.proof = append([]byte{0}, hash...)
	x.proof = binary.AppendUvarint(x.proof, uint64(ref["size"].(int)))
	x.proof = binary.AppendUvarint(x.proof, uint64(ref["raw"].(int)))
	f.setTable(x)
}

// A service that is given a repository which somebody made to harm it takes no
// more memory than it may, hangs nowhere, and has a code for what it finds.
func TestHostileRepositories(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	someStreams(t, server)
	cfg := setup(t, server)
	i := run(t, cfg, service.Deps{})
	backUp(t, connect(t, server))
	i.end()
	for _, h := range hostiles() {
		t.Run(h.name, func(t *testing.T) { h.run(t, cfg.Repositories[0].Path, nil, "") })
	}
}

func TestHostileEncryptedRepositories(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	someStreams(t, server)
	op := operator(t)
	cfg := encrypted(t, server, op)
	i := run(t, cfg, service.Deps{})
	backUp(t, connect(t, server))
	i.end()
	key := repositoryKey(t, cfg.Repositories[0].Path, op)
	for _, h := range hostiles() {
		if !h.plain {
			t.Run(h.name, func(t *testing.T) { h.run(t, cfg.Repositories[0].Path, &key, keyFile(t, op)) })
		}
	}
}

// repositoryKey opens the key of a repository.
func repositoryKey(t *testing.T, dir string, op seal.Identity) seal.Identity {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "keys", "*.age"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range found {
		stored, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		text, err := seal.Open(stored, op)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if key, err := seal.ParseIdentity(strings.TrimSpace(line)); err == nil {
				return key
			}
		}
	}
	t.Fatal("no key is there")
	return seal.Identity{}
}

// run has another process work on a changed copy of the repository.
func (h *hostile) run(t *testing.T, base string, key *seal.Identity, identity string) {
	dir := filepath.Join(t.TempDir(), "repository")
	if err := os.CopyFS(dir, os.DirFS(base)); err != nil {
		t.Fatal(err)
	}
	f := newForge(t, dir, "ORDERS", key)
	h.forge(f)
	if _, err := os.Stat(f.path("commits/" + forgedTask)); errors.Is(err, os.ErrNotExist) {
		f.commit()
	}
	server := natstest.Start(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestWorkOnHostileRepository$", "-test.v")
	cmd.Env = append(os.Environ(), hostilePath+"="+dir, hostileServer+"="+server.URL(), hostileKey+"="+identity, "GOMEMLIMIT=96MiB")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, tailOf(out, 60))
	}
	peak := -1
	lines := bufio.NewScanner(strings.NewReader(string(out)))
	for lines.Scan() {
		if _, n, ok := strings.Cut(lines.Text(), peakLine); ok {
			peak, _ = strconv.Atoi(n)
		}
	}
	t.Logf("peak of the heap: %d MiB", peak>>20)
	if peak < 0 || peak > hostileMemory {
		t.Errorf("the heap took %d MiB\n%s", peak>>20, tailOf(out, 60))
	}
}

func tailOf(out []byte, lines int) string {
	all := strings.Split(strings.TrimSpace(string(out)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// TestWorkOnHostileRepository is the process that TestHostileRepositories starts.
func TestWorkOnHostileRepository(t *testing.T) {
	dir := os.Getenv(hostilePath)
	if dir == "" {
		return
	}
	url := os.Getenv(hostileServer)
	run(t, config.Config{
		Instance: "test", Control: natsconn.Options{URL: url}, Lease: 8 * time.Second, Sweep: 200 * time.Millisecond,
		Repositories: []config.Repository{{Name: "default", Kind: config.KindLocal, Path: dir, IdentityFile: os.Getenv(hostileKey)}},
		Staging:      config.Staging{Dir: filepath.Join(t.TempDir(), "staging")},
	}, service.Deps{})
	nc, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	workOn(t, nc)
	// What the heap ever took from the system: it gives back, and does not take
	// away from this number.
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fmt.Printf("%s%d\n", peakLine, m.HeapSys)
}

// workOn asks for everything that reads a repository. What fails must have a code.
func workOn(t *testing.T, nc *nats.Conn) {
	c := clientOf(t, nc)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	coded := func(what string, err error) {
		t.Logf("%s: %v", what, err)
		var e *api.Error
		if err != nil && !errors.As(err, &e) || api.HasCode(err, api.CodeInternal) {
			t.Errorf("%s: %v", what, err)
		}
	}
	ended := func(what string, a *api.Accepted, err error) {
		coded(what, err)
		if err != nil {
			return
		}
		r, err := c.Wait(ctx, a.Session, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range r.TaskList {
			if task.Error != nil {
				coded(what+", "+task.Stream, task.Error)
			}
		}
	}
	_, err := c.RepositoryInfo(ctx, api.RepositoryInfoRequest{})
	coded("info", err)
	_, err = c.BackupList(ctx, api.BackupListRequest{})
	coded("list", err)
	_, err = c.BackupInfo(ctx, api.BackupInfoRequest{Backup: "20991231T000000Z-aaaaaaaa"})
	coded("list of the restore points", err)
	_, err = c.RestorePlan(ctx, api.RestoreRequest{})
	coded("plan of the newest", err)
	_, err = c.RestorePlan(ctx, api.RestoreRequest{Backup: "20991231T000000Z-aaaaaaaa"})
	coded("plan", err)
	_, err = c.RepositoryPrune(ctx, api.RepositoryPruneRequest{DryRun: true})
	coded("prune", err)
	for _, level := range api.Levels() {
		a, err := c.RepositoryVerify(ctx, api.RepositoryVerifyRequest{Level: level})
		ended("verify "+string(level), a, err)
	}
	a, err := c.RestoreCreate(ctx, api.RestoreRequest{Backup: "20991231T000000Z-aaaaaaaa"})
	ended("restore", a, err)
	// The newest restore point of the stream is one to build on.
	if _, err := nc.Request("$JS.API.STREAM.CREATE.ORDERS", []byte(`{"name":"ORDERS","subjects":["orders.>"],"storage":"file"}`), time.Minute); err != nil {
		t.Error(err)
	}
	natstest.PublishTo(t, nc, "orders.new", 500, 300)
	a, err = c.BackupCreate(ctx, api.BackupCreateRequest{Streams: []string{"ORDERS"}})
	ended("backup", a, err)
}
