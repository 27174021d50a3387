package s3_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"jetkeep/store"
	"jetkeep/store/object"
	"jetkeep/store/object/objectserver"
	"jetkeep/store/object/s3"
	"jetkeep/store/testenv"
)

// A tap is a driver of which a test sees each write and each deletion before it
// is made.
type tap struct {
	object.Driver
	mu       sync.Mutex
	onPut    func(name string)
	onDelete func(ctx context.Context, name string) error
}

func (d *tap) Unwrap() object.Driver { return d.Driver }

func (d *tap) Put(ctx context.Context, name string, body io.ReaderAt, size int64) error {
	d.mu.Lock()
	if d.onPut != nil {
		d.onPut(name)
	}
	d.mu.Unlock()
	return d.Driver.Put(ctx, name, body, size)
}

func (d *tap) Delete(ctx context.Context, name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.onDelete != nil {
		if err := d.onDelete(ctx, name); err != nil {
			return err
		}
	}
	return d.Driver.Delete(ctx, name)
}

// DeleteMany has the objects deleted one by one.
func (d *tap) DeleteMany(context.Context, []string) ([]error, error) {
	return nil, errors.ErrUnsupported
}

// onLocked runs a test on servers in each mode, with a repository in a bucket
// with object lock.
func onLocked(t *testing.T, kinds []string, retain time.Duration, test func(t *testing.T, x *site, repo *store.Repository, d *tap)) {
	t.Helper()
	for _, kind := range kinds {
		for _, mode := range []string{s3.RetainGovernance, s3.RetainCompliance} {
			t.Run(kind+"/"+mode, func(t *testing.T) {
				t.Parallel() // it waits
				s := objectserver.S3(t, kind)
				x := &site{server: s, bucket: s.NewBucket(t, objectserver.BucketOptions{Lock: true}), mode: mode, retain: retain}
				d := x.tapped(t, s.Owner())
				repo, err := store.Init(t.Context(), object.NewBucket(d), store.InitOptions{})
				if err != nil {
					t.Fatal(err)
				}
				test(t, x, repo, d)
			})
		}
	}
}

func (x *site) tapped(t *testing.T, u objectserver.User) *tap {
	t.Helper()
	o := s3.Options{
		Endpoint: x.server.Endpoint, Region: x.server.Region, Bucket: x.bucket, Addressing: s3.AddressingPath,
		AccessKey: u.AccessKey, SecretKey: u.SecretKey, SessionToken: u.SessionToken,
	}
	if x.mode != "" {
		o.RetainMode, o.RetainFor = x.mode, x.retain
	}
	d, err := s3.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return &tap{Driver: d}
}

// kept returns until when the server retains each object, by its own word.
func (x *site) kept(t *testing.T) map[string]time.Time {
	t.Helper()
	out := map[string]time.Time{}
	for v := range x.server.Root().ListObjectsIter(t.Context(), x.bucket, minio.ListObjectsOptions{Recursive: true}) {
		if v.Err != nil {
			t.Fatal(v.Err)
		}
		info, err := x.server.Root().StatObject(t.Context(), x.bucket, v.Key, minio.StatObjectOptions{})
		if err != nil {
			t.Fatal(v.Key, err)
		}
		// Zero if there is none.
		out[v.Key], _ = time.Parse(time.RFC3339, info.Metadata.Get("X-Amz-Object-Lock-Retain-Until-Date"))
	}
	return out
}

// census verifies and wants nothing but what the census says.
func census(t *testing.T, repo *store.Repository) *store.Census {
	t.Helper()
	r, err := repo.Verify(t.Context(), store.VerifyOptions{Level: store.VerifyRecords})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Damaged) > 0 || r.Census == nil || r.OK() != (len(r.Census.Short) == 0) {
		t.Fatalf("%v, %+v", r.Problems, r.Census)
	}
	return r.Census
}

