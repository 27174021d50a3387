package service

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"jetkeep/service/api"
	"jetkeep/service/archive"
	"jetkeep/service/backup"
	"jetkeep/service/jetsnap"
	"jetkeep/service/jsapi"
	"jetkeep/service/natsconn"
	"jetkeep/service/restore"
	"jetkeep/service/scheduler"
	"jetkeep/service/session"
	"jetkeep/service/state"
	"jetkeep/store"
	"jetkeep/store/object"
	"jetkeep/store/seal"
	"jetkeep/store/staging"
)

// codes says which code the errors of the other packages have. The first that
// matches counts, so that those that say more come first.
func codes() []struct {
	err  error
	code api.ErrCode
} {
	return []struct {
		err  error
		code api.ErrCode
	}{
		{jsapi.ErrPermission, api.CodePermission},
		{restore.ErrExists, api.CodeStreamExists},
		{restore.ErrReserved, api.CodeReservedStream},
		{restore.ErrRefused, api.CodePlanRefused},
		{restore.ErrState, api.CodeVerifyFailed},
		{backup.ErrRecreated, api.CodeStreamRecreated},
		{backup.ErrInconsistent, api.CodeIncomplete},
		{store.ErrNotARepository, api.CodeNotARepository},
		{store.ErrForeign, api.CodeNotARepository},
		{store.ErrNewerFormat, api.CodeNewerFormat},
		{store.ErrOldFormat, api.CodeOldFormat},
		{store.ErrKeyMismatch, api.CodeRepoMismatch},
		{store.ErrLocked, api.CodeLocked},
		{store.ErrWrongIdentity, api.CodeWrongIdentity},
		{seal.ErrKey, api.CodeWrongIdentity},
		{store.ErrUntrusted, api.CodeUntrusted},
		{store.ErrPinned, api.CodePinned},
		{object.ErrRetained, api.CodeRetained}, // before ErrNotWritable, which it may come with
		{store.ErrPruned, api.CodeConflict},
		{store.ErrNoPoint, api.CodeBackupNotFound},
		{object.ErrNoSpace, api.CodeDiskFull},
		{staging.ErrNoSpace, api.CodeDiskFull},
		{staging.ErrLimit, api.CodeDiskFull},
		{object.ErrNotWritable, api.CodeNotWritable},
		{staging.ErrNotWritable, api.CodeNotWritable},
		{object.ErrPermission, api.CodeStorePermission},
		{object.ErrUnavailable, api.CodeStoreUnavailable},
		{object.ErrThrottled, api.CodeStoreUnavailable},
		{session.ErrNotFound, api.CodeSessionNotFound},
		{scheduler.ErrNotFound, api.CodeScheduleNotFound},
		{scheduler.ErrConflict, api.CodeConflict},
		{session.ErrConflict, api.CodeConflict},
		{jsapi.ErrNoJetStream, api.CodeNoJetStream},
		{jetstream.ErrJetStreamNotEnabled, api.CodeNoJetStream},
		{jetstream.ErrJetStreamNotEnabledForAccount, api.CodeNoJetStream},
		{nats.ErrNoResponders, api.CodeNoJetStream},
		{jsapi.ErrStreamNotFound, api.CodeStreamNotFound},
		{jsapi.ErrStreamExists, api.CodeStreamExists},
		{jsapi.ErrInvalidReply, api.CodeTargetUnavailable},
		{jsapi.ErrNotReady, api.CodeTargetUnavailable},
		{archive.ErrCorrupt, api.CodeIncomplete},
		{archive.ErrTruncated, api.CodeIncomplete},
		{jetsnap.ErrGap, api.CodeIncomplete},
		{jetsnap.ErrAborted, api.CodeRestoreRejected},
		{jetsnap.ErrIdle, api.CodeTimeout},
		{jetsnap.ErrStalled, api.CodeTimeout},
		{jsapi.ErrConnectionLost, api.CodeConnectionLost},
		{nats.ErrConnectionClosed, api.CodeConnectionLost},
		{nats.ErrDisconnected, api.CodeConnectionLost},
		{nats.ErrNoServers, api.CodeTargetUnavailable},
		{natsconn.ErrInvalidOptions, api.CodeTargetUnavailable},
		{state.ErrLockLost, api.CodeConnectionLost},
		{jsapi.ErrNoReply, api.CodeTimeout},
		{nats.ErrTimeout, api.CodeTimeout},
		{jetstream.ErrNoStreamResponse, api.CodeTimeout},
		{context.DeadlineExceeded, api.CodeTimeout},
		{context.Canceled, api.CodeCancelled},
	}
}

// mapError says what others are shown of an error. What is not known is a
// defect or has no code yet: its details stay in the log.
func mapError(err error) *api.Error {
	e, _ := classify(err)
	return e
}

// classify also tells whether the error is known.
func classify(err error) (*api.Error, bool) {
	var e *api.Error
	if errors.As(err, &e) {
		return e, true
	}
	for _, c := range codes() {
		if errors.Is(err, c.err) {
			return api.Errorf(c.code, "%v", err), true
		}
	}
	var damage *store.DamageError
	var mismatch *state.MismatchError
	var incomplete *backup.IncompleteError
	var rejected *jsapi.APIError
	var status *jetsnap.StatusError
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &certificate):
		return api.Errorf(api.CodeStoreUnavailable, "%v", err).
			WithHint("Name the authority of its certificate with ca_file, or correct the endpoint."), true
	case natsconn.IsAuthorization(err):
		return api.Errorf(api.CodeTargetUnavailable, "%v", err), true
	case errors.As(err, &mismatch):
		return api.Errorf(api.CodeRepoMismatch, "%v", err), true
	case errors.As(err, &damage):
		return api.Errorf(api.CodeDamaged, "%v", err), true
	case errors.As(err, &incomplete), errors.As(err, &status):
		return api.Errorf(api.CodeIncomplete, "%v", err), true
	case errors.As(err, new(*jsapi.MissingError)):
		return api.Errorf(api.CodeTargetUnavailable, "%v", err), true
	case errors.As(err, &rejected):
		return api.Errorf(api.CodeRestoreRejected, "the server refused: %v", err), true
	}
	return api.Errorf(api.CodeInternal, "an error without a code of its own; the log of the service has it"), false
}

// connecting gives an error of Dial its code.
func connecting(name string, err error) error {
	var dns *net.DNSError
	var op *net.OpError
	var certificate *tls.CertificateVerificationError
	if errors.As(err, &certificate) || natsconn.IsAuthorization(err) || errors.As(err, &dns) || errors.As(err, &op) || otherwiseSpoken(err) ||
		errors.Is(err, nats.ErrNoServers) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, context.DeadlineExceeded) {
		return &coded{api.Errorf(api.CodeTargetUnavailable, "target %s: %v", name, err), err}
	}
	return fmt.Errorf("target %s: %w", name, err)
}

// otherwiseSpoken says whether who answers speaks TLS where that was not expected,
// or none where it was, or is no NATS server.
func otherwiseSpoken(err error) bool {
	return errors.Is(err, nats.ErrSecureConnWanted) || errors.Is(err, nats.ErrSecureConnRequired) || errors.Is(err, nats.ErrNoInfoReceived) ||
		errors.As(err, new(tls.RecordHeaderError)) || errors.As(err, new(tls.AlertError))
}

// coded is an error with a code that still is what caused it, for those who
// decide by the cause whether to try again.
type coded struct {
	public *api.Error
	cause  error
}

func (e *coded) Error() string { return e.public.Error() }

// Unwrap returns both.
func (e *coded) Unwrap() []error { return []error{e.public, e.cause} }
