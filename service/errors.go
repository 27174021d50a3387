package service

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"jetkeep/service/api"
	"jetkeep/service/archive"
	"jetkeep/service/backup"
	"jetkeep/service/embedded"
	"jetkeep/service/jetsnap"
	"jetkeep/service/jsapi"
	"jetkeep/service/natsconn"
	"jetkeep/service/restore"
	"jetkeep/service/scheduler"
	"jetkeep/service/session"
	"jetkeep/service/state"
	"jetkeep/store"
	"jetkeep/store/object"
	"jetkeep/store/record"
	"jetkeep/store/seal"
	"jetkeep/store/seqset"
	"jetkeep/store/staging"
)

// A coding is the code of an error.
type coding struct {
	err  error
	code api.ErrCode
}

// codes says which code the errors of the other packages have. The first that
// matches counts, so that those that say more come first.
func codes() []coding { return slices.Concat(codesOfBackups(), codesOfNATS()) }

// codesOfBackups are those of what is captured, kept and restored.
func codesOfBackups() []coding {
	return []coding{
		{jsapi.ErrPermission, api.CodePermission},
		{restore.ErrExists, api.CodeStreamExists},
		{restore.ErrReserved, api.CodeReservedStream},
		{restore.ErrRefused, api.CodePlanRefused},
		{restore.ErrTooMuch, api.CodePlanRefused},
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
		{seal.ErrDamaged, api.CodeDamaged},
		{seqset.ErrInvalid, api.CodeDamaged},
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
		{object.ErrChecksum, api.CodeStoreUnavailable},
		{object.ErrTooLarge, api.CodeStoreFailed},
	}
}

// codesOfNATS are those of servers, of jetkeep's own state there, and of what
// ends a wait.
func codesOfNATS() []coding {
	return []coding{
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
		{jsapi.ErrNoSnapshot, api.CodeNotSupported},
		{jsapi.ErrTooLarge, api.CodeNotSupported},
		{jsapi.ErrConsumerRefused, api.CodeIncomplete},
		{jsapi.ErrConsumerNotFound, api.CodeIncomplete},
		{jsapi.ErrNoMessage, api.CodeIncomplete},
		{jsapi.ErrInProgress, api.CodeConflict},
		{jsapi.ErrInvalidName, api.CodeInvalidStream},
		{archive.ErrCorrupt, api.CodeIncomplete},
		{archive.ErrTruncated, api.CodeIncomplete},
		{archive.ErrFormat, api.CodeIncomplete},
		{archive.ErrMalformed, api.CodeIncomplete},
		{archive.ErrOrder, api.CodeIncomplete},
		{archive.ErrTooLarge, api.CodeNotSupported},
		{store.ErrTooFragmented, api.CodeNotSupported},
		{store.ErrBounds, api.CodeIncomplete},
		{record.ErrInvalid, api.CodeIncomplete}, // of a capture: those of a repository are damage
		{record.ErrShort, api.CodeIncomplete},
		{seal.ErrNoWriterKey, api.CodeKeyUnavailable},
		{store.ErrPointExists, api.CodeConflict},
		{store.ErrDuplicate, api.CodeConflict},
		{state.ErrLocked, api.CodeConflict},
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
		{jetsnap.ErrClosed, api.CodeConnectionLost},
		{embedded.ErrDirInUse, api.CodeConflict},
		{embedded.ErrDirNotWritable, api.CodeNotWritable},
		{embedded.ErrPortTaken, api.CodeConflict},
		{embedded.ErrNotReady, api.CodeTimeout},
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
	// What is damaged may have been found by any of the errors below. A key that is
	// missing is no damage.
	if errors.As(err, new(*store.DamageError)) && !errors.Is(err, store.ErrLocked) && !errors.Is(err, store.ErrWrongIdentity) &&
		!errors.Is(err, store.ErrUntrusted) {
		return api.Errorf(api.CodeDamaged, "%v", err), true
	}
	if errors.As(err, new(*tls.CertificateVerificationError)) {
		return api.Errorf(api.CodeStoreUnavailable, "%v", err).
			WithHint("Name the authority of its certificate with ca_file, or correct the endpoint."), true
	}
	if errors.Is(err, object.ErrUnexpected) {
		return api.Errorf(api.CodeStoreFailed, "%v", err), true
	}
	for _, c := range codes() {
		if errors.Is(err, c.err) {
			return api.Errorf(c.code, "%v", err), true
		}
	}
	var mismatch *state.MismatchError
	var incomplete *backup.IncompleteError
	var rejected *jsapi.APIError
	var status *jetsnap.StatusError
	switch {
	case natsconn.IsAuthorization(err):
		return api.Errorf(api.CodeTargetUnavailable, "%v", err), true
	case errors.As(err, &mismatch):
		return api.Errorf(api.CodeRepoMismatch, "%v", err), true
	case errors.As(err, &incomplete), errors.As(err, &status):
		return api.Errorf(api.CodeIncomplete, "%v", err), true
	case errors.As(err, new(*jsapi.MissingError)):
		return api.Errorf(api.CodeTargetUnavailable, "%v", err), true
	case errors.As(err, &rejected):
		return api.Errorf(api.CodeRestoreRejected, "the server refused: %v", err), true
	}
	if e := foreign(err); e != nil {
		return e, true
	}
	return api.Errorf(api.CodeInternal, "an error without a code of its own; the log of the service has it"), false
}

// foreign gives a code to errors that come from outside and that no package of
// ours has named: of the network, of NATS and of this machine's files.
func foreign(err error) *api.Error {
	var answered *jetstream.APIError
	var file *fs.PathError
	var link *os.LinkError
	var net net.Error
	var errno syscall.Errno
	switch {
	case errors.As(err, &answered), isJetStream(err):
		return api.Errorf(api.CodeNoJetStream, "JetStream refused: %v", err).
			WithHint("Look at the limits of the account and at the state of its streams: jetkeep keeps its own there.")
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return api.Errorf(api.CodeDiskFull, "%v", err)
	case errors.As(err, &file), errors.As(err, &link):
		return api.Errorf(api.CodeNotWritable, "%v", err).
			WithHint("The description names the file or directory: check that it is there, its permissions and its disk.")
	case isNATS(err), errors.As(err, &net), errors.As(err, &errno), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, io.ErrClosedPipe), errors.As(err, new(tls.AlertError)), errors.As(err, new(tls.RecordHeaderError)),
		errors.As(err, new(x509.UnknownAuthorityError)), errors.As(err, new(x509.HostnameError)), errors.As(err, new(x509.CertificateInvalidError)):
		return api.Errorf(api.CodeConnectionLost, "%v", err)
	}
	return nil
}

// isJetStream says whether an error is one of those that the client's library
// has of JetStream.
func isJetStream(err error) bool {
	var e jetstream.JetStreamError
	return errors.As(err, &e)
}

// isNATS says whether an error is one of the client's library: it has some 100 of
// them, and no type for them.
func isNATS(err error) bool {
	if err == nil {
		return false
	}
	switch x := err.(type) { //nolint:errorlint // the chain is walked here
	case interface{ Unwrap() error }:
		return isNATS(x.Unwrap())
	case interface{ Unwrap() []error }:
		return slices.ContainsFunc(x.Unwrap(), isNATS)
	}
	return strings.HasPrefix(err.Error(), "nats: ")
}

// connecting gives an error of Dial its code: whatever it is, it keeps us from the
// target, unless we gave up ourselves.
func connecting(name string, err error) error {
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("target %s: %w", name, err)
	}
	return &coded{api.Errorf(api.CodeTargetUnavailable, "target %s: %v", name, err), err}
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
