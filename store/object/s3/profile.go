package s3

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
	"gopkg.in/ini.v1"
)

const (
	maxProfiles      = 8       // that one is made of by source_profile
	maxProcessAnswer = 1 << 20 // bytes that a credential_process may say
	// processTime is for how long a program is not asked again that does not say
	// when its credentials expire.
	processTime = time.Hour
	roleSession = "jetkeep"
	stsVariable = "AWS_ENDPOINT_URL_STS"
	minRoleTime = 900 // seconds
	maxRoleTime = 43200
)

// A profile is a provider of what a profile of the shared configuration says.
// The client's library knows keys and SSO; roles and programs are added here.
type profile struct {
	credentials.Expiry // zero for keys, whose file is read each time
	file, name, region string
}

// Retrieve implements credentials.Provider.
func (p *profile) Retrieve() (credentials.Value, error) {
	return p.RetrieveWithCredContext(&credentials.CredContext{})
}

// RetrieveWithCredContext implements credentials.Provider.
func (p *profile) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	name := cmp.Or(p.name, os.Getenv("AWS_PROFILE"), "default")
	files, err := p.load()
	if err != nil {
		return credentials.Value{}, err
	}
	value, err := p.resolve(files, name, nil, cc)
	if err != nil {
		return credentials.Value{}, fmt.Errorf("profile %s: %w", name, err)
	}
	p.Expiry = credentials.Expiry{}
	if !value.Expiration.IsZero() {
		p.SetExpiration(value.Expiration, credentials.DefaultExpiryWindow)
	}
	return value, nil
}

// A section is what a profile says, and what more the configuration file says
// of it.
type section []*ini.Section

// get returns a field, of the credentials file before that of the configuration.
func (s section) get(field string) string {
	for _, from := range s {
		if v := strings.TrimSpace(from.Key(field).String()); v != "" {
			return v
		}
	}
	return ""
}

// A profileFile holds profiles; those of the configuration file but for the
// default have "profile" before their names.
type profileFile struct {
	*ini.File
	config bool
}

// load reads the file that is given, else the shared ones, of which one may be
// missing.
func (p *profile) load() ([]profileFile, error) {
	if p.file != "" {
		f, err := ini.Load(p.file)
		return []profileFile{{f, false}, {f, true}}, err
	}
	home, _ := os.UserHomeDir()
	var files []profileFile
	var missing error
	for _, at := range []struct {
		variable, name string
		config         bool
	}{{"AWS_SHARED_CREDENTIALS_FILE", "credentials", false}, {"AWS_CONFIG_FILE", "config", true}} {
		f, err := ini.Load(cmp.Or(os.Getenv(at.variable), filepath.Join(home, ".aws", at.name)))
		switch {
		case err == nil:
			files = append(files, profileFile{f, at.config})
		case errors.Is(err, fs.ErrNotExist):
			missing = err
		default:
			return nil, err
		}
	}
	if files == nil {
		return nil, missing
	}
	return files, nil
}

// find returns a profile.
func find(files []profileFile, name string) (section, error) {
	var found section
	for _, f := range files {
		titles := []string{name}
		if f.config {
			titles = []string{"profile " + name}
			if name == "default" {
				titles = append(titles, name)
			}
		}
		for _, title := range titles {
			if s, err := f.GetSection(title); err == nil {
				found = append(found, s)
			}
		}
	}
	if found == nil {
		return nil, fmt.Errorf("there is no profile %s", name)
	}
	return found, nil
}

