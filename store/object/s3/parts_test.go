package s3_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"jetkeep/store/object"
	"jetkeep/store/object/objectserver"
	"jetkeep/store/object/retry"
	"jetkeep/store/object/s3"
)

const (
	name     = "packs/ab/pack"
	partSize = s3.MinPartSize
)

// random returns bytes that are the same each time.
func random(size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// large is an object of four parts, the last one short.
func large() []byte { return random(3*partSize + 12345) }

// behind returns options for objects in parts through a proxy.
func behind(t *testing.T, s *objectserver.S3Server) (s3.Options, *proxy) {
	t.Helper()
	o, p := options(t, s), newProxy(t, s)
	o.Endpoint, o.PartSize, o.Parallel = p.URL, partSize, 2
	o.Retry = retry.Policy{Base: time.Millisecond, Attempts: 4}
	return o, p
}

// uploads returns the objects in parts that were begun and not ended.
func uploads(t *testing.T, s *objectserver.S3Server, bucket string) (open []string) {
	t.Helper()
	r, err := minio.Core{Client: s.Root()}.ListMultipartUploads(t.Context(), bucket, "", "", "", "", 100)
	if err != nil {
		t.Fatal("list uploads:", err)
	}
	for _, u := range r.Uploads {
		open = append(open, u.Key)
	}
	return open
}

// nothingLeft wants that neither the object is there nor an open upload.
func nothingLeft(t *testing.T, s *objectserver.S3Server, bucket string, d *s3.Driver) {
	t.Helper()
	if open := uploads(t, s, bucket); len(open) != 0 {
		t.Error("uploads are left:", open)
	}
	if _, err := d.Stat(t.Context(), name); !errors.Is(err, object.ErrNotExist) {
		t.Error("the object is there:", err)
	}
}

func put(ctx context.Context, d *s3.Driver, content []byte) error {
	return d.Put(ctx, name, bytes.NewReader(content), int64(len(content)))
}

func get(t *testing.T, d *s3.Driver, offset, length int64) ([]byte, error) {
	t.Helper()
	r, err := d.Get(t.Context(), name, offset, length)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func TestParts(t *testing.T) {
	t.Parallel()
	some(t, func(t *testing.T, s *objectserver.S3Server) {
		o, p := behind(t, s)
		d, content := open(t, o), large()
		if err := put(t.Context(), d, content); err != nil {
			t.Fatal(err)
		}
		if n := p.count(isPart); n != 4 {
			t.Errorf("%d parts", n)
		}
		if got, err := get(t, d, 0, -1); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes: %v", len(got), err)
		}
		// Over the edge of two parts.
		if got, err := get(t, d, partSize-7, 20); err != nil || !bytes.Equal(got, content[partSize-7:partSize+13]) {
			t.Errorf("%x: %v", got, err)
		}
		if err := put(t.Context(), d, large()); !errors.Is(err, object.ErrExist) {
			t.Error("put again:", err)
		}
		if open := uploads(t, s, o.Bucket); len(open) != 0 {
			t.Error("uploads are left:", open)
		}
	})
}

// Two who put the same object in parts: one wins, the other sees that, and is
// nothing left of it.
func TestPartsRace(t *testing.T) {
	t.Parallel()
	some(t, func(t *testing.T, s *objectserver.S3Server) {
		o := options(t, s)
		o.PartSize = partSize
		d, content := open(t, o), large()
		const racers = 3
		errs := make(chan error, racers)
		for range racers {
			go func() { errs <- put(t.Context(), d, content) }()
		}
		won := 0
		for range racers {
			switch err := <-errs; {
			case err == nil:
				won++
			case !errors.Is(err, object.ErrExist) && !errors.Is(err, object.ErrUnavailable):
				t.Error(err)
			}
		}
		if won != 1 {
			t.Errorf("%d won", won)
		}
		if open := uploads(t, s, o.Bucket); len(open) != 0 {
			t.Error("uploads are left:", open)
		}
	})
}

// A part that fails is put again, and no other.
func TestPartFails(t *testing.T) {
	t.Parallel()
	some(t, func(t *testing.T, s *objectserver.S3Server) {
		for what, fail := range map[string]func(http.ResponseWriter, *http.Request){
			"503": func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				w.WriteHeader(http.StatusServiceUnavailable)
			},
			"cut off": func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.CopyN(io.Discard, r.Body, partSize/2)
				panic(http.ErrAbortHandler)
			},
		} {
			t.Run(what, func(t *testing.T) {
				o, p := behind(t, s)
				var failed atomic.Bool
				p.meddle = func(w http.ResponseWriter, r *http.Request) bool {
					if isPart(r) && r.URL.Query().Get("partNumber") == "2" && failed.CompareAndSwap(false, true) {
						fail(w, r)
						return true
					}
					return false
				}
				d, content := open(t, o), large()
				if err := put(t.Context(), d, content); err != nil {
					t.Fatal(err)
				}
				if n := p.count(isPart); n != 5 {
					t.Errorf("parts were put %d times", n)
				}
				if got, err := get(t, d, 0, -1); err != nil || !bytes.Equal(got, content) {
					t.Errorf("%d bytes: %v", len(got), err)
				}
			})
		}
	})
}

