package api

import (
	"errors"
	"fmt"
)

// Headers of an answer that is an error (ADR-32).
const (
	HeaderError     = "Nats-Service-Error"
	HeaderErrorCode = "Nats-Service-Error-Code"
)

// ErrCode names an error for programs.
type ErrCode string

// The error codes. Their HTTP-like numbers and hints are in ErrorTable.
const (
	CodeInvalidJSON       ErrCode = "invalid_json"
	CodeUnknownField      ErrCode = "unknown_field"
	CodeInvalidRequest    ErrCode = "invalid_request"
	CodeBodyTooLarge      ErrCode = "body_too_large"
	CodeInvalidStream     ErrCode = "invalid_stream_name"
	CodeReservedStream    ErrCode = "reserved_stream"
	CodeNotSupported      ErrCode = "not_supported"
	CodeTargetNotFound    ErrCode = "target_not_found"
	CodeRepoNotFound      ErrCode = "repository_not_found"
	CodeStreamNotFound    ErrCode = "stream_not_found"
	CodeNoStreams         ErrCode = "no_streams"
	CodeSessionNotFound   ErrCode = "session_not_found"
	CodeBackupNotFound    ErrCode = "backup_not_found"
	CodeScheduleNotFound  ErrCode = "schedule_not_found"
	CodeSessionFinal      ErrCode = "session_final"
	CodePinned            ErrCode = "restore_point_pinned"
	CodeRetained          ErrCode = "retained"
	CodeLocked            ErrCode = "repository_locked"
	CodeWrongIdentity     ErrCode = "wrong_identity"
	CodeRepoMismatch      ErrCode = "repository_mismatch"
	CodeOldFormat         ErrCode = "repository_format_older"
	CodeUntrusted         ErrCode = "untrusted"
	CodeKeyUnavailable    ErrCode = "key_unavailable"
	CodeConflict          ErrCode = "conflict"
	CodePlanRefused       ErrCode = "plan_refused"
	CodeStreamExists      ErrCode = "stream_exists"
	CodeTooManyStreams    ErrCode = "too_many_streams"
	CodeResponseTooLarge  ErrCode = "response_too_large"
	CodePermission        ErrCode = "permission_denied"
	CodeBusy              ErrCode = "busy"
	CodeNoJetStream       ErrCode = "jetstream_unavailable"
	CodeTargetUnavailable ErrCode = "target_unavailable"
	CodeConnectionLost    ErrCode = "connection_lost"
	CodeTimeout           ErrCode = "timeout"
	CodeNotARepository    ErrCode = "not_a_repository"
	CodeNewerFormat       ErrCode = "repository_format_newer"
	CodeNotWritable       ErrCode = "store_not_writable"
	CodeDiskFull          ErrCode = "disk_full"
	CodeStoreUnavailable  ErrCode = "store_unavailable"
	CodeStorePermission   ErrCode = "store_permission"
	CodeStoreFailed       ErrCode = "store_failed"
	CodeDamaged           ErrCode = "repository_damaged"
	CodeIncomplete        ErrCode = "capture_incomplete"
	CodeStreamRecreated   ErrCode = "stream_recreated"
	CodeVerifyFailed      ErrCode = "verify_failed"
	CodeRestoreRejected   ErrCode = "restore_rejected"
	CodeCancelled         ErrCode = "cancelled"
	CodeTaskAbandoned     ErrCode = "task_abandoned"
	CodeTasksFailed       ErrCode = "tasks_failed"
	CodeHookAborted       ErrCode = "hook_aborted"
	CodeHookFailed        ErrCode = "hook_failed"
	CodeInternal          ErrCode = "internal"
)

// ErrorInfo is what is fixed about an error code.
type ErrorInfo struct {
	ErrCode ErrCode
	Code    int // HTTP-like
	Meaning string
	Hint    string // what an operator can do, unless the error itself says better
}

