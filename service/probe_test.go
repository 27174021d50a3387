package service_test

import (
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"jetkeep/service"
	"jetkeep/service/api"
	"jetkeep/service/config"
	"jetkeep/service/natstest"
	"jetkeep/store/object"
	"jetkeep/store/object/faulty"
)

// TestInfoProbesTheStore: the answer says what the store lets the service do
// and names the permission that is missing.
func TestInfoProbesTheStore(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	nodelete := &object.PermissionError{Action: "s3:DeleteObject", Kind: object.ErrNotWritable, Err: errors.New("AccessDenied")}
	run(t, setup(t, server), service.Deps{Repositories: newMemory(t, faulty.Fault{Op: faulty.Delete, Prefix: "probe/", Err: nodelete})})
	c := connect(t, server)
	no := false
	info, err := c.RepositoryInfo(t.Context(), api.RepositoryInfoRequest{Probe: &no})
	if err != nil || info.Probe != nil {
		t.Fatalf("unasked: %+v %v", info, err)
	}
	if info, err = c.RepositoryInfo(t.Context(), api.RepositoryInfoRequest{}); err != nil {
		t.Fatal(err)
	}
	steps := info.Probe.Steps
	if !info.Probe.Usable || len(steps) != 4 {
		t.Fatalf("%+v", info.Probe)
	}
	for _, s := range steps[:3] {
		if s.Outcome != "ok" || s.Error != "" || s.Milliseconds < 0 {
			t.Errorf("%+v", s)
		}
	}
	if s := steps[3]; s.Step != "delete" || s.Outcome != "denied" || s.Permission != "s3:DeleteObject" || !strings.Contains(s.Error, "AccessDenied") {
		t.Errorf("%+v", s)
	}
	if info, err = c.RepositoryInfo(t.Context(), api.RepositoryInfoRequest{}); err != nil || info.Probe.Steps[3].Outcome != "ok" {
		t.Errorf("%+v %v", info, err)
	}
}

// TestProbeOfASilentStore: a store that swallows writes costs no more time
// than the probe has, so that there is an answer: a request has only little more.
func TestProbeOfASilentStore(t *testing.T) {
	t.Parallel()
	server := natstest.Start(t)
	run(t, setup(t, server), service.Deps{Repositories: newMemory(t, faulty.Fault{Op: faulty.Put, Prefix: "probe/", Kind: faulty.Hang})})
	info, err := connect(t, server).RepositoryInfo(t.Context(), api.RepositoryInfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(info.Probe)
	if err != nil || info.Probe.Usable || info.Probe.Steps[0].Outcome != "failed" {
		t.Errorf("%s %v", b, err)
	}
}

// TestCertificateOfAStore: one that nobody vouches for is said, and no defect.
func TestCertificateOfAStore(t *testing.T) {
	t.Parallel()
	store := httptest.NewTLSServer(http.NotFoundHandler())
	defer store.Close()
	store.Config.ErrorLog = log.New(io.Discard, "", 0)
	server := natstest.Start(t)
	cfg := setup(t, server)
	for _, r := range []config.Repository{
		{Kind: config.KindS3, S3: config.S3{Endpoint: store.URL, Bucket: "bucket", AccessKey: "a", SecretKey: "hidden-secret"}},
		{Kind: config.KindSwift, Swift: config.Swift{AuthURL: store.URL + "/auth/v1.0", User: "a", Key: "hidden-secret", Container: "c"}},
	} {
		r.Name = "default"
		cfg.Repositories = []config.Repository{r}
		in := run(t, cfg, service.Deps{})
		e := refused(t, server.Connect(), api.RepositoryInfo, `{}`)
		if e.ErrCode != api.CodeStoreUnavailable || !strings.Contains(e.Hint, "ca_file") || strings.Contains(e.Error(), "hidden-secret") {
			t.Errorf("%s: %+v", r.Kind, e)
		}
		in.end()
	}
}
