package s3

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"
)

const (
	algorithm     = "AWS4-HMAC-SHA256"
	signedTime    = "20060102T150405Z"
	signedDay     = "20060102"
	dateHeader    = "X-Amz-Date"
	tokenHeader   = "X-Amz-Security-Token"
	contentHeader = "X-Amz-Content-Sha256"
	payerHeader   = "X-Amz-Request-Payer"
)

// scopeOf returns the region and the service that a request is signed for. It
// is not ok if the request is not signed, or in a way that does not end with its
// headers.
func scopeOf(req *http.Request) (region, service string, ok bool) {
	rest, ok := strings.CutPrefix(req.Header.Get("Authorization"), algorithm+" Credential=")
	credential, _, _ := strings.Cut(rest, ",")
	parts := strings.Split(credential, "/") // the key may have slashes
	n := len(parts)
	if !ok || n < 5 || req.Header.Get("X-Amz-Trailer") != "" || req.Header.Get("X-Amz-S3session-Token") != "" ||
		strings.HasPrefix(req.Header.Get(contentHeader), "STREAMING-") {
		return "", "", false
	}
	return parts[n-3], parts[n-2], true
}

// sign signs a request that has its path, host, query and headers. The client's
// library signs, too, but only at the time of this machine, and before a
// transport can change anything.
func sign(req *http.Request, value credentials.Value, region, service string, at time.Time) {
	at = at.UTC()
	req.Header.Del("Authorization")
	req.Header.Set(dateHeader, at.Format(signedTime))
	req.Header.Del(tokenHeader)
	if value.SessionToken != "" {
		req.Header.Set(tokenHeader, value.SessionToken)
	}
	req.URL.RawQuery = strings.ReplaceAll(req.URL.Query().Encode(), "+", "%20")
	names, headers := canonicalHeaders(req)
	scope := strings.Join([]string{at.Format(signedDay), region, service, "aws4_request"}, "/")
	request := sha256.Sum256([]byte(strings.Join([]string{
		req.Method, s3utils.EncodePath(req.URL.Path), req.URL.RawQuery, headers, names, req.Header.Get(contentHeader),
	}, "\n")))
	key := []byte("AWS4" + value.SecretAccessKey)
	for _, part := range []string{at.Format(signedDay), region, service, "aws4_request"} {
		key = keyed(key, part)
	}
	signature := keyed(key, strings.Join([]string{algorithm, at.Format(signedTime), scope, hex.EncodeToString(request[:])}, "\n"))
	req.Header.Set("Authorization", algorithm+" Credential="+value.AccessKeyID+"/"+scope+
		", SignedHeaders="+names+", Signature="+hex.EncodeToString(signature))
}

// canonicalHeaders returns the names and lines of what is signed. Proxies may
// change the others.
func canonicalHeaders(req *http.Request) (names, lines string) {
	host := req.Host
	if host == "" {
		host = req.URL.Host
	}
	values := map[string]string{"host": host}
	sorted := []string{"host"}
	for name, all := range req.Header {
		switch name {
		case "Accept-Encoding", "Authorization", "User-Agent", "Host":
			continue
		}
		name = strings.ToLower(name)
		sorted = append(sorted, name)
		trimmed := make([]string, 0, len(all))
		for _, v := range all {
			trimmed = append(trimmed, strings.Join(strings.Fields(v), " "))
		}
		values[name] = strings.Join(trimmed, ",")
	}
	slices.Sort(sorted)
	var b strings.Builder
	for _, name := range sorted {
		b.WriteString(name + ":" + values[name] + "\n")
	}
	return strings.Join(sorted, ";"), b.String()
}

func keyed(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}
