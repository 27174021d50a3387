package api

import "time"

// PinView is why and since when a restore point is kept in any case.
type PinView struct {
	Reason string     `json:"reason,omitempty"`
	Since  *time.Time `json:"since,omitempty"`
}

// BackupDeleteRequest asks to forget a backup, or single restore points. Give
// one of both.
type BackupDeleteRequest struct {
	Backup     string   `json:"backup,omitempty" doc:"Forget all restore points of this backup."`
	Points     []string `json:"restore_points,omitempty" doc:"Forget these restore points."`
	Repository string   `json:"repository,omitempty"`
	DryRun     bool     `json:"dry_run,omitempty" doc:"Say what would be forgotten, and forget nothing."`
}

// BackupDeleteResponse names what was forgotten.
type BackupDeleteResponse struct {
	Repository string   `json:"repository"`
	Backup     string   `json:"backup,omitempty"`
	DryRun     bool     `json:"dry_run,omitempty" doc:"Nothing was done."`
	Points     []string `json:"restore_points" doc:"The restore points that are forgotten."`
}

// BackupPinRequest asks to keep a backup, or single restore points, whatever
// policies say. Give one of both.
type BackupPinRequest struct {
	Backup     string   `json:"backup,omitempty" doc:"Pin all restore points of this backup."`
	Points     []string `json:"restore_points,omitempty" doc:"Pin these restore points."`
	Repository string   `json:"repository,omitempty"`
	Reason     string   `json:"reason,omitempty" doc:"Why, for people."`
}

// BackupUnpinRequest asks to take pins away. Give one of both.
type BackupUnpinRequest struct {
	Backup     string   `json:"backup,omitempty" doc:"Unpin all restore points of this backup."`
	Points     []string `json:"restore_points,omitempty" doc:"Unpin these restore points."`
	Repository string   `json:"repository,omitempty"`
}

// BackupPinResponse names what is pinned now, or not any more.
type BackupPinResponse struct {
	Repository string   `json:"repository"`
	Backup     string   `json:"backup,omitempty"`
	Points     []string `json:"restore_points"`
}

// Level is how closely a verification looks.
type Level string

// The levels of a verification.
const (
	LevelStructure Level = "structure"
	LevelData      Level = "data"
	LevelRecords   Level = "records"
)

// Levels returns all levels, the least thorough first.
func Levels() []Level { return []Level{LevelStructure, LevelData, LevelRecords} }

// BackupVerifyRequest asks to verify a backup, or single restore points. Give
// one of both.
type BackupVerifyRequest struct {
	Backup     string   `json:"backup,omitempty" doc:"Verify all restore points of this backup."`
	Points     []string `json:"restore_points,omitempty" doc:"Verify these restore points."`
	Repository string   `json:"repository,omitempty"`
	Level      Level    `json:"level,omitempty" doc:"How closely; default: data."`
	Part       int      `json:"part,omitempty" doc:"Which of \"parts\" parts to read, from 1 on."`
	Parts      int      `json:"parts,omitempty" doc:"In how many parts all of it is read, one part a request."`
	Percent    int      `json:"percent,omitempty" doc:"How much to read, chosen at random."`
	Identity   string   `json:"identity_sealed,omitempty" doc:"An age identity that opens the repository, sealed to the service's xkey; for level records."`
}

// BackupDrillRequest asks to restore a backup into a scratch server and to compare
// what comes out.
type BackupDrillRequest struct {
	Backup     string   `json:"backup,omitempty" doc:"Default: the newest one."`
	Repository string   `json:"repository,omitempty"`
	Streams    []string `json:"streams,omitempty" doc:"Names, or patterns with * and ?; default: every stream of the backup."`
	Exclude    []string `json:"exclude,omitempty" doc:"Names or patterns to leave out."`
	Identity   string   `json:"identity_sealed,omitempty" doc:"An age identity that opens the repository, sealed to the service's xkey."`
}

// Drilled is what a drill of one restore point measured.
type Drilled struct {
	Seconds   float64 `json:"seconds" doc:"From the first request to the server until all was compared."`
	Consumers int     `json:"consumers" doc:"That were restored."`
	Server    string  `json:"server" doc:"Version of the scratch server."`
}