// What fails for good, or cannot be completed, leaves nothing.
func TestUploadFails(t *testing.T) {
	t.Parallel()
	some(t, func(t *testing.T, s *objectserver.S3Server) {
		answer := func(status int, like func(*http.Request) bool) func(http.ResponseWriter, *http.Request) bool {
			return func(w http.ResponseWriter, r *http.Request) bool {
				if !like(r) {
					return false
				}
				_, _ = io.Copy(io.Discard, r.Body)
				w.WriteHeader(status)
				return true
			}
		}
		completes := func(r *http.Request) bool {
			return r.Method == http.MethodPost && r.URL.Query().Has("uploadId")
		}
		for what, c := range map[string]struct {
			meddle func(http.ResponseWriter, *http.Request) bool
			want   error
		}{
			"parts unavailable": {answer(http.StatusServiceUnavailable, isPart), object.ErrUnavailable},
			"parts denied":      {answer(http.StatusForbidden, isPart), object.ErrNotWritable},
			"completion fails":  {answer(http.StatusInternalServerError, completes), object.ErrUnavailable},
			"no space":          {answer(http.StatusInsufficientStorage, isPart), object.ErrNoSpace},
		} {
			t.Run(what, func(t *testing.T) {
				o, p := behind(t, s)
				d := open(t, o)
				p.meddle = c.meddle
				if err := put(t.Context(), d, large()); !errors.Is(err, c.want) {
					t.Errorf("want %v: %v", c.want, err)
				}
				nothingLeft(t, s, o.Bucket, d)
			})
		}
	})
}

// An upload outlives being given up so many times, as it does if a part is being
// taken in then. It is given up again, until the store says that there is none.
func TestUploadOutlivesAbort(t *testing.T) {
	t.Parallel()
	some(t, func(t *testing.T, s *objectserver.S3Server) {
		for outlives, requests := range []int64{2, 3, 3} {
			t.Run(strconv.Itoa(outlives), func(t *testing.T) {
				o, p := behind(t, s)
				o.Parallel = 1 // or the store does that by itself, at times
				d := open(t, o)
				var aborts atomic.Int64
				p.meddle = func(w http.ResponseWriter, r *http.Request) bool {
					switch {
					case isPart(r) && r.URL.Query().Get("partNumber") == "3":
						w.WriteHeader(http.StatusForbidden)
					case r.Method == http.MethodDelete && r.URL.Query().Has("uploadId") && aborts.Add(1) <= int64(outlives):
						w.WriteHeader(http.StatusNoContent)
					default:
						return false
					}
					_, _ = io.Copy(io.Discard, r.Body)
					return true
				}
				if err := put(t.Context(), d, large()); !errors.Is(err, object.ErrNotWritable) {
					t.Error(err)
				}
				if s.Kind == objectserver.MinIO { // which never says that there is none
					requests = 3
				}
				if n := aborts.Load(); n != requests {
					t.Errorf("%d requests to give it up, not %d", n, requests)
				}
				nothingLeft(t, s, o.Bucket, d)
			})
		}
	})
}

// Cancelled at whatever request, an upload leaves nothing.
func TestUploadCancelled(t *testing.T) {
	t.Parallel()
	some(t, func(t *testing.T, s *objectserver.S3Server) {
		for what, at := range map[string]func(*http.Request) bool{
			"first part":  func(r *http.Request) bool { return isPart(r) && r.URL.Query().Get("partNumber") == "1" },
			"last part":   func(r *http.Request) bool { return isPart(r) && r.URL.Query().Get("partNumber") == "4" },
			"its look":    func(r *http.Request) bool { return r.Method == http.MethodHead },
			"its try":     isObject,
			"its begin":   beginsUpload,
			"its failure": func(r *http.Request) bool { return isPart(r) && r.URL.Query().Get("partNumber") == "3" },
		} {
			t.Run(what, func(t *testing.T) {
				o, p := behind(t, s)
				d := open(t, o)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				p.meddle = func(_ http.ResponseWriter, r *http.Request) bool {
					if at(r) {
						_, _ = io.CopyN(io.Discard, r.Body, 1000)
						cancel()
						if what == "its failure" {
							panic(http.ErrAbortHandler)
						}
					}
					return false
				}
				if err := put(ctx, d, large()); !errors.Is(err, context.Canceled) {
					t.Error("want that it was cancelled:", err)
				}
				nothingLeft(t, s, o.Bucket, d)
			})
		}
	})
}

