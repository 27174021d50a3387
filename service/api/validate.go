package api

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Validate checks what the types do not say.
func (r *BackupCreateRequest) Validate() error {
	return first(
		checkName("target", r.Target),
		checkName("repository", r.Repository),
		checkPatterns("streams", r.Streams),
		checkPatterns("exclude", r.Exclude),
		checkTags("tags", r.Tags),
		checkNotScheduled(r.Tags),
	)
}

// Validate checks what the types do not say.
func (r *BackupListRequest) Validate() error {
	return first(
		checkName("repository", r.Repository),
		checkName("target", r.Target),
		checkPattern("stream", r.Stream),
		checkPage(&r.Limit, r.Cursor),
	)
}

// Validate checks what the types do not say.
func (r *BackupInfoRequest) Validate() error {
	return first(
		checkID("backup", r.Backup, true),
		checkName("repository", r.Repository),
		checkPage(&r.Limit, r.Cursor),
	)
}

// Validate checks what the types do not say.
func (r *RestoreRequest) Validate() error {
	if r.Backup != "" && r.At != nil {
		return invalid("at", "give \"backup\" or \"at\", not both")
	}
	if r.Backup != "" && r.From != "" {
		return invalid("from", "a backup is of one target, \"from\" goes with \"at\" or neither")
	}
	if r.Conflict != "" && r.Conflict != "fail" {
		return Errorf(CodeNotSupported, "conflict %q is not supported, only \"fail\"", clip(r.Conflict)).WithField("conflict")
	}
	return first(
		checkID("backup", r.Backup, false),
		checkPatterns("streams", r.Streams),
		checkPatterns("exclude", r.Exclude),
		checkName("repository", r.Repository),
		checkName("target", r.Target),
		checkName("from", r.From),
		checkSealed("identity_sealed", r.Identity),
	)
}

// Validate checks what the types do not say.
func (r *BackupDeleteRequest) Validate() error {
	return first(checkChosen(r.Backup, r.Points), checkName("repository", r.Repository))
}

// Validate checks what the types do not say.
func (r *BackupPinRequest) Validate() error {
	return first(checkChosen(r.Backup, r.Points), checkName("repository", r.Repository), checkText("reason", r.Reason, MaxText))
}

// Validate checks what the types do not say.
func (r *BackupUnpinRequest) Validate() error {
	return first(checkChosen(r.Backup, r.Points), checkName("repository", r.Repository))
}

// Validate checks what the types do not say and fills in the level.
func (r *BackupVerifyRequest) Validate() error {
	return first(
		checkChosen(r.Backup, r.Points),
		checkName("repository", r.Repository),
		checkLevel(&r.Level),
		checkSubset(r.Part, r.Parts, r.Percent),
		checkSealed("identity_sealed", r.Identity),
	)
}

// Validate checks what the types do not say.
func (r *BackupDrillRequest) Validate() error {
	return first(
		checkID("backup", r.Backup, false),
		checkName("repository", r.Repository),
		checkPatterns("streams", r.Streams),
		checkPatterns("exclude", r.Exclude),
		checkSealed("identity_sealed", r.Identity),
	)
}

// Validate checks what the types do not say and fills in the level.
func (r *RepositoryVerifyRequest) Validate() error {
	return first(
		checkName("repository", r.Repository),
		checkLevel(&r.Level),
		checkSubset(r.Part, r.Parts, r.Percent),
		checkSealed("identity_sealed", r.Identity),
	)
}

// Validate checks what the types do not say. Policies and durations are for
// those who understand them.
func (r *RepositoryPruneRequest) Validate() error {
	if r.Keep != nil && len(r.Keep.Tags) > MaxTags {
		return invalid("keep.tags", "has %d entries, at most %d are accepted", len(r.Keep.Tags), MaxTags)
	}
	return first(
		checkName("repository", r.Repository),
		checkName("schedule", r.Schedule),
		checkText("grace", r.Grace, MaxTagValue),
		checkText("orphan_age", r.OrphanAge, MaxTagValue),
		checkPage(&r.Limit, r.Cursor),
	)
}

// Validate checks what the types do not say. Times and durations are for those
// who understand them.
func (r *Schedule) Validate() error {
	if r.Keep != nil && len(r.Keep.Tags) > MaxTags {
		return invalid("keep.tags", "has %d entries, at most %d are accepted", len(r.Keep.Tags), MaxTags)
	}
	return first(
		checkText("cron", r.Cron, MaxTagValue),
		checkText("zone", r.Zone, MaxTagValue),
		checkText("jitter", r.Jitter, MaxTagValue),
		checkText("start_deadline", r.Deadline, MaxTagValue),
		checkText("timeout", r.Timeout, MaxTagValue),
		checkName("target", r.Target),
		checkName("repository", r.Repository),
		checkPatterns("streams", r.Streams),
		checkUnreserved("streams", r.Streams),
		checkPatterns("exclude", r.Exclude),
		checkTags("tags", r.Tags),
		checkNotScheduled(r.Tags),
	)
}

