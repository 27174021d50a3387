package swift_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	client "github.com/ncw/swift/v2"

	"jetkeep/store/object"
	"jetkeep/store/object/objectserver"
	"jetkeep/store/object/swift"
)

func TestWrongAccess(t *testing.T) {
	s, good := segmented(t)
	create(t, good)
	k := keystone(objectserver.Swift(t, objectserver.SwiftOptions{Keystone: true}))
	create(t, k)
	for name, c := range map[string]struct {
		o      swift.Options
		change func(o *swift.Options)
		want   error
		text   string
	}{
		"key":             {good, func(o *swift.Options) { o.Key = "wrong" }, object.ErrPermission, "credentials"},
		"user":            {good, func(o *swift.Options) { o.User = "test:nobody" }, object.ErrPermission, "credentials"},
		"container":       {good, func(o *swift.Options) { o.Container = "none" }, object.ErrNotExist, "there is no container none"},
		"account":         {good, func(o *swift.Options) { o.StorageURL = s.URL + "/v1/AUTH_test2" }, object.ErrPermission, "X-Container-Read"},
		"keystone key":    {k, func(o *swift.Options) { o.Key = "wrong" }, object.ErrPermission, "credentials"},
		"project":         {k, func(o *swift.Options) { o.Project = "none" }, object.ErrPermission, "credentials"},
		"domain":          {k, func(o *swift.Options) { o.Domain = "None" }, object.ErrPermission, "credentials"},
		"region":          {k, func(o *swift.Options) { o.Region = "nowhere" }, nil, "nowhere"},
		"container there": {k, func(o *swift.Options) { o.Container = "none" }, object.ErrNotExist, "there is no container none"},
		"nobody listens":  {good, func(o *swift.Options) { o.AuthURL = "http://127.0.0.1:1/auth/v1.0" }, object.ErrUnavailable, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			o := c.o
			c.change(&o)
			d, err := swift.Open(t.Context(), o)
			if err == nil {
				_ = d.Close()
			}
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%v", err)
			}
			if err != nil && (strings.Contains(err.Error(), "testing") || strings.Contains(err.Error(), "backuppass")) {
				t.Errorf("tells the key: %v", err)
			}
		})
	}
}

// token asks a Keystone for a token, and says whose it is.
func token(t *testing.T, k *objectserver.Keystone) (token, user string) {
	t.Helper()
	domain := map[string]any{"name": k.Domain}
	body := map[string]any{"auth": map[string]any{
		"identity": map[string]any{"methods": []string{"password"}, "password": map[string]any{"user": map[string]any{"name": k.User, "password": k.Password, "domain": domain}}},
		"scope":    map[string]any{"project": map[string]any{"name": k.Project, "domain": domain}},
	}}
	var answer struct {
		Token struct{ User struct{ ID string } }
	}
	header := post(t, k.AuthURL+"/auth/tokens", "", body, &answer)
	return header.Get("X-Subject-Token"), answer.Token.User.ID
}

func post(t *testing.T, url, token string, body, answer any) http.Header {
	t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Auth-Token", token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Fatal(url, resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(answer); err != nil {
		t.Fatal(err)
	}
	return resp.Header
}

// The other ways to authenticate with Keystone: application credentials, by id
// and by name, and a token that somebody else got.
func TestKeystoneCredentials(t *testing.T) {
	s := objectserver.Swift(t, objectserver.SwiftOptions{Keystone: true})
	password := keystone(s)
	create(t, password)
	tok, user := token(t, s.Keystone)
	var made struct {
		ApplicationCredential struct{ ID, Secret string } `json:"application_credential"`
	}
	name := fmt.Sprintf("c%016x", rand.Uint64())
	post(t, s.Keystone.AuthURL+"/users/"+user+"/application_credentials", tok,
		map[string]any{"application_credential": map[string]any{"name": name}}, &made)
	cred := made.ApplicationCredential
	base := swift.Options{AuthURL: password.AuthURL, AuthVersion: 3, Region: password.Region, Container: password.Container}
	byID, byName, byToken := base, base, base
	byID.ApplicationCredentialID, byID.ApplicationCredentialSecret = cred.ID, cred.Secret
	byName.ApplicationCredentialName, byName.ApplicationCredentialSecret = name, cred.Secret
	byName.User, byName.Domain = password.User, password.Domain
	byToken.Token, byToken.Project, byToken.Domain = tok, password.Project, password.Domain
	direct := swift.Options{Token: tok, StorageURL: storage(t, password), Container: password.Container}
	for name, o := range map[string]swift.Options{"id": byID, "name": byName, "token": byToken, "direct": direct} {
		t.Run(name, func(t *testing.T) {
			b := object.NewBucket(create(t, o))
			if err := b.PutBytes(t.Context(), "packs/"+name, []byte(name)); err != nil {
				t.Fatal(err)
			}
			if got, err := b.ReadAll(t.Context(), "packs/"+name, 10); string(got) != name || err != nil {
				t.Error(string(got), err)
			}
		})
	}
	for _, o := range []swift.Options{byToken, direct} {
		o.Token = "expired"
		d, err := swift.Open(t.Context(), o)
		if err == nil {
			_ = d.Close()
		}
		if !errors.Is(err, object.ErrPermission) {
			t.Errorf("with a token that is none: %v", err)
		}
	}
}

// storage returns where a Keystone's catalogue says that the account is.
func storage(t *testing.T, o swift.Options) string {
	t.Helper()
	c := &client.Connection{AuthUrl: o.AuthURL, AuthVersion: 3, UserName: o.User, ApiKey: o.Key, Tenant: o.Project, Domain: o.Domain, Region: o.Region}
	if err := c.Authenticate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c.StorageUrl
}