// resolve returns the credentials of a profile. above are those that it is the
// source of.
func (p *profile) resolve(files []profileFile, name string, above []string, cc *credentials.CredContext) (credentials.Value, error) {
	s, err := find(files, name)
	if err != nil {
		return credentials.Value{}, err
	}
	self := len(above) > 0 && above[len(above)-1] == name // keys and role are in one
	if len(above) >= maxProfiles || slices.Contains(above, name) && !self {
		return credentials.Value{}, fmt.Errorf("source_profile: %s is made of itself", strings.Join(append(above, name), ", "))
	}
	for _, field := range []string{"login_session", "mfa_serial"} {
		if s.get(field) != "" && (field != "mfa_serial" || s.get("role_arn") != "") && !self {
			return credentials.Value{}, fmt.Errorf("%s: nobody is there to log in; %s", field, instead(name))
		}
	}
	switch {
	case s.get("role_arn") != "" && !self:
		return p.role(files, s, name, above, cc)
	case s.get("source_profile") != "" && !self, s.get("credential_source") != "" && !self:
		return credentials.Value{}, errors.New("role_arn: is required with source_profile and credential_source")
	case s.get("aws_access_key_id") == "" && s.get("sso_role_name") == "" && s.get("sso_session") == "" && s.get("credential_process") != "":
		return ofProcess(requestContext(cc), s.get("credential_process"))
	}
	library := &credentials.FileAWSCredentials{Filename: p.file, Profile: name}
	value, err := library.RetrieveWithCredContext(cc)
	if err == nil && (value.AccessKeyID == "" || value.SecretAccessKey == "") {
		err = errors.New("aws_access_key_id: is missing, and so are role_arn, credential_process and sso_session")
	}
	if err != nil && (s.get("sso_session") != "" || s.get("sso_start_url") != "") {
		err = fmt.Errorf("sso_session: %w; %s", err, instead(name))
	}
	return value, err
}

// instead says how to use a profile that somebody has to log in for.
func instead(name string) string {
	return "another profile can have credential_process: aws configure export-credentials --profile " + name
}

// role returns the credentials of a profile's role.
func (p *profile) role(files []profileFile, s section, name string, above []string, cc *credentials.CredContext) (credentials.Value, error) {
	from := 0
	for _, field := range []string{"source_profile", "credential_source", "web_identity_token_file"} {
		if s.get(field) != "" {
			from++
		}
	}
	if from != 1 {
		return credentials.Value{}, errors.New("role_arn: needs one of source_profile, credential_source and web_identity_token_file")
	}
	region := cmp.Or(s.get("region"), p.region)
	if s.get("web_identity_token_file") != "" {
		return ofIdentity(s, region, cc)
	}
	seconds := 0
	if text := s.get("duration_seconds"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < minRoleTime || n > maxRoleTime {
			return credentials.Value{}, fmt.Errorf("duration_seconds: must be between %d and %d", minRoleTime, maxRoleTime)
		}
		seconds = n
	}
	var source credentials.Value
	var err error
	if next := s.get("source_profile"); next != "" {
		source, err = p.resolve(files, next, append(slices.Clone(above), name), cc)
		if err != nil {
			err = fmt.Errorf("source_profile %s: %w", next, err)
		}
	} else {
		source, err = ofSource(s.get("credential_source"), cc)
	}
	if err != nil {
		return credentials.Value{}, err
	}
	sts := &credentials.STSAssumeRole{STSEndpoint: stsEndpoint(region), Options: credentials.STSAssumeRoleOptions{
		AccessKey: source.AccessKeyID, SecretKey: source.SecretAccessKey, SessionToken: source.SessionToken, Location: region,
		RoleARN: s.get("role_arn"), RoleSessionName: cmp.Or(s.get("role_session_name"), roleSession), ExternalID: s.get("external_id"),
		DurationSeconds: seconds,
	}}
	value, err := sts.RetrieveWithCredContext(cc)
	if err != nil {
		return credentials.Value{}, fmt.Errorf("role_arn: %w", err)
	}
	return value, nil
}

// stsEndpoint is where roles are asked for.
func stsEndpoint(region string) string {
	at := "https://sts." + region + ".amazonaws.com"
	if strings.HasPrefix(region, "cn-") {
		at += ".cn"
	}
	return cmp.Or(os.Getenv(stsVariable), at)
}