// Validate checks what the types do not say. Which fields there are to be reset is
// for those who do it.
func (r *SchedulePutRequest) Validate() error {
	if len(r.Reset) > MaxPatterns {
		return invalid("reset", "has %d entries, at most %d are accepted", len(r.Reset), MaxPatterns)
	}
	return r.Schedule.Validate()
}

// Validate checks what the types do not say.
func (r *ScheduleListRequest) Validate() error { return checkPage(&r.Limit, r.Cursor) }

// Validate checks what the types do not say.
func (r *SessionListRequest) Validate() error {
	if r.Kind != "" && !contains(Kinds(), r.Kind) {
		return invalid("kind", "there is no kind %q", clip(string(r.Kind)))
	}
	for i, s := range r.States {
		if !contains(States(), s) {
			return invalid(fmt.Sprintf("states[%d]", i), "there is no state %q", clip(string(s)))
		}
	}
	return checkPage(&r.Limit, r.Cursor)
}

// Validate checks what the types do not say.
func (r *SessionInfoRequest) Validate() error {
	return first(checkID("session", r.Session, true), checkPage(&r.Limit, r.Cursor))
}

// Validate checks what the types do not say.
func (r *SessionCancelRequest) Validate() error {
	return first(checkID("session", r.Session, true), checkText("reason", r.Reason, MaxText))
}

// Validate checks what the types do not say.
func (r *TargetInfoRequest) Validate() error {
	return first(checkName("target", r.Target), checkPage(&r.Limit, r.Cursor))
}

// Validate checks what the types do not say.
func (r *RepositoryInfoRequest) Validate() error { return checkName("repository", r.Repository) }

// Validate checks what the types do not say.
func (r *RepositoryAcceptRequest) Validate() error {
	if r.Repository == "" {
		return invalid("repository", "is required")
	}
	return first(checkName("repository", r.Repository), checkText("id", r.ID, MaxText), checkText("recipient", r.Recipient, MaxText))
}

// CheckName tells whether a target, repository or instance can have this name.
func CheckName(name string) error {
	if len(name) > 64 {
		return fmt.Errorf("is longer than 64 bytes")
	}
	if !nameToken.MatchString(name) {
		return fmt.Errorf("may have letters, digits, _ and - only")
	}
	return nil
}

// ValidStreamName tells whether a server accepts a stream of that name.
func ValidStreamName(name string) bool {
	return name != "" && len(name) <= MaxName && validStreamChars(name, " \t\r\n\f.*>/\\?")
}

// ValidPattern tells whether p is a stream name or a pattern of them.
func ValidPattern(p string) bool {
	return p != "" && len(p) <= MaxName && validStreamChars(p, " \t\r\n\f.>/\\")
}

func validStreamChars(s, forbidden string) bool {
	return utf8.ValidString(s) && !strings.ContainsAny(s, forbidden)
}

// Reserved tells whether a stream is jetkeep's own, among them those that
// hold its buckets.
func Reserved(stream string) bool {
	for _, p := range []string{"", "KV_", "OBJ_"} {
		if strings.HasPrefix(stream, p+ReservedPrefix) {
			return true
		}
	}
	return false
}

func checkName(field, name string) error {
	if name == "" {
		return nil
	}
	if err := CheckName(name); err != nil {
		return invalid(field, "%q %v", clip(name), err)
	}
	return nil
}

func checkID(field, id string, required bool) error {
	if id == "" {
		if required {
			return invalid(field, "is required")
		}
		return nil
	}
	if len(id) > 64 || !nameToken.MatchString(id) {
		return invalid(field, "%q is no id", clip(id))
	}
	return nil
}

// checkChosen checks that a request names a backup or restore points.
func checkChosen(backup string, points []string) error {
	switch {
	case backup == "" && len(points) == 0:
		return invalid("backup", "give \"backup\" or \"restore_points\"")
	case backup != "" && len(points) > 0:
		return invalid("restore_points", "give \"backup\" or \"restore_points\", not both")
	case len(points) > MaxPoints:
		return invalid("restore_points", "has %d entries, at most %d are accepted", len(points), MaxPoints)
	}
	seen := make(map[string]bool, len(points))
	for i, p := range points {
		at := fmt.Sprintf("restore_points[%d]", i)
		if len(p) > 64 || !nameToken.MatchString(strings.Replace(p, ".", "_", 1)) {
			return invalid(at, "%q is no id of a restore point", clip(p))
		}
		if seen[p] {
			return invalid(at, "%q is there twice", p)
		}
		seen[p] = true
	}
	return checkID("backup", backup, false)
}