// ErrorTable returns all error codes in the order of PROTOCOL.md.
func ErrorTable() []ErrorInfo {
	return []ErrorInfo{
		{CodeInvalidJSON, 400, "The body is not one JSON object.", "Send one JSON object, or nothing for the defaults."},
		{CodeUnknownField, 400, "The body has a field that the request does not have.", "See the request's schema in the endpoint's metadata."},
		{CodeInvalidRequest, 400, "A field's value is not acceptable.", ""},
		{CodeInvalidStream, 400, "A stream name or pattern contains characters that no stream name has.", "Stream names have no spaces, '.', '>', '/' or '\\'; patterns may use * and ?."},
		{CodeReservedStream, 400, "The stream belongs to jetkeep itself.", "JETKEEP_ streams hold jetkeep's own state and are never backed up or restored."},
		{CodeNotSupported, 400, "The request asks for something that this version or the server does not do.", ""},
		{CodePermission, 403, "The server refused a subject to the credentials in use; the description names it.", "Grant the subject to the user; contrib lists the permissions that are needed."},
		{CodeLocked, 403, "The repository is encrypted, and what is asked for needs an identity that opens it.", "Give the service an identity file, or send one sealed with \"identity_sealed\"; jetkeep's commands do that with --identity."},
		{CodeWrongIdentity, 403, "The identity does not open the repository, or was not sealed to this service.", "repository.info names the operators that have a key and the xkey to seal to."},
		{CodeUntrusted, 403, "Something in the repository is not signed by a key that is trusted; the description names it.", "Look who wrote it before trusting it; trusted keys are in the configuration."},
		{CodeTargetNotFound, 404, "No target of that name is configured.", "target.list names the targets."},
		{CodeRepoNotFound, 404, "No repository of that name is configured.", "repository.list names the repositories."},
		{CodeStreamNotFound, 404, "A stream that was named exactly does not exist.", ""},
		{CodeNoStreams, 404, "No stream matches.", "Check the patterns; jetkeep's own streams never match."},
		{CodeSessionNotFound, 404, "There is no session of that id.", "session.list names the sessions."},
		{CodeScheduleNotFound, 404, "There is no schedule of that name.", "schedule.list names the schedules."},
		{CodeBackupNotFound, 404, "The repository has no such backup, or none that early.", "backup.list names the backups."},
		{CodeTimeout, 408, "Something did not answer in time; the description says what.", ""},
		{CodeSessionFinal, 409, "The session has ended and cannot be changed.", ""},
		{CodeRetained, 409, "The store has promised to keep it for longer and does not delete it.", "Ask again after the time in the description. Nobody shortens such a promise, jetkeep least of all."},
		{CodePinned, 409, "A restore point is pinned and is not forgotten.", "Take the pin away with backup.unpin; backup.info shows pins and their reasons."},
		{CodeConflict, 409, "Something changed meanwhile.", "Send the request again."},
		{CodePlanRefused, 409, "The restore cannot be done as asked; the description names the first problem of each stream.", "restore.plan lists every problem with its hint."},
		{CodeStreamExists, 409, "The target has a stream of that name.", "Delete the stream, or restore into another account."},
		{CodeBodyTooLarge, 413, "The body is larger than 256 KiB.", ""},
		{CodeTooManyStreams, 413, "More streams match than one session can hold.", "Split the request with patterns."},
		{CodeResponseTooLarge, 413, "The answer is larger than the server's max_payload.", "Ask for a smaller page with \"limit\"."},
		{CodeBusy, 429, "The service has as many requests at hand as it takes.", "Try again in a moment."},
		{CodeInternal, 500, "A defect, or an error without a code of its own; details are in the service's log.", ""},
		{CodeNoJetStream, 503, "The account has no JetStream, or no JetStream server can be reached.", "Enable JetStream for the account, or check domain and API prefix."},
		{CodeTargetUnavailable, 503, "The target cannot be reached or does not accept the credentials.", "Check the target's servers and credentials; target.info tries them."},
		{CodeConnectionLost, 503, "The connection to the target broke and did not come back in time.", ""},
		{CodeNotARepository, 503, "There is no repository at that place, although one was there or is expected.", "Check that the volume is mounted and the path is right."},
		{CodeNewerFormat, 503, "The repository was written by a newer jetkeep.", "Update jetkeep."},
		{CodeOldFormat, 503, "The repository is of a format that is read but not written any more.", "Back up into a new repository and keep the old one for restores."},
		{CodeRepoMismatch, 503, "The repository of that name is not the one that was in use under it, or not the one that is configured.", "Check that every instance has the same volume mounted. If it was replaced on purpose, accept it with repository.accept, or give it another name."},
		{CodeKeyUnavailable, 503, "A key that the configuration names cannot be read or is none; the description names it.", "Check the file and its permissions. Nothing is written without a signature that is asked for."},
		{CodeNotWritable, 503, "The store refuses to be written.", "Check permissions and mount options of the repository and of staging, and what the store's policy grants; repository.info tries it."},
		{CodeStoreUnavailable, 503, "The store cannot be reached, or asks to be left alone for now.", "What may pass was tried again already. Look whether the store answers, and ask again."},
		{CodeStorePermission, 503, "The store does not let the service read; the description names the permission.", "Grant it to the credentials of the repository; contrib has policies. repository.info tries what is allowed."},
		{CodeStoreFailed, 502, "The store, or the way to it, failed in a way that jetkeep has no name for; the description has its words.", "Look whether it is the store that the configuration means, and what it says; repository.info tries what jetkeep needs of it."},
		{CodeDiskFull, 507, "The store or the staging directory is full.", "Free space or raise the limit; what was uploaded is used again."},
		{CodeDamaged, 500, "Something in the repository is missing or altered; the description names it.", "Keep the repository as it is and restore an older backup."},
		{CodeIncomplete, 500, "The capture could not be proven complete; the description names what is missing.", "Try again when the stream changes less."},
		{CodeStreamRecreated, 409, "The stream was deleted, recreated or diverged while it was captured.", "Back it up again."},
		{CodeVerifyFailed, 500, "The restored stream differs from its restore point.", ""},
		{CodeRestoreRejected, 409, "The server did not accept the restored stream; the description has its reason.", ""},
		{CodeCancelled, 499, "The session was cancelled.", ""},
		{CodeTaskAbandoned, 500, "Instances that worked on the task died or lost it, too often to try again.", "Look for the reason in the service's log, such as memory limits."},
		{CodeHookAborted, 409, "A hook asked for the work not to be done; the description has its reason.", "Ask whoever answers the hook; nothing was touched."},
		{CodeHookFailed, 502, "A hook that must succeed before the work could not be run, or did not answer in time.", "See whether what the hook calls is there; on_error: \"continue\" goes on without it."},
		{CodeTasksFailed, 500, "Some or all streams failed; each task has its own error.", "session.info lists the tasks."},
	}
}

