package objectserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/user"
	"path/filepath"
	"strconv"
	"time"
)

// startKeystone makes a Keystone with its database, starts it, and makes the
// users, projects and endpoints that Swift needs. Swift's proxy need not run.
func startKeystone(s *server, c swiftConf, proxy string) (*Keystone, error) {
	conf, err := s.render("keystone.conf", "keystone.conf", c)
	if err != nil {
		return nil, err
	}
	base := fmt.Sprintf("http://%s/v3", address(c.KeystonePort))
	if err := s.bootstrap(conf, base, c.User); err != nil {
		return nil, err
	}
	env := []string{"OS_KEYSTONE_CONFIG_FILES=keystone.conf", "OS_KEYSTONE_CONFIG_DIR=" + filepath.Join(s.dir, "conf")}
	err = s.run("keystone", env, "/usr/bin/python3", "/usr/bin/keystone-wsgi-public", "--host", "127.0.0.1", "--port", strconv.Itoa(c.KeystonePort))
	if err != nil {
		return nil, err
	}
	if err := s.await(answers(base, nil)); err != nil {
		return nil, err
	}
	k := &Keystone{
		AuthURL: base, User: "backup", Password: "backuppass", Reader: "reader", ReaderPassword: "readerpass",
		Project: "backup", Domain: "Default", Region: "RegionOne",
	}
	admin := &keystoneAdmin{base: base}
	return k, admin.populate(k, proxy)
}

func (s *server) bootstrap(conf, base, name string) error {
	me, err := user.Lookup(name)
	if err != nil {
		return err
	}
	group, err := user.LookupGroupId(me.Gid)
	if err != nil {
		return err
	}
	keys := []string{"--keystone-user", name, "--keystone-group", group.Name}
	for _, args := range [][]string{
		{"db_sync"},
		append([]string{"fernet_setup"}, keys...),
		append([]string{"credential_setup"}, keys...),
		{
			"bootstrap", "--bootstrap-password", "adminpass", "--bootstrap-region-id", "RegionOne", "--bootstrap-public-url", base,
			"--bootstrap-internal-url", base, "--bootstrap-admin-url", base,
		},
	} {
		if err := s.command(s.dir, nil, "/usr/bin/keystone-manage", append([]string{"--config-file", conf}, args...)...); err != nil {
			return err
		}
		if args[0] != "db_sync" {
			continue
		}
		// Readers and a writer at once; without it requests find the database locked.
		const wal = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('PRAGMA journal_mode=WAL')"
		if err := s.command(s.dir, nil, "/usr/bin/python3", "-c", wal, filepath.Join(s.dir, "ks", "keystone.db")); err != nil {
			return err
		}
	}
	return nil
}

// A keystoneAdmin speaks to Keystone as its administrator.
type keystoneAdmin struct {
	base, token string
}

// named is what Keystone has a name and an id for.
type named struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// call sends a request, again if the database is locked, and decodes the field
// of that name of the answer.
func (a *keystoneAdmin) call(method, path string, body any, field string, into any) (http.Header, error) {
	var raw []byte
	if body != nil {
		var err error
		if raw, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	for deadline := time.Now().Add(startTimeout); ; {
		req, err := http.NewRequest(method, a.base+path, bytes.NewReader(raw))
		if err != nil {
			return nil, err
		}
		req.Header.Set("Content-Type", "application/json")
		if a.token != "" {
			req.Header.Set("X-Auth-Token", a.token)
		}
		resp, err := patient.Do(req)
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(resp.Body)
		if err = errors.Join(err, resp.Body.Close()); err != nil {
			return nil, err
		}
		if resp.StatusCode == http.StatusInternalServerError && time.Now().Before(deadline) {
			time.Sleep(500 * time.Millisecond)
			continue
		}
		if resp.StatusCode/100 != 2 {
			return nil, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, data)
		}
		if field == "" {
			return resp.Header, nil
		}
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(data, &fields); err != nil {
			return nil, fmt.Errorf("%s %s: %w", method, path, err)
		}
		return resp.Header, json.Unmarshal(fields[field], into)
	}
}

func (a *keystoneAdmin) login() error {
	type m = map[string]any
	domain := m{"id": "default"}
	header, err := a.call(http.MethodPost, "/auth/tokens", m{"auth": m{
		"identity": m{"methods": []string{"password"}, "password": m{"user": m{"name": "admin", "domain": domain, "password": "adminpass"}}},
		"scope":    m{"project": m{"name": "admin", "domain": domain}},
	}}, "", nil)
	if err == nil {
		a.token = header.Get("X-Subject-Token")
	}
	return err
}

func (a *keystoneAdmin) create(kind string, fields map[string]any) (string, error) {
	var made named
	_, err := a.call(http.MethodPost, "/"+kind+"s", map[string]any{kind: fields}, kind, &made)
	return made.ID, err
}

func (a *keystoneAdmin) populate(k *Keystone, proxy string) error {
	if err := a.login(); err != nil {
		return err
	}
	var list []named
	if _, err := a.call(http.MethodGet, "/roles", nil, "roles", &list); err != nil {
		return err
	}
	roles := map[string]string{}
	for _, r := range list {
		roles[r.Name] = r.ID
	}
	for _, u := range []struct {
		name, password, project string
		roles                   []string
	}{
		{"swift", "swiftpass", "service", []string{"admin"}},
		{k.User, k.Password, k.Project, []string{"member"}},
		{k.Reader, k.ReaderPassword, k.Project, []string{"reader"}},
	} {
		if err := a.grant(u.name, u.password, u.project, u.roles, roles); err != nil {
			return err
		}
	}
	service, err := a.create("service", map[string]any{"name": "swift", "type": "object-store"})
	if err != nil {
		return err
	}
	for _, face := range []string{"public", "internal"} {
		_, err := a.create("endpoint", map[string]any{
			"service_id": service, "interface": face, "region": k.Region, "url": proxy + "/v1/KEY_%(tenant_id)s",
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// grant makes a user, and a project unless there is one, and gives roles.
func (a *keystoneAdmin) grant(name, password, project string, want []string, roles map[string]string) error {
	var there []named
	if _, err := a.call(http.MethodGet, "/projects?name="+project, nil, "projects", &there); err != nil {
		return err
	}
	if len(there) == 0 {
		id, err := a.create("project", map[string]any{"name": project, "domain_id": "default"})
		if err != nil {
			return err
		}
		there = []named{{ID: id}}
	}
	id, err := a.create("user", map[string]any{"name": name, "password": password, "domain_id": "default"})
	if err != nil {
		return err
	}
	for _, r := range want {
		if _, err := a.call(http.MethodPut, "/projects/"+there[0].ID+"/users/"+id+"/roles/"+roles[r], nil, "", nil); err != nil {
			return err
		}
	}
	return nil
}
