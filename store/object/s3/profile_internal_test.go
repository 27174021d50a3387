package s3

import (
	"crypto/sha1" //nolint:gosec // as the name of a file has it
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"jetkeep/store/object"
)

// profileCases are all kinds of profiles that the tools of AWS write. The row is
// what contrib/s3/README.md says of it.
var profileCases = []struct {
	row      string
	profile  string // after [profile used]
	more     string // other sections
	key      string // that it has, if it works
	refused  string // the field that is named otherwise
	unixOnly bool
	machine  bool // and no container
}{
	{row: "`aws_access_key_id`, `aws_secret_access_key`, `aws_session_token`", profile: "aws_access_key_id = plain\naws_secret_access_key = s\naws_session_token = t", key: "plain"},
	{row: "`role_arn` with `source_profile`, of keys", profile: "role_arn = arn:r\nsource_profile = base\nexternal_id = x\nduration_seconds = 1800\nrole_session_name = n", more: "[profile base]\naws_access_key_id = plain\naws_secret_access_key = s", key: "role(plain,arn:r,x,1800,n)"},
	{row: "`role_arn` with `source_profile`, of another role", profile: "role_arn = arn:r\nsource_profile = mid", more: "[profile mid]\nrole_arn = arn:m\nsource_profile = base\n[profile base]\naws_access_key_id = plain\naws_secret_access_key = s", key: "role(role(plain,arn:m,,,jetkeep),arn:r,,,jetkeep)"},
	{row: "`role_arn` with `source_profile`, of itself and keys", profile: "role_arn = arn:r\nsource_profile = used\naws_access_key_id = plain\naws_secret_access_key = s", key: "role(plain,arn:r,,,jetkeep)"},
	{row: "`role_arn` with `source_profile`, of each other", profile: "role_arn = arn:r\nsource_profile = mid", more: "[profile mid]\nrole_arn = arn:m\nsource_profile = used", refused: "source_profile"},
	{row: "`role_arn` with `source_profile` that is not there", profile: "role_arn = arn:r\nsource_profile = none", refused: "source_profile"},
	{row: "`role_arn` with `credential_source: Environment`", profile: "role_arn = arn:r\ncredential_source = Environment", key: "role(env,arn:r,,,jetkeep)"},
	{row: "`role_arn` with `credential_source: EcsContainer`", profile: "role_arn = arn:r\ncredential_source = EcsContainer", key: "role(container,arn:r,,,jetkeep)"},
	{row: "`role_arn` with `credential_source: Ec2InstanceMetadata`, in a container", profile: "role_arn = arn:r\ncredential_source = Ec2InstanceMetadata", refused: "credential_source"},
	{row: "`role_arn` with `credential_source: Ec2InstanceMetadata`, on a machine of EC2", profile: "role_arn = arn:r\ncredential_source = Ec2InstanceMetadata", machine: true, key: "role(machine,arn:r,,,jetkeep)"},
	{row: "`role_arn` with another `credential_source`", profile: "role_arn = arn:r\ncredential_source = Other", refused: "credential_source"},
	{row: "`role_arn` with `web_identity_token_file`", profile: "role_arn = arn:r\nweb_identity_token_file = TOKEN", key: "web(the token,arn:r)"},
	{row: "`role_arn` with `web_identity_token_file` and `role_session_name`", profile: "role_arn = arn:r\nweb_identity_token_file = TOKEN\nrole_session_name = n", refused: "role_session_name"},
	{row: "`role_arn` with `mfa_serial`", profile: "role_arn = arn:r\nsource_profile = base\nmfa_serial = arn:mfa", more: "[profile base]\naws_access_key_id = plain\naws_secret_access_key = s", refused: "mfa_serial"},
	{row: "`role_arn` alone", profile: "role_arn = arn:r", refused: "role_arn"},
	{row: "`role_arn` with two of `source_profile`, `credential_source` and `web_identity_token_file`", profile: "role_arn = arn:r\ncredential_source = Environment\nsource_profile = used", refused: "role_arn"},
	{row: "`role_arn` with a `duration_seconds` of less than 900", profile: "role_arn = arn:r\ncredential_source = Environment\nduration_seconds = 10", refused: "duration_seconds"},
	{row: "`source_profile` without `role_arn`", profile: "source_profile = base", refused: "role_arn"},
	{row: "`sso_session`, after `aws sso login`", profile: "sso_session = corp\nsso_account_id = 1\nsso_role_name = backup", more: "[sso-session corp]\nsso_region = eu-1\nsso_start_url = https://corp.test/start", key: "sso(1,backup)"},
	{row: "`sso_start_url`, after `aws sso login`", profile: "sso_start_url = https://old.test/start\nsso_region = eu-1\nsso_account_id = 1\nsso_role_name = backup", key: "sso(1,backup)"},
	{row: "`role_arn` with `source_profile`, of SSO", profile: "role_arn = arn:r\nsource_profile = base", more: "[profile base]\nsso_session = corp\nsso_account_id = 1\nsso_role_name = backup\n[sso-session corp]\nsso_region = eu-1", key: "role(sso(1,backup),arn:r,,,jetkeep)"},
	{row: "`sso_session` whose login is over or never was", profile: "sso_session = late\nsso_account_id = 1\nsso_role_name = backup", more: "[sso-session late]\nsso_region = eu-1", refused: "sso_session"},
	{row: "`sso_session` without `sso_role_name`", profile: "sso_session = corp\nsso_account_id = 1", refused: "sso_role_name"},
	{row: "`credential_process`", profile: `credential_process = printf '{"Version":1,"AccessKeyId":"%s","SecretAccessKey":"s"}' "of a program"`, key: "of a program", unixOnly: true},
	{row: "`credential_process` that fails or says something else", profile: "credential_process = echo none", refused: "credential_process"},
	{row: "`login_session`, of `aws login`", profile: "login_session = arn:s", refused: "login_session"},
	{row: "one of `aws_access_key_id` and `aws_secret_access_key`", profile: "aws_access_key_id = plain", refused: "aws_secret_access_key"},
	{row: "nothing of these", profile: "region = eu-1", refused: "aws_access_key_id"},
}