func checkLevel(l *Level) error {
	if *l == "" {
		*l = LevelData
	}
	if !contains(Levels(), *l) {
		return invalid("level", "there is no level %q", clip(string(*l)))
	}
	return nil
}

// maxParts is far more than days between two full verifications.
const maxParts = 10_000

func checkSubset(part, parts, percent int) error {
	switch {
	case percent != 0 && (part != 0 || parts != 0):
		return invalid("percent", "goes without \"part\" and \"parts\"")
	case percent < 0 || percent > 100:
		return invalid("percent", "must be between 1 and 100")
	case parts < 0 || parts > maxParts:
		return invalid("parts", "must be between 1 and %d", maxParts)
	case part < 0 || part > parts || part == 0 && parts > 0:
		return invalid("part", "must be between 1 and \"parts\"")
	}
	return nil
}

// checkSealed checks the form of what is sealed to the service; it never shows
// any of it.
func checkSealed(field, s string) error {
	if s == "" {
		return nil
	}
	key, sealed, ok := strings.Cut(s, ".")
	if len(s) > MaxSealed || !ok || !nameToken.MatchString(key) || sealed == "" {
		return invalid(field, "is not <public xkey of the sender>.<base64>, of at most %d bytes", MaxSealed)
	}
	return nil
}

func checkPattern(field, p string) error {
	if p == "" || ValidPattern(p) {
		return nil
	}
	return Errorf(CodeInvalidStream, "field %s: %q is no stream name and no pattern", field, clip(p)).WithField(field)
}

func checkPatterns(field string, patterns []string) error {
	if len(patterns) > MaxPatterns {
		return invalid(field, "has %d entries, at most %d are accepted", len(patterns), MaxPatterns)
	}
	for i, p := range patterns {
		at := fmt.Sprintf("%s[%d]", field, i)
		if !ValidPattern(p) {
			return Errorf(CodeInvalidStream, "field %s: %q is no stream name and no pattern", at, clip(p)).WithField(at)
		}
	}
	return nil
}

func checkTags(field string, tags map[string]string) error {
	if len(tags) > MaxTags {
		return invalid(field, "has %d entries, at most %d are accepted", len(tags), MaxTags)
	}
	for k, v := range tags {
		if k == "" || len(k) > MaxTagKey || !nameToken.MatchString(strings.ReplaceAll(k, ".", "_")) {
			return invalid(field, "key %q: 1 to %d letters, digits, '.', '_' and '-' are accepted", clip(k), MaxTagKey)
		}
		if err := checkText(field+"."+k, v, MaxTagValue); err != nil {
			return err
		}
	}
	return nil
}

// checkNotScheduled keeps the tag by which hooks and notifications know what a
// schedule started.
func checkNotScheduled(tags map[string]string) error {
	if _, ok := tags[ScheduleTag]; ok {
		return invalid("tags."+ScheduleTag, "only a schedule gives its backups this tag, and its own name for a value")
	}
	return nil
}

func checkUnreserved(field string, names []string) error {
	for i, n := range names {
		if Reserved(n) && !IsPattern(n) {
			at := fmt.Sprintf("%s[%d]", field, i)
			return Errorf(CodeReservedStream, "field %s: stream %s belongs to jetkeep itself", at, clip(n)).WithField(at)
		}
	}
	return nil
}

func checkText(field, s string, most int) error {
	if len(s) > most {
		return invalid(field, "has %d bytes, at most %d are accepted", len(s), most)
	}
	return nil
}

func checkPage(limit *int, cursor string) error {
	if *limit < 0 || *limit > MaxLimit {
		return invalid("limit", "must be between 1 and %d", MaxLimit)
	}
	if *limit == 0 {
		*limit = DefaultLimit
	}
	if len(cursor) > 2*MaxName {
		return invalid("cursor", "is none that was given out")
	}
	return nil
}

func invalid(field, format string, args ...any) error {
	return Errorf(CodeInvalidRequest, "field %s: %s", field, fmt.Sprintf(format, args...)).WithField(field)
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func contains[T comparable](list []T, v T) bool {
	for _, x := range list {
		if x == v {
			return true
		}
	}
	return false
}