// RepositoryVerifyRequest asks to verify all restore points of a repository.
type RepositoryVerifyRequest struct {
	Repository string `json:"repository,omitempty"`
	Level      Level  `json:"level,omitempty" doc:"How closely; default: data."`
	Part       int    `json:"part,omitempty" doc:"Which of \"parts\" parts to read, from 1 on."`
	Parts      int    `json:"parts,omitempty" doc:"In how many parts all of it is read, one part a request."`
	Percent    int    `json:"percent,omitempty" doc:"How much to read, chosen at random."`
	Identity   string `json:"identity_sealed,omitempty" doc:"An age identity that opens the repository, sealed to the service's xkey; for level records."`
}

// MaxProblems is how many problems, notes or restore points a result lists; the
// counts are of all.
const MaxProblems = 100

// Verification is what a verification found.
type Verification struct {
	Level        Level                 `json:"level"`
	Points       int                   `json:"restore_points" doc:"Restore points looked at."`
	Objects      int                   `json:"objects" doc:"Objects looked at."`
	Read         int                   `json:"objects_read" doc:"Objects read whole."`
	Bytes        uint64                `json:"bytes_read"`
	Records      uint64                `json:"records,omitempty" doc:"Messages decoded, at level records."`
	Damaged      int                   `json:"damaged" doc:"Restore points that a problem reaches."`
	DamagedList  []string              `json:"damaged_restore_points,omitempty" doc:"The first of them."`
	ProblemCount int                   `json:"problem_count"`
	Problems     []VerificationProblem `json:"problems,omitempty" doc:"The first of them."`
	Notes        []string              `json:"notes,omitempty" doc:"What is no damage but should be known, such as unsigned restore points."`
	Orphans      int                   `json:"orphans,omitempty" doc:"Objects that no restore point needs; a prune collects them."`
	OrphanBytes  uint64                `json:"orphan_bytes,omitempty"`
	Census       *Census               `json:"census,omitempty" doc:"What the store keeps of what it promised to; left out if it promises nothing."`
}

// Census compares what restore points promise with what the store keeps.
// Promises whose time is over do not count.
type Census struct {
	Points    int        `json:"restore_points" doc:"Restore points that the store promised to keep and must keep still."`
	Objects   int        `json:"objects" doc:"Objects that they need."`
	Retained  int        `json:"objects_retained" doc:"Those of them that are kept as long as promised."`
	Until     *time.Time `json:"retained_until,omitempty" doc:"Before this none of the retained objects can be deleted."`
	Short     int        `json:"short" doc:"Restore points of which something can be deleted before its time."`
	ShortList []string   `json:"short_restore_points,omitempty" doc:"The first of them."`
}

// VerificationProblem is something that is not as it must be.
type VerificationProblem struct {
	Object  string   `json:"object" doc:"Name in the store."`
	Problem string   `json:"problem" doc:"What is wrong, for people."`
	Points  []string `json:"restore_points,omitempty" doc:"The restore points that it reaches."`
}

// Keep is a retention policy: a restore point is kept if any rule keeps it.
// Policies count in each stream of a target apart. Counts of -1 are unlimited;
// durations are such as 36h, 30d or 2w and count back from the newest restore
// point.
type Keep struct {
	Last          int      `json:"last,omitempty" doc:"So many of the newest."`
	Hourly        int      `json:"hourly,omitempty" doc:"The newest of each of so many hours that have one."`
	Daily         int      `json:"daily,omitempty"`
	Weekly        int      `json:"weekly,omitempty"`
	Monthly       int      `json:"monthly,omitempty"`
	Yearly        int      `json:"yearly,omitempty"`
	Within        string   `json:"within,omitempty" doc:"All that are at most so much older than the newest."`
	WithinHourly  string   `json:"within_hourly,omitempty" doc:"The newest of each hour within."`
	WithinDaily   string   `json:"within_daily,omitempty"`
	WithinWeekly  string   `json:"within_weekly,omitempty"`
	WithinMonthly string   `json:"within_monthly,omitempty"`
	WithinYearly  string   `json:"within_yearly,omitempty"`
	Tags          []string `json:"tags,omitempty" doc:"Those with one of these tags: key, or key=value."`
	Zone          string   `json:"zone,omitempty" doc:"Time zone of hours to years, such as Europe/Berlin; default UTC."`
	Floor         *int     `json:"floor,omitempty" doc:"How many of the newest good ones are kept in any case; default 1."`
}