// cloud answers as STS, the portal of SSO, and a container's host do, with keys
// that say what they were given for.
func cloud(t *testing.T) http.RoundTripper {
	t.Helper()
	expires := time.Now().Add(time.Hour).UTC()
	return roundTrip(func(req *http.Request) (*http.Response, error) {
		resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}}
		say := func(text string, args ...any) {
			resp.Body = io.NopCloser(strings.NewReader(fmt.Sprintf(text, args...)))
		}
		const keys = "<AccessKeyId>%s</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>%s</Expiration>"
		switch req.URL.Host {
		case "sts.test":
			if err := req.ParseForm(); err != nil {
				return nil, err
			}
			f := func(name string) string { return req.PostForm.Get(name) }
			if f("Action") == "AssumeRoleWithWebIdentity" {
				key := "web(" + f("WebIdentityToken") + "," + f("RoleArn") + ")"
				say("<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleWithWebIdentityResult><Credentials>"+keys+"</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>", key, expires.Format(time.RFC3339))
				break
			}
			_, by, _ := strings.Cut(req.Header.Get("Authorization"), "Credential=")
			by, _, _ = strings.Cut(by, "/")
			key := "role(" + strings.Join([]string{by, f("RoleArn"), f("ExternalId"), f("DurationSeconds"), f("RoleSessionName")}, ",") + ")"
			say("<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials>"+keys+"</Credentials></AssumeRoleResult></AssumeRoleResponse>", key, expires.Format(time.RFC3339))
		case "portal.sso.eu-1.amazonaws.com":
			q := req.URL.Query()
			say(`{"roleCredentials":{"accessKeyId":"sso(%s,%s)","secretAccessKey":"s","sessionToken":"t","expiration":%d}}`, q.Get("account_id"), q.Get("role_name"), expires.UnixMilli())
		case "machine.test":
			switch {
			case req.Method == http.MethodPut:
				say("session")
			case strings.HasSuffix(req.URL.Path, "/"):
				say("backup")
			default:
				say(`{"Code":"Success","AccessKeyId":"machine","SecretAccessKey":"s","Token":"t","Expiration":%q}`, expires.Format(time.RFC3339))
			}
		case "127.0.0.1":
			say(`{"AccessKeyId":"container","SecretAccessKey":"s","Token":"t","Expiration":%q}`, expires.Format(time.RFC3339))
		default:
			t.Errorf("nobody is to be asked at %s", req.URL.Host)
			return nil, errors.New("nobody is there")
		}
		return resp, nil
	})
}