// Before the entry that makes a restore point one, the server keeps all that it
// needs for as long as it promises, what it took over included.
func TestKeptBeforeItCounts(t *testing.T) {
	const retain = time.Hour
	onLocked(t, objectserver.SomeS3Kinds(), retain, func(t *testing.T, x *site, repo *store.Repository, _ *tap) {
		first := backup(t, repo, 3000)
		// From now on for twice as long.
		longer := *x
		longer.retain = 2 * retain
		d := longer.tapped(t, x.server.Owner())
		repo, err := store.Open(t.Context(), object.NewBucket(d), store.OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		looked := 0
		d.onPut = func(name string) {
			if !strings.HasPrefix(name, "chains/") {
				return
			}
			for name, until := range x.kept(t) {
				if strings.HasPrefix(name, "commits/") || strings.HasPrefix(name, ".jetkeep/") {
					continue // the first one's copy, and the driver's own
				}
				if looked++; until.Before(begun.Add(longer.retain - time.Second)) {
					t.Errorf("%s is kept until %s when the entry is written at %s", name, until, begun)
				}
			}
		}
		second := backup(t, repo, 3050)
		d.onPut = nil
		if looked < len(second.Content.Uses.Objects)+2 {
			t.Errorf("only %d objects were there", looked)
		}
		if !slices.ContainsFunc(second.Content.Uses.Objects, func(o store.Used) bool { return slices.Contains(first.Content.Uses.Objects, o) }) {
			t.Error("it took nothing over")
		}
		if c := census(t, repo); c.Points != 2 || c.Objects == 0 || c.Retained != c.Objects || c.Until.Before(first.Retained) {
			t.Errorf("%+v", c)
		}
		kept := x.kept(t)
		for _, o := range second.Content.Uses.Objects {
			if kept[o.Name].Before(second.Retained) {
				t.Errorf("%s is kept until %s", o.Name, kept[o.Name])
			}
		}
	})
}

// Who has the writer's key can neither delete nor shorten anything; but MinIO
// lets whoever may extend a retention of governance shorten it, without asking
// for s3:BypassGovernanceRetention. That deletes nothing, as the key may not,
// and the census names it.
func TestWritersKeyIsStolen(t *testing.T) {
	onLocked(t, objectserver.S3Kinds(), time.Hour, func(t *testing.T, x *site, repo *store.Repository, _ *tap) {
		policy, err := os.ReadFile("writer-lock.json")
		if err != nil {
			t.Fatal(err)
		}
		writer := x.server.NewUser(t, x.bucket, bytes.ReplaceAll(policy, []byte("BUCKET"), []byte(x.bucket)))
		thief, err := x.server.Client(writer)
		if err != nil {
			t.Fatal(err)
		}
		his, err := store.Open(t.Context(), object.NewBucket(x.tapped(t, writer)), store.OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		backup(t, his, 1000) // it is enough to make backups
		p := backup(t, his, 1050)
		leaky := x.mode == s3.RetainGovernance && x.server.Kind == objectserver.MinIO
		before := x.kept(t)
		if len(before) < 6 {
			t.Fatal(before)
		}
		mode := minio.Governance
		shorten := func(name string, d time.Duration, bypass bool) (time.Time, error) {
			soon := time.Now().Add(d).UTC()
			return soon, thief.PutObjectRetention(t.Context(), x.bucket, name, minio.PutObjectRetentionOptions{
				Mode: &mode, RetainUntilDate: &soon, GovernanceBypass: bypass,
			})
		}
		for name := range before {
			info, err := x.server.Root().StatObject(t.Context(), x.bucket, name, minio.StatObjectOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range []minio.RemoveObjectOptions{{}, {VersionID: info.VersionID}, {VersionID: info.VersionID, GovernanceBypass: true}} {
				if err := thief.RemoveObject(t.Context(), x.bucket, name, o); err == nil {
					t.Errorf("%s was deleted by %+v", name, o)
				}
			}
			for _, bypass := range []bool{false, true} {
				_, err := shorten(name, 10*time.Minute, bypass)
				if (err == nil) != (leaky && bypass) {
					t.Errorf("shorten the retention of %s, bypass %t: %v", name, bypass, err)
				}
			}
		}
		if leaky {
			var over time.Time
			for name := range before {
				testenv.Until(t, "a retention that is shortened before its new end", func() error {
					soon, err := shorten(name, 2*time.Second, true)
					over = soon
					return err
				})
			}
			passes(t, over.Add(time.Second))
			for name := range before {
				info, err := x.server.Root().StatObject(t.Context(), x.bucket, name, minio.StatObjectOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if err := thief.RemoveObject(t.Context(), x.bucket, name, minio.RemoveObjectOptions{VersionID: info.VersionID}); err == nil {
					t.Errorf("%s was deleted", name)
				}
			}
			if c := census(t, repo); !slices.Equal(c.Short, []string{"b.1000", p.ID}) || c.Retained != 0 {
				t.Errorf("%+v", c)
			}
			return
		}
		for name, until := range x.kept(t) {
			if until.Before(before[name]) {
				t.Errorf("%s is kept until %s instead of %s", name, until, before[name])
			}
		}
		if c := census(t, his); c.Points != 2 || c.Retained != c.Objects {
			t.Errorf("%+v", c)
		}
	})
}

// A prune leaves what is retained, says so, may be interrupted, and a later one
// collects it.
func TestPruneOfRetained(t *testing.T) {
	onLocked(t, objectserver.SomeS3Kinds(), time.Hour, func(t *testing.T, x *site, repo *store.Repository, _ *tap) {
		if p := backup(t, repo, 10); !errors.Is(repo.Forget(t.Context(), []string{p.ID}), object.ErrRetained) {
			t.Fatal("forgotten before its time")
		}
		y := *x
		y.bucket = x.server.NewBucket(t, objectserver.BucketOptions{Lock: true})
		free := y
		free.mode = "" // what it stores nothing retains
		d := free.tapped(t, x.server.Owner())
		bare, err := store.Init(t.Context(), object.NewBucket(d), store.InitOptions{})
		if err != nil {
			t.Fatal(err)
		}
		p := backup(t, bare, 3000)
		d = y.tapped(t, x.server.Owner())
		if repo, err = store.Open(t.Context(), object.NewBucket(d), store.OpenOptions{}); err != nil {
			t.Fatal(err)
		}
		r, _ := repo.Bucket().Retainer()
		held := p.Content.Uses.Objects[len(p.Content.Uses.Objects)-1].Name
		until := time.Now().Add(time.Hour)
		if err := r.Retain(t.Context(), held, until); err != nil {
			t.Fatal(err)
		}
		if err := repo.Forget(t.Context(), []string{p.ID}); err != nil {
			t.Fatal(err)
		}
		y.prunes(t, repo, d, held, until)
	})
}

// prunes prunes a repository in which one object of what was forgotten is held.
func (x *site) prunes(t *testing.T, repo *store.Repository, d *tap, held string, until time.Time) {
	t.Helper()
	prune := func(ctx context.Context) (store.PruneReport, error) {
		t.Helper()
		// What the one before condemned has waited for long.
		late := func() time.Time { return time.Now().Add(time.Minute) }
		plan, err := repo.PlanPrune(ctx, store.PruneOptions{Now: late, Grace: time.Nanosecond, OrphanAge: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		return repo.Prune(ctx, plan)
	}
	if report, err := prune(t.Context()); err != nil || report.Condemned == 0 {
		t.Fatal(report, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	d.onDelete = func(context.Context, string) error { cancel(); return ctx.Err() }
	if report, err := prune(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("was not interrupted: %+v, %v", report, err)
	}
	d.onDelete = nil
	for range 2 { // again is the same
		report, err := prune(t.Context())
		if err != nil || report.Retained != 1 || len(report.Kept) != 1 || report.Kept[0].Name != held || report.Kept[0].Until.Before(until.Truncate(time.Second)) {
			t.Fatalf("%+v, %v", report, err)
		}
		if kept := x.kept(t); kept[held].Before(until.Truncate(time.Second)) {
			t.Errorf("%s is kept until %s", held, kept[held])
		}
		if _, err := repo.Bucket().Stat(t.Context(), held); err != nil {
			t.Error("what is retained is hidden:", err)
		}
	}
	if x.mode == s3.RetainCompliance {
		return // which nobody ends
	}
	mode := minio.Governance
	testenv.Until(t, "a retention that is shortened before its new end", func() error {
		until = time.Now().Add(2 * time.Second).UTC()
		return x.server.Root().PutObjectRetention(t.Context(), x.bucket, held, minio.PutObjectRetentionOptions{Mode: &mode, RetainUntilDate: &until, GovernanceBypass: true})
	})
	passes(t, until.Add(time.Second))
	if report, err := prune(t.Context()); err != nil || report.Retained != 0 || report.Deleted == 0 {
		t.Errorf("%+v, %v", report, err)
	}
	for v := range x.server.Root().ListObjectsIter(t.Context(), x.bucket, minio.ListObjectsOptions{Prefix: "packs/", WithVersions: true, Recursive: true}) {
		t.Errorf("a version is left: %+v", v)
	}
	if report, err := prune(t.Context()); err != nil || report.Deleted+report.Retained+report.Waiting+report.Condemned != 0 {
		t.Errorf("%+v, %v", report, err)
	}
}