// RepositoryPruneRequest asks to delete what no restore point needs, after
// forgetting by a policy if there is one.
type RepositoryPruneRequest struct {
	Repository string `json:"repository,omitempty"`
	Keep       *Keep  `json:"keep,omitempty" doc:"Forget what this policy does not keep, whoever made it; default: the repository's configured one, which leaves alone what schedules with a policy of their own made, and without one nothing is forgotten."`
	Schedule   string `json:"schedule,omitempty" doc:"Decide about the restore points of this schedule only: by its own policy, or by the one given."`
	DryRun     bool   `json:"dry_run,omitempty" doc:"Answer the plan, and do nothing."`
	Grace      string `json:"grace,omitempty" doc:"How long what is condemned stays for restores that read it."`
	OrphanAge  string `json:"orphan_age,omitempty" doc:"How old what nobody refers to must be before it goes."`
	Limit      int    `json:"limit,omitempty" doc:"Decisions in a plan, default 100, at most 1000."`
	Cursor     string `json:"cursor,omitempty" doc:"The previous plan's \"next\"."`
}

// RepositoryPruneResponse is the plan of a dry run, or the session that was
// started.
type RepositoryPruneResponse struct {
	Repository string     `json:"repository"`
	Schedule   string     `json:"schedule,omitempty" doc:"The schedule about whose restore points it decides; left out if it is about those of others, too."`
	Session    string     `json:"session,omitempty"`
	Kind       Kind       `json:"kind,omitempty"`
	State      State      `json:"state,omitempty"`
	Tasks      int        `json:"tasks,omitempty"`
	DryRun     bool       `json:"dry_run,omitempty" doc:"Nothing was done."`
	Plan       *PrunePlan `json:"plan,omitempty" doc:"Of a dry run."`
}

// PrunePlan is what a prune would do at this moment.
type PrunePlan struct {
	Points    int            `json:"restore_points" doc:"Restore points there are."`
	Keep      int            `json:"keep"`
	Forget    int            `json:"forget"`
	Covered   int            `json:"covered" doc:"Restore points that the policy decides about. The others are kept, and their reasons say why it does not."`
	Unread    int            `json:"unread,omitempty" doc:"Restore points that are sealed or damaged: they are kept, whatever the policy says."`
	Objects   int            `json:"objects" doc:"Objects that would go now or after their waits, of restore points forgotten before and now."`
	Bytes     uint64         `json:"bytes"`
	Decisions []PruneDecided `json:"decisions" doc:"A page of them, the newest restore points first."`
	Next      string         `json:"next,omitempty"`
	Text      []string       `json:"text,omitempty" doc:"What would be done about objects, for people."`
}

// PruneDecided is what becomes of one restore point, and why.
type PruneDecided struct {
	Point   string    `json:"restore_point"`
	Target  string    `json:"target,omitempty"`
	Stream  string    `json:"stream,omitempty"`
	Time    time.Time `json:"time"`
	Keep    bool      `json:"keep"`
	Reasons []string  `json:"reasons"`
}

// Pruned is what a prune did.
type Pruned struct {
	Points        int        `json:"restore_points" doc:"Restore points that are left."`
	Covered       int        `json:"covered" doc:"Restore points that the policy decided about."`
	Forgotten     int        `json:"forgotten" doc:"Restore points forgotten by the policy."`
	ForgetList    []string   `json:"forgotten_restore_points,omitempty" doc:"The first of them."`
	Unread        int        `json:"unread,omitempty" doc:"Restore points that are sealed or damaged and were kept."`
	Condemned     int        `json:"condemned" doc:"Objects that are to go."`
	Deleted       int        `json:"deleted" doc:"Objects that went."`
	DeletedBytes  uint64     `json:"deleted_bytes"`
	Waiting       int        `json:"waiting,omitempty" doc:"Objects that go with a later prune, when their wait is over."`
	Retained      int        `json:"retained,omitempty" doc:"Objects that were to go and that the store keeps, as it promised; a later prune deletes them."`
	RetainedBytes uint64     `json:"retained_bytes,omitempty"`
	RetainedList  []string   `json:"retained_objects,omitempty" doc:"The first of them."`
	RetainedUntil *time.Time `json:"retained_until,omitempty" doc:"When the last of those listed can go."`
	Text          []string   `json:"text,omitempty" doc:"The same for people."`
}

