package main

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"jetkeep/cmd/jetkeep/internal/sample"
	"jetkeep/service/api"
	"jetkeep/service/natstest"
)

// natsCLI runs the nats command line against a service.
type natsCLI struct {
	t   *testing.T
	url string
	cmd string
}

func (n natsCLI) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, n.cmd, append([]string{"--server", n.url}, args...)...)
	// Contexts of whoever runs the test must not get in.
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+n.t.TempDir(), "NATS_URL=")
	return cmd
}

func (n natsCLI) run(args ...string) string {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), 5*time.Minute)
	defer cancel()
	out, err := n.command(ctx, args...).CombinedOutput()
	if err != nil {
		n.t.Errorf("nats %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// req sends a request as `nats req SUBJECT BODY` does and reads the answer.
func req[T any](n natsCLI, endpoint, body string) T {
	n.t.Helper()
	out := n.run("req", "--raw", "--timeout", "60s", api.DefaultPrefix+"."+endpoint, body)
	var answer T
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		n.t.Errorf("nats req %s %s: %v\n%s", endpoint, body, err, out)
	}
	return answer
}

// wants checks that an output has all of some texts.
func (n natsCLI) wants(out string, texts ...string) {
	n.t.Helper()
	for _, text := range texts {
		if !strings.Contains(out, text) {
			n.t.Errorf("%q is not in\n%s", text, out)
		}
	}
}

// TestNatsCommandLine does everything with the nats command alone.
func TestNatsCommandLine(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	s := startServe(t, binary(t), filepath.Join(t.TempDir(), "data"))
	nc := s.connect()
	if err := sample.Fill(ctx, nc, sample.Size{Orders: 1000, Keys: 60, Object: 2 << 20, WorkJobs: 100}, 1); err != nil {
		t.Fatal(err)
	}
	n := natsCLI{t, s.url, natstest.Tool(t, natstest.CLI)}

	n.wants(n.run("micro", "ls"), "jetkeep")
	n.wants(n.run("micro", "info", "jetkeep"), "jetkeep.v1.backup.create", "jetkeep.v1.restore.plan", "jetkeep.v1.session.cancel")
	n.wants(n.run("micro", "ping", "jetkeep"), "jetkeep")
	events := n.subscribe(ctx, "jetkeep.v1.event.>")

	all := req[api.Accepted](n, api.BackupCreate, `{}`)
	if all.Tasks != 8 || all.State != api.StatePending {
		t.Errorf("backup.create answers %+v", all)
	}
	n.ended(all.Session, api.StateSucceeded)
	events("session_started", "session_progress", "task_completed", "session_completed", all.Session)
	some := req[api.Accepted](n, api.BackupCreate, `{"streams":["ORDERS","KV_*"]}`)
	if some.Tasks != 2 {
		t.Errorf("a backup of two streams has %d", some.Tasks)
	}
	n.ended(some.Session, api.StateSucceeded)

	if list := req[api.SessionListResponse](n, api.SessionList, `{}`); list.Total != 2 {
		t.Errorf("session.list answers %+v", list)
	}
	if list := req[api.BackupListResponse](n, api.BackupList, `{}`); list.Total != 2 {
		t.Errorf("backup.list answers %+v", list)
	}
	if info := req[api.BackupInfoResponse](n, api.BackupInfo, `{"backup":"`+all.Backup+`"}`); len(info.RestorePoints) != 8 {
		t.Errorf("backup.info answers %+v", info)
	}
	n.looksAtPlaces()
	n.restores(all)
	n.maintains(all, some)
	n.wants(n.run("micro", "stats", "jetkeep"), "backup", "session")
	n.isRefused()
}

func (n natsCLI) looksAtPlaces() {
	n.t.Helper()
	if list := req[api.TargetListResponse](n, api.TargetList, ``); len(list.Targets) != 1 || !list.Targets[0].Default {
		n.t.Errorf("target.list answers %+v", list)
	}
	if info := req[api.TargetInfoResponse](n, api.TargetInfo, `{}`); info.TotalStreams != 8 || info.Server == "" {
		n.t.Errorf("target.info answers %+v", info)
	}
	if list := req[api.RepositoryListResponse](n, api.RepositoryList, `{}`); len(list.Repositories) != 1 || list.Repositories[0].Repository != "local" {
		n.t.Errorf("repository.list answers %+v", list)
	}
	if info := req[api.RepositoryInfoResponse](n, api.RepositoryInfo, `{}`); info.Backups != 2 || info.RestorePoints != 10 || info.Streams != 8 {
		n.t.Errorf("repository.info answers %+v", info)
	}
}

func (n natsCLI) restores(backup api.Accepted) {
	n.t.Helper()
	body := `{"backup":"` + backup.Backup + `"}`
	if plan := req[api.RestorePlanResponse](n, api.RestorePlan, body); !plan.Refused || len(plan.Streams) != 8 {
		n.t.Errorf("restore.plan over streams that exist answers %+v", plan)
	}
	for _, stream := range sample.Streams() {
		n.run("stream", "rm", "-f", stream)
	}
	if plan := req[api.RestorePlanResponse](n, api.RestorePlan, body); plan.Refused {
		n.t.Errorf("restore.plan into an empty account answers %+v", plan)
	}
	restore := req[api.Accepted](n, api.RestoreCreate, body)
	n.ended(restore.Session, api.StateSucceeded)
	n.wants(n.run("stream", "ls", "--all"), sample.Streams()...)
	n.wants(n.run("kv", "get", "settings", "shop.001.limit", "--raw"), `"round":0`)
	n.wants(n.run("consumer", "info", "ORDERS", "shipping"), "Outstanding Acks")
}

// maintains verifies, pins, forgets and prunes.
func (n natsCLI) maintains(all, some api.Accepted) {
	n.t.Helper()
	for _, request := range [][2]string{
		{api.RepositoryVerify, `{}`},
		{api.RepositoryVerify, `{"level":"structure"}`},
		{api.BackupVerify, `{"backup":"` + some.Backup + `","level":"records","part":1,"parts":2}`},
		{api.BackupVerify, `{"restore_points":["` + some.Backup + `.0001"]}`},
	} {
		a := req[api.Accepted](n, request[0], request[1])
		if a.Kind != api.KindVerify || a.Tasks != 1 {
			n.t.Errorf("%s %s answers %+v", request[0], request[1], a)
		}
		n.ended(a.Session, api.StateSucceeded)
		info := req[api.SessionInfoResponse](n, api.SessionInfo, `{"session":"`+a.Session+`"}`)
		if len(info.TaskList) != 1 || info.TaskList[0].Verification == nil || info.TaskList[0].Verification.Points == 0 {
			n.t.Errorf("session of %s %s: %+v", request[0], request[1], info)
		}
	}
	if r := req[api.BackupPinResponse](n, api.BackupPin, `{"backup":"`+all.Backup+`","reason":"audit"}`); len(r.Points) != 8 {
		n.t.Errorf("backup.pin answers %+v", r)
	}
	if r := req[api.ErrorResponse](n, api.BackupDelete, `{"backup":"`+all.Backup+`"}`); r.Error == nil || r.Error.ErrCode != api.CodePinned {
		n.t.Errorf("backup.delete of what is pinned answers %+v", r.Error)
	}
	if r := req[api.BackupPinResponse](n, api.BackupUnpin, `{"backup":"`+all.Backup+`"}`); len(r.Points) != 8 {
		n.t.Errorf("backup.unpin answers %+v", r)
	}
	if r := req[api.BackupDeleteResponse](n, api.BackupDelete, `{"restore_points":["`+some.Backup+`.0001"]}`); len(r.Points) != 1 {
		n.t.Errorf("backup.delete answers %+v", r)
	}
	plan := req[api.RepositoryPruneResponse](n, api.RepositoryPrune, `{"keep":{"last":1},"dry_run":true}`)
	if plan.Plan == nil || plan.Plan.Points != 9 || plan.Plan.Forget != 1 || len(plan.Plan.Text) == 0 {
		n.t.Errorf("repository.prune answers the plan %+v", plan.Plan)
	}
	a := req[api.RepositoryPruneResponse](n, api.RepositoryPrune, `{"keep":{"last":1}}`)
	n.ended(a.Session, api.StateSucceeded)
	info := req[api.SessionInfoResponse](n, api.SessionInfo, `{"session":"`+a.Session+`"}`)
	if len(info.TaskList) != 1 || info.TaskList[0].Pruned == nil || info.TaskList[0].Pruned.Forgotten != 1 {
		n.t.Errorf("session of repository.prune: %+v", info)
	}
}

// isRefused shows errors as a user of the command sees them.
func (n natsCLI) isRefused() {
	n.t.Helper()
	for body, code := range map[string]api.ErrCode{
		`{"streamz":[]}`:                api.CodeUnknownField,
		`{"streams":["NOSUCH"]}`:        api.CodeStreamNotFound,
		`{"streams":["a b"]}`:           api.CodeInvalidStream,
		`{"target":"nowhere"}`:          api.CodeTargetNotFound,
		`{"repository":"none"}`:         api.CodeRepoNotFound,
		`not json`:                      api.CodeInvalidJSON,
		`{"streams":["JETKEEP_TASKS"]}`: api.CodeReservedStream,
	} {
		if answer := req[api.ErrorResponse](n, api.BackupCreate, body); answer.Error == nil || answer.Error.ErrCode != code {
			n.t.Errorf("backup.create %s answers %+v", body, answer.Error)
		}
	}
	cancel := req[api.Accepted](n, api.BackupCreate, `{}`)
	out := n.run("req", "--raw", api.DefaultPrefix+"."+api.SessionCancel, `{"session":"`+cancel.Session+`","reason":"test"}`)
	if !strings.Contains(out, cancel.Session) && !strings.Contains(out, string(api.CodeSessionFinal)) {
		n.t.Errorf("session.cancel answers %s", out)
	}
	n.ended(cancel.Session, "")
	unknown := req[api.ErrorResponse](n, api.SessionCancel, `{"session":"20200101T000000Z-aaaaaaaa"}`)
	if unknown.Error == nil || unknown.Error.ErrCode != api.CodeSessionNotFound {
		n.t.Errorf("session.cancel of no session answers %+v", unknown.Error)
	}
}

// ended asks session.info until the session has ended; any state will do if
// none is wanted.
func (n natsCLI) ended(session string, want api.State) {
	n.t.Helper()
	deadline := time.Now().Add(10 * time.Minute)
	for {
		info := req[api.SessionInfoResponse](n, api.SessionInfo, `{"session":"`+session+`"}`)
		switch {
		case info.State == want, want == "" && info.State.Final():
			return
		case info.State.Final(), time.Now().After(deadline):
			n.t.Fatalf("session %s is %s: %+v", session, info.State, info)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// subscribe runs `nats sub` and returns a function that waits until it has
// shown all of some texts.
func (n natsCLI) subscribe(ctx context.Context, subject string) func(texts ...string) {
	n.t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	cmd := n.command(ctx, "sub", subject)
	out, err := cmd.StdoutPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	lines := make(chan string, 10_000)
	go func() {
		defer close(lines)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			lines <- scan.Text()
		}
		_ = cmd.Wait()
	}()
	n.t.Cleanup(func() {
		cancel()
		for range lines {
		}
	})
	<-lines // it says that it has subscribed
	return func(texts ...string) {
		n.t.Helper()
		var seen strings.Builder
		limit := time.After(5 * time.Minute)
		for _, text := range texts {
			for !strings.Contains(seen.String(), text) {
				select {
				case line, ok := <-lines:
					if !ok {
						n.t.Fatalf("nats sub ended:\n%s", seen.String())
					}
					seen.WriteString(line + "\n")
				case <-limit:
					n.t.Fatalf("nats sub has not shown %q:\n%s", text, seen.String())
				}
			}
		}
	}
}
