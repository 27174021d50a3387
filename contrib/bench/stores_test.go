package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"jetkeep/service/config"
	"jetkeep/service/natsconn"
	"jetkeep/service/stores"
	"jetkeep/store/object"
	"jetkeep/store/object/objectserver"
)

func TestMain(m *testing.M) { os.Exit(objectserver.Main(m)) }

const (
	packs    = 32
	packSize = 16 << 20
	// uploaders is how many packs a backup of one stream uploads at once.
	uploaders = 4
	rounds    = 3
)

// BenchmarkUpload puts the same packs into each store as jetkeep does, by all
// of the portable layer, and by the store's own command. Rounds alternate, and
// the ratio is that of the medians.
func BenchmarkUpload(b *testing.B) {
	dir := b.TempDir()
	for i := range packs {
		data := make([]byte, packSize)
		_, _ = rand.NewChaCha8([32]byte{byte(i)}).Read(data)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("pack%04d", i)), data, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	mc := tool(b, "mc-cf909e1063a9")
	for _, kind := range objectserver.S3Kinds() {
		b.Run(kind, func(b *testing.B) {
			s := objectserver.S3(b, kind)
			bucket := s.NewBucket(b, objectserver.BucketOptions{})
			host := "MC_HOST_x=" + strings.Replace(s.Endpoint, "://", "://"+s.AccessKey+":"+s.SecretKey+"@", 1)
			against(b, dir, config.Repository{Kind: config.KindS3, S3: config.S3{
				Endpoint: s.Endpoint, Region: s.Region, Bucket: bucket, Addressing: "path",
				AccessKey: s.AccessKey, SecretKey: natsconn.Secret(s.SecretKey),
			}}, func(round int) *exec.Cmd {
				cmd := exec.Command(mc, "--config-dir", b.TempDir(), "cp", "--quiet", "--recursive", dir+"/", fmt.Sprintf("x/%s/mc%d/", bucket, round))
				cmd.Env = append(os.Environ(), host)
				return cmd
			})
		})
	}
	b.Run("swift", func(b *testing.B) {
		s := objectserver.Swift(b, objectserver.SwiftOptions{})
		against(b, dir, config.Repository{Kind: config.KindSwift, Create: true, Swift: config.Swift{
			AuthURL: s.AuthURL, AuthVersion: 1, User: s.User, Key: natsconn.Secret(s.Key), Container: "bench",
		}}, func(round int) *exec.Cmd {
			cmd := exec.Command("swift", "upload", "--quiet", "--object-name", fmt.Sprintf("cli%d", round), "bench", dir)
			cmd.Env = append(os.Environ(), "ST_AUTH="+s.AuthURL, "ST_USER="+s.User, "ST_KEY="+s.Key)
			return cmd
		})
	})
}

func tool(b *testing.B, name string) string {
	b.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(cache, "jetkeep", "tools", name)
	if _, err := os.Stat(path); err != nil {
		b.Fatalf("%v: run make tools", err)
	}
	return path
}

func against(b *testing.B, dir string, r config.Repository, command func(round int) *exec.Cmd) {
	b.Helper()
	r.Name = "bench"
	d, err := stores.Create(b.Context(), &r)
	if err != nil {
		b.Fatal(err)
	}
	bucket := object.NewBucket(d)
	defer bucket.Close()
	var ours, theirs []time.Duration
	for round := range rounds {
		begun := time.Now()
		if err := upload(b.Context(), bucket, dir, round); err != nil {
			b.Fatal(err)
		}
		ours = append(ours, time.Since(begun))
		begun = time.Now()
		if out, err := command(round).CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		theirs = append(theirs, time.Since(begun))
	}
	slices.Sort(ours)
	slices.Sort(theirs)
	rate := func(d time.Duration) float64 { return packs * packSize / 1e6 / d.Seconds() }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(rate(ours[rounds/2]), "jetkeep-MB/s")
	b.ReportMetric(rate(theirs[rounds/2]), "command-MB/s")
	b.ReportMetric(ours[rounds/2].Seconds()/theirs[rounds/2].Seconds(), "jetkeep/command")
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(usage.Maxrss)/1024, "peak-RSS-MiB")
}

// upload puts the packs of a directory.
func upload(ctx context.Context, bucket *object.Bucket, dir string, round int) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(uploaders)
	for _, e := range entries {
		g.Go(func() error {
			f, err := os.Open(filepath.Join(dir, e.Name()))
			if err != nil {
				return err
			}
			defer f.Close()
			return bucket.Put(gctx, fmt.Sprintf("packs/%d/%s", round, e.Name()), f, packSize)
		})
	}
	return g.Wait()
}