// RepositoryInfoResponse describes a repository.
type RepositoryInfoResponse struct {
	RepositoryView
	ID            string     `json:"id"`
	Format        int        `json:"format"`
	Created       *time.Time `json:"created,omitempty"`
	Backups       int        `json:"backups"`
	RestorePoints int        `json:"restore_points"`
	Damaged       int        `json:"damaged,omitempty" doc:"Restore points that cannot be read."`
	Locked        int        `json:"locked,omitempty" doc:"Restore points that are sealed and that the service has no key to."`
	Pinned        int        `json:"pinned,omitempty"`
	Streams       int        `json:"streams" doc:"Streams with a restore point."`
	Newest        *time.Time `json:"newest,omitempty" doc:"The moment of the newest restore point."`
	NewBytes      uint64     `json:"new_bytes" doc:"What all backups together added."`

	Encrypted   bool     `json:"encrypted"`
	Readable    bool     `json:"readable" doc:"The service can read messages: the repository is not encrypted, or an identity is configured."`
	Recipient   string   `json:"recipient,omitempty" doc:"The repository's public key."`
	Operators   []string `json:"operators,omitempty" doc:"Fingerprints of the operators' keys that open the repository."`
	SigningKey  string   `json:"signing_key,omitempty" doc:"The nkey with which the service signs what it writes."`
	TrustedKeys []string `json:"trusted_keys,omitempty" doc:"The nkeys whose signatures are accepted."`
	Unsigned    bool     `json:"unsigned,omitempty" doc:"No key is trusted: whoever can write to the store can make restore points that nobody tells from real ones."`
	XKey        string   `json:"xkey,omitempty" doc:"The service's public xkey, to which identities are sealed."`

	RetainFor     string     `json:"retain_for,omitempty" doc:"How long the store keeps each new restore point at least, such as 720h0m0s; left out if it promises nothing."`
	Retained      int        `json:"retained,omitempty" doc:"Restore points that the store promised to keep and must keep still. A verification says whether it does."`
	RetainedUntil *time.Time `json:"retained_until,omitempty" doc:"When the last of these promises ends."`

	Probe *StoreProbe `json:"probe,omitempty" doc:"Whether the store works; left out if it was not tried."`
}

// StoreProbe says what the store lets the service do.
type StoreProbe struct {
	Usable bool        `json:"usable" doc:"Backups can be made and restored: writing, reading and listing work. Deleting is needed to prune only."`
	Steps  []ProbeStep `json:"steps"`
}

// ProbeStep is one thing that was tried.
type ProbeStep struct {
	Step         string  `json:"step" doc:"write, read, list or delete."`
	Outcome      string  `json:"outcome" doc:"ok, denied, retained (the store keeps what is written), failed or skipped."`
	Milliseconds float64 `json:"ms"`
	Permission   string  `json:"permission,omitempty" doc:"What the credentials do not allow, in the store's own words."`
	Note         string  `json:"note,omitempty"`
	Error        string  `json:"error,omitempty"`
}

// RepositoryAcceptRequest makes a repository that was replaced the one that its
// name means.
type RepositoryAcceptRequest struct {
	Repository string `json:"repository" doc:"Its name."`
	ID         string `json:"id,omitempty" doc:"The id of the repository that is there now; required unless nothing is to be done."`
	Recipient  string `json:"recipient,omitempty" doc:"Its public key, the fingerprint of that, or none; required if the key of the repository changed and its id did not."`
	DryRun     bool   `json:"dry_run,omitempty" doc:"Describe the repository that is there, and do nothing."`
}

// RepositoryAcceptResponse describes the repository that a name means now, or
// would mean.
type RepositoryAcceptResponse struct {
	Repository      string     `json:"repository"`
	ID              string     `json:"id"`
	Created         *time.Time `json:"created,omitempty"`
	Encrypted       bool       `json:"encrypted"`
	Recipient       string     `json:"recipient" doc:"Fingerprint of its public key, or none."`
	BeforeID        string     `json:"before_id,omitempty" doc:"The id of the repository that the name meant before."`
	BeforeRecipient string     `json:"before_recipient,omitempty" doc:"What the public key was, if it is another now."`
	Changed         bool       `json:"changed" doc:"The name meant something else before."`
}