// ofIdentity exchanges the token in a file for credentials of the role.
func ofIdentity(s section, region string, cc *credentials.CredContext) (credentials.Value, error) {
	if s.get("role_session_name") != "" {
		return credentials.Value{}, errors.New("role_session_name: cannot be given with web_identity_token_file, but as AWS_ROLE_SESSION_NAME with credentials web_identity")
	}
	sts := &credentials.STSWebIdentity{
		STSEndpoint: stsEndpoint(region), RoleARN: s.get("role_arn"),
		GetWebIDTokenExpiry: func() (*credentials.WebIdentityToken, error) {
			token, err := os.ReadFile(s.get("web_identity_token_file"))
			return &credentials.WebIdentityToken{Token: strings.TrimSpace(string(token))}, err
		},
	}
	value, err := sts.RetrieveWithCredContext(cc)
	if err != nil {
		return credentials.Value{}, fmt.Errorf("web_identity_token_file: %w", err)
	}
	return value, nil
}

// ofSource returns the credentials of a source that has them without a profile.
func ofSource(name string, cc *credentials.CredContext) (value credentials.Value, err error) {
	switch name {
	case "Environment":
		value, err = (&credentials.EnvAWS{}).RetrieveWithCredContext(cc)
		if err == nil && value.AccessKeyID == "" {
			err = errors.New("AWS_ACCESS_KEY_ID is not set")
		}
	case "Ec2InstanceMetadata", "EcsContainer":
		if err = hasInstance(); err != nil {
			break
		}
		if container := name == "EcsContainer"; container != inContainer() {
			err = fmt.Errorf("this is a container: %t, by %s and %s", inContainer(), containerURIVariable, relativeURIVariable)
			break
		}
		value, err = (&credentials.IAM{Endpoint: metadataEndpoint()}).RetrieveWithCredContext(cc)
	default:
		err = errors.New("is none of Environment, Ec2InstanceMetadata and EcsContainer")
	}
	if err != nil {
		return credentials.Value{}, fmt.Errorf("credential_source %s: %w", name, err)
	}
	return value, nil
}

// ofProcess runs a program that says credentials.
func ofProcess(ctx context.Context, command string) (credentials.Value, error) {
	cmd := exec.CommandContext(ctx, "sh", "-c", command)
	if runtime.GOOS == "windows" {
		cmd = exec.CommandContext(ctx, "cmd.exe", "/C", command)
	}
	var out, said bounded
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &said, time.Second
	if err := cmd.Run(); err != nil {
		return credentials.Value{}, fmt.Errorf("credential_process: %w: %s", err, bytes.TrimSpace(said.Bytes()))
	}
	var answer struct {
		Version                                   int
		AccessKeyID                               string `json:"AccessKeyId"`
		SecretAccessKey, SessionToken, Expiration string
	}
	err := json.Unmarshal(out.Bytes(), &answer)
	switch {
	case err != nil:
		return credentials.Value{}, errors.New("credential_process: what it says is not JSON") // it may be a secret
	case answer.Version != 1:
		return credentials.Value{}, fmt.Errorf("credential_process: says Version %d, and not 1", answer.Version)
	case answer.AccessKeyID == "" || answer.SecretAccessKey == "":
		return credentials.Value{}, errors.New("credential_process: says no AccessKeyId or no SecretAccessKey")
	}
	value := credentials.Value{
		AccessKeyID: answer.AccessKeyID, SecretAccessKey: answer.SecretAccessKey, SessionToken: answer.SessionToken,
		SignerType: credentials.SignatureV4, Expiration: time.Now().Add(processTime),
	}
	if answer.Expiration != "" {
		if value.Expiration, err = time.Parse(time.RFC3339, answer.Expiration); err != nil {
			return credentials.Value{}, errors.New("credential_process: Expiration is no time")
		}
	}
	return value, nil
}

// A bounded buffer fails whoever writes too much.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxProcessAnswer {
		return 0, errors.New("too much is said")
	}
	return b.Buffer.Write(p)
}

func requestContext(cc *credentials.CredContext) context.Context {
	if cc != nil && cc.Context != nil {
		return cc.Context
	}
	return context.Background()
}
