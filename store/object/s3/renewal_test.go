package s3

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"jetkeep/store/object"
)

// A lender is where a container is told which keys it has, for a while.
type lender struct {
	asked      int
	away       bool
	expiration time.Time
}

func (l *lender) RoundTrip(*http.Request) (*http.Response, error) {
	l.asked++
	status, body := http.StatusOK, fmt.Sprintf(`{"AccessKeyId":"key","SecretAccessKey":"secret","Token":"token","Expiration":%q}`, l.expiration.UTC().Format(time.RFC3339Nano))
	if l.away {
		status, body = http.StatusServiceUnavailable, ""
	}
	return &http.Response{StatusCode: status, Status: http.StatusText(status), Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}, nil
}

// Credentials that are to be renewed are used while they hold if nobody renews
// them, and not asked for with each request.
func TestCredentialsNotRenewed(t *testing.T) {
	t.Setenv(containerURIVariable, "http://127.0.0.1/keys")
	t.Setenv(tokenFileVariable, "")
	synctest.Test(t, func(t *testing.T) {
		l := &lender{expiration: time.Now().Add(20 * time.Second)}
		o := Options{Credentials: CredentialsInstance}
		c := o.chain(http.DefaultTransport.(*http.Transport))
		c.client = &http.Client{Transport: busy{l}, Timeout: credentialsTimeout}
		all := credentials.New(c)
		get := func() error {
			v, err := all.GetWithContext(nil)
			if err == nil && (v.AccessKeyID != "key" || v.SessionToken != "token") {
				err = fmt.Errorf("got %+v", v)
			}
			return err
		}
		if err := get(); err != nil {
			t.Fatal(err)
		}
		l.away = true
		time.Sleep(17 * time.Second) // after four fifths
		for range 3 {
			if err := get(); err != nil {
				t.Error("they hold still:", err)
			}
		}
		if l.asked != 2 {
			t.Errorf("asked %d times", l.asked)
		}
		time.Sleep(3 * time.Second)
		if err := get(); !errors.Is(err, object.ErrUnavailable) || errors.As(err, new(*object.PermissionError)) {
			t.Error("want that it may pass:", err)
		}
		l.away, l.expiration = false, time.Now().Add(time.Hour)
		if err := get(); err != nil {
			t.Error("they are renewed:", err)
		}
	})
}