// Cancelled when the store has begun an upload and before that is known, an upload
// leaves nothing.
func TestUploadCancelledWhenBegun(t *testing.T) {
	t.Parallel()
	some(t, func(t *testing.T, s *objectserver.S3Server) {
		o, p := behind(t, s)
		d := open(t, o)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		p.answer = func(r *http.Response) {
			if beginsUpload(r.Request) {
				cancel()
			}
		}
		if err := put(ctx, d, large()); !errors.Is(err, context.Canceled) {
			t.Error("want that it was cancelled:", err)
		}
		nothingLeft(t, s, o.Bucket, d)
	})
}

// The answer to the completion is lost. What is there is whole, and the error
// does not say that it is not.
func TestCompletionLost(t *testing.T) {
	t.Parallel()
	some(t, func(t *testing.T, s *objectserver.S3Server) {
		o, p := behind(t, s)
		d, content := open(t, o), large()
		p.answer = func(r *http.Response) {
			if r.Request.Method == http.MethodPost && r.Request.URL.Query().Has("uploadId") {
				_, _ = io.Copy(io.Discard, r.Body)
				panic(http.ErrAbortHandler)
			}
		}
		if err := put(t.Context(), d, content); !errors.Is(err, object.ErrUnavailable) {
			t.Error("want that it may have been stored:", err)
		}
		if got, err := get(t, d, 0, -1); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes: %v", len(got), err)
		}
		if open := uploads(t, s, o.Bucket); len(open) != 0 {
			t.Error("uploads are left:", open)
		}
		again := object.NewBucket(retry.New(d, o.Retry))
		if err := again.Put(t.Context(), name, bytes.NewReader(content), int64(len(content))); !errors.Is(err, object.ErrExist) {
			t.Error("put again:", err)
		}
	})
}

// One bit of what is sent or of what comes back is another one: that is noticed,
// and if it happens once only, the part is put again.
func TestCorruption(t *testing.T) {
	t.Parallel()
	some(t, func(t *testing.T, s *objectserver.S3Server) {
		small := random(100 << 10)
		for _, size := range []string{"small", "large"} {
			content := map[string][]byte{"small": small, "large": large()}[size]
			for _, at := range []int64{0, 50000, int64(min(len(content), partSize)) - 1} {
				t.Run(size+"/up", func(t *testing.T) {
					o, p := behind(t, s)
					p.meddle = func(_ http.ResponseWriter, r *http.Request) bool {
						if r.Body != nil && (isPart(r) || isObject(r)) {
							r.Body = &flipped{r.Body, at}
						}
						return false
					}
					o.ConditionalWrites = s3.ConditionalYes
					d := open(t, o)
					if err := put(t.Context(), d, content); !errors.Is(err, object.ErrChecksum) {
						t.Error("want that it is noticed:", err)
					}
					nothingLeft(t, s, o.Bucket, d)
				})
				t.Run(size+"/down", func(t *testing.T) {
					o, p := behind(t, s)
					d := open(t, o)
					if err := put(t.Context(), d, content); err != nil {
						t.Fatal(err)
					}
					p.answer = func(r *http.Response) {
						if r.Request.Method == http.MethodGet {
							r.Body = &flipped{r.Body, at}
						}
					}
					got, err := get(t, d, 0, -1)
					if !errors.Is(err, object.ErrChecksum) || bytes.Equal(got, content) {
						t.Error("want that it is noticed:", err)
					}
				})
			}
		}
		t.Run("once", func(t *testing.T) {
			o, p := behind(t, s)
			var once atomic.Bool
			p.meddle = func(_ http.ResponseWriter, r *http.Request) bool {
				if isPart(r) && once.CompareAndSwap(false, true) {
					r.Body = &flipped{r.Body, 99}
				}
				return false
			}
			d, content := open(t, o), large()
			if err := put(t.Context(), d, content); err != nil {
				t.Fatal(err)
			}
			if got, err := get(t, d, 0, -1); err != nil || !slices.Equal(got, content) {
				t.Errorf("%d bytes: %v", len(got), err)
			}
		})
	})
}