// Info returns what is fixed about a code; unknown codes are CodeInternal's.
func (c ErrCode) Info() ErrorInfo {
	var internal ErrorInfo
	for _, e := range ErrorTable() {
		if e.ErrCode == c {
			return e
		}
		if e.ErrCode == CodeInternal {
			internal = e
		}
	}
	return internal
}

// An Error is an error as it is sent. It is an error in Go, too, and matches
// another *Error of the same ErrCode with errors.Is.
type Error struct {
	Code        int     `json:"code" doc:"HTTP-like number."`
	ErrCode     ErrCode `json:"err_code" doc:"Names the error for programs."`
	Description string  `json:"description" doc:"Says what is wrong, for people."`
	Hint        string  `json:"hint,omitempty" doc:"Says what can be done about it."`
	Field       string  `json:"field,omitempty" doc:"The field of the request that is wrong."`
}

// Errorf makes an Error with its code's number and hint.
func Errorf(code ErrCode, format string, args ...any) *Error {
	i := code.Info()
	return &Error{Code: i.Code, ErrCode: code, Description: fmt.Sprintf(format, args...), Hint: i.Hint}
}

// Error implements error.
func (e *Error) Error() string {
	if e.Description == "" {
		return string(e.ErrCode)
	}
	return e.Description + " (" + string(e.ErrCode) + ")"
}

// Is matches an *Error with the same ErrCode.
func (e *Error) Is(target error) bool {
	var t *Error
	return errors.As(target, &t) && t.ErrCode == e.ErrCode
}

// WithHint returns a copy with another hint.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// WithField returns a copy that names the field.
func (e *Error) WithField(field string) *Error {
	c := *e
	c.Field = field
	return &c
}

// ErrorResponse is the body of an answer that is an error.
type ErrorResponse struct {
	Error *Error `json:"error"`
}

// HasCode tells whether err is or wraps an *Error of that code.
func HasCode(err error, code ErrCode) bool {
	var e *Error
	return errors.As(err, &e) && e.ErrCode == code
}