// login leaves what `aws sso login` does in a home directory.
func login(t *testing.T, home, session string, expires time.Time) {
	t.Helper()
	dir := filepath.Join(home, ".aws", "sso", "cache")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(map[string]string{"accessToken": "x", "expiresAt": expires.UTC().Format(time.RFC3339), "region": "eu-1"})
	if err != nil {
		t.Fatal(err)
	}
	sum := sha1.Sum([]byte(session)) //nolint:gosec // as above
	if err := os.WriteFile(filepath.Join(dir, hex.EncodeToString(sum[:])+".json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Each kind of profile works, or is refused by an error that names the field that
// is to blame; which of the two the README's table says.
func TestProfiles(t *testing.T) {
	home := t.TempDir()
	for name, value := range map[string]string{
		"HOME": home, "USERPROFILE": home, "AWS_PROFILE": "", "AWS_SHARED_CREDENTIALS_FILE": "", "AWS_CONFIG_FILE": "", "AWS_EC2_METADATA_DISABLED": "",
		stsVariable: "http://sts.test", tokenFileVariable: "", relativeURIVariable: "", "AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://machine.test",
		"AWS_CONTAINER_AUTHORIZATION_TOKEN": "", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "",
		"AWS_ACCESS_KEY_ID": "env", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "",
	} {
		t.Setenv(name, value)
	}
	login(t, home, "corp", time.Now().Add(time.Hour))
	login(t, home, "https://old.test/start", time.Now().Add(time.Hour))
	login(t, home, "late", time.Now().Add(-time.Hour))
	token := filepath.Join(home, "token")
	if err := os.WriteFile(token, []byte("the token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	table := []string{"| profile | |", "|---|---|"}
	for _, c := range profileCases {
		text := "[profile used]\n" + strings.ReplaceAll(c.profile, "TOKEN", token) + "\n" + c.more + "\n"
		if err := os.WriteFile(filepath.Join(home, ".aws", "config"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv(containerURIVariable, "http://127.0.0.1/keys")
		if c.machine {
			t.Setenv(containerURIVariable, "")
		}
		o := Options{Credentials: CredentialsProfile, Profile: "used", Region: "eu-1"}
		from := o.chain(http.DefaultTransport.(*http.Transport))
		from.client = &http.Client{Transport: cloud(t)}
		value, err := credentials.New(from).GetWithContext(nil)
		var denied *object.PermissionError
		switch {
		case c.unixOnly && runtime.GOOS == "windows":
		case c.key != "" && (err != nil || value.AccessKeyID != c.key):
			t.Errorf("%s: got %q, want %q: %v", c.row, value.AccessKeyID, c.key, err)
		case c.refused != "" && (!errors.As(err, &denied) || denied.Action != theCredentials || !strings.Contains(err.Error(), c.refused) || !strings.Contains(err.Error(), "used")):
			t.Errorf("%s: want a refusal that names %s: %v", c.row, c.refused, err)
		}
		says := "works"
		if c.refused != "" {
			says = "is refused: `" + c.refused + "`"
		}
		table = append(table, "| "+c.row+" | "+says+" |")
	}
	b, err := os.ReadFile("../../../contrib/s3/README.md")
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Join(table, "\n") + "\n\n"; !strings.Contains(string(b), want) {
		t.Errorf("contrib/s3/README.md has another table:\n%s", want)
	}
}

// The credentials file comes before the configuration file, and a profile of
// either is found.
func TestProfileFiles(t *testing.T) {
	dir := t.TempDir()
	files := map[string]string{
		"credentials": "[used]\naws_access_key_id = first\naws_secret_access_key = s\n",
		"config":      "[default]\naws_access_key_id = d\naws_secret_access_key = s\n[profile used]\naws_access_key_id = second\naws_secret_access_key = s\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ credentials, config, given, profile, want string }{
		{"credentials", "config", "", "used", "first"},
		{"none", "config", "", "used", "second"},
		{"credentials", "none", "", "used", "first"},
		{"none", "config", "", "default", "d"},
		{"none", "none", "credentials", "used", "first"},
		{"none", "none", "config", "used", "second"},
	} {
		t.Setenv("AWS_SHARED_CREDENTIALS_FILE", filepath.Join(dir, c.credentials))
		t.Setenv("AWS_CONFIG_FILE", filepath.Join(dir, c.config))
		p := &profile{name: c.profile}
		if c.given != "" {
			p.file = filepath.Join(dir, c.given)
		}
		if v, err := p.Retrieve(); err != nil || v.AccessKeyID != c.want || !p.IsExpired() {
			t.Errorf("%+v: %q, expired %t: %v", c, v.AccessKeyID, p.IsExpired(), err)
		}
	}
}