// Version 2 of the protocol, which no Keystone speaks any more, in the shape in
// which it was documented, before a real Swift.
func TestAuthVersion2Shape(t *testing.T) {
	s := objectserver.Swift(t, objectserver.SwiftOptions{})
	c := raw(t, s)
	asked := make(chan string, 10)
	auth := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		asked <- r.Method + " " + r.URL.Path + " " + string(body)
		fmt.Fprintf(w, `{"access":{"token":{"id":%q,"expires":"2099-01-01T00:00:00Z","tenant":{"id":"t"}},"serviceCatalog":[
			{"type":"object-store","name":"swift","endpoints":[{"region":"here","publicURL":%q}]}]}}`, c.AuthToken, c.StorageUrl)
	}))
	defer auth.Close()
	o := swift.Options{
		AuthURL: auth.URL + "/v2.0", AuthVersion: 2, User: "backup", Key: "secret", Project: "shop", Region: "here",
		Container: fmt.Sprintf("test-%016x", rand.Uint64()),
	}
	b := object.NewBucket(create(t, o))
	if err := b.PutBytes(t.Context(), "packs/x", []byte("x")); err != nil {
		t.Fatal(err)
	}
	want := `POST /v2.0/tokens {"auth":{"passwordCredentials":{"username":"backup","password":"secret"},"tenantName":"shop"}}`
	if got := strings.TrimSpace(<-asked); got != want {
		t.Errorf("asked %s", got)
	}
}

// A token is refused thrice, as when each that is given is about to expire; that
// no login works is said after few.
func TestTokensRefused(t *testing.T) {
	s, o := segmented(t)
	create(t, o)
	var refuse, refused, logins atomic.Int32
	o.AuthURL = between(t, s.URL, func(r *http.Request) {
		logins.Add(1)
		if refuse.Load() > 100 {
			r.Header.Set("X-Auth-Key", "changed")
		}
	}, nil) + "/auth/v1.0"
	o.StorageURL = between(t, s.URL, func(r *http.Request) {
		if refused.Load() < refuse.Load() {
			refused.Add(1)
			r.Header.Set("X-Auth-Token", "AUTH_tkexpired")
		}
	}, nil) + "/v1/AUTH_test"
	d := create(t, o)
	b := object.NewBucket(d)
	if err := errors.Join(b.PutBytes(t.Context(), "packs/one", content(1000)), b.PutBytes(t.Context(), "packs/old", nil)); err != nil {
		t.Fatal(err)
	}
	for name, do := range map[string]func() error{
		"put":  func() error { return b.PutBytes(t.Context(), "packs/two", content(1000)) },
		"get":  func() error { _, err := b.ReadAll(t.Context(), "packs/one", 2000); return err },
		"list": func() error { _, _, err := d.List(t.Context(), "packs/", "", 10); return err },
		"delete": func() error {
			errs, err := d.DeleteMany(t.Context(), []string{"packs/old"})
			return errors.Join(append(errs, err)...)
		},
	} {
		refused.Store(0)
		refuse.Store(3)
		if err := do(); err != nil || refused.Load() != 3 {
			t.Errorf("%s, with %d tokens refused: %v", name, refused.Load(), err)
		}
	}
	refuse.Store(1000)
	logins.Store(0)
	if err := b.PutBytes(t.Context(), "packs/three", content(1000)); !errors.Is(err, object.ErrPermission) {
		t.Error(err)
	}
	if n := logins.Load(); n > 4 {
		t.Error(n, "logins with credentials that are none any more")
	}
}

// Who is of another account and may use the container sees and deletes what is
// there, and not what is in the own account's container of that name.
func TestContainerOfAnotherAccount(t *testing.T) {
	s, o := segmented(t)
	owner := object.NewBucket(create(t, o))
	grant := client.Headers{"X-Container-Read": "test2:stranger", "X-Container-Write": "test2:stranger"}
	if err := raw(t, s).ContainerUpdate(t.Context(), o.Container, grant); err != nil {
		t.Fatal(err)
	}
	own := o
	own.User, own.Key = s.Stranger, "testing4"
	mine := object.NewBucket(create(t, own))
	there := own
	there.StorageURL = s.URL + "/v1/AUTH_test"
	d := create(t, there)
	guest := object.NewBucket(d)
	for b, name := range map[*object.Bucket]string{owner: "packs/theirs", mine: "packs/mine", guest: "packs/guest"} {
		if err := errors.Join(b.PutBytes(t.Context(), name, []byte(name)), b.PutBytes(t.Context(), "packs/"+name[6:7], []byte(name))); err != nil {
			t.Fatal(err)
		}
	}
	page, _, err := d.List(t.Context(), "packs/", "", 10)
	var listed []string
	for _, info := range page {
		listed = append(listed, info.Name)
	}
	if want := []string{"packs/g", "packs/guest", "packs/t", "packs/theirs"}; err != nil || !slices.Equal(listed, want) {
		t.Error(listed, err)
	}
	errs, err := d.DeleteMany(t.Context(), []string{"packs/guest", "packs/theirs", "packs/mine"})
	if err = errors.Join(append(errs, err)...); err != nil {
		t.Error(err)
	}
	if left := names(t, raw(t, s), o.Container); !slices.Equal(left, []string{"p/packs/g", "p/packs/t"}) {
		t.Error("the owner has", left)
	}
	if _, err := mine.Stat(t.Context(), "packs/mine"); err != nil {
		t.Error("in the own account:", err)
	}
}
