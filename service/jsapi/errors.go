package jsapi

import (
	"errors"
	"fmt"
	"strings"
)

// What a caller can tell apart with errors.Is. An APIError, a PermissionError
// and a TooLargeError each match the sentinel that says the same.
var (
	ErrStreamNotFound   = errors.New("stream not found")
	ErrStreamExists     = errors.New("stream exists already")
	ErrConsumerNotFound = errors.New("consumer not found")
	// ErrNoMessage means that the stream holds no message of that sequence.
	ErrNoMessage = errors.New("no message found")
	// ErrNoJetStream means that the account, or the domain asked for, has no
	// JetStream: nobody listens there, or the server says so.
	ErrNoJetStream = errors.New("JetStream is not available")
	ErrPermission  = errors.New("permission denied")
	// ErrNoSnapshot means that the server makes no snapshot of this stream: up
	// to 2.14 it makes none of streams in memory.
	ErrNoSnapshot = errors.New("server makes no snapshot of this stream")
	// ErrInProgress means that the server is still busy with another snapshot
	// of the stream; servers before 2.15 make one at a time.
	ErrInProgress = errors.New("another snapshot of the stream is in progress")
	// ErrConsumerRefused means that the stream cannot be read with a consumer
	// of ours: its retention would make the consumer take part in it, or the
	// server or its permissions refuse one, or the connection is of a kind that
	// cannot carry the raw protocol. Messages reads such streams.
	ErrConsumerRefused = errors.New("stream cannot be read with a consumer")
	// ErrTooLarge means that a reply passed a bound of this package.
	ErrTooLarge = errors.New("reply is too large")
	// ErrNoReply means that no reply came before the deadline of the call,
	// while the caller's own context was still good.
	ErrNoReply = errors.New("no reply from the server")
	// ErrNotReady means that the cluster did nothing of what was asked because
	// it has no leader now, or not enough servers that it hears of. It passes
	// within seconds when servers come back.
	ErrNotReady = errors.New("cluster is not ready")
	// ErrConnectionLost means that the connection broke while something was
	// under way on it.
	ErrConnectionLost = errors.New("connection to the server was lost")
	// ErrInvalidReply means that a reply is not what the API promises.
	ErrInvalidReply = errors.New("reply is not understood")
)

// An APIError is an error as the JetStream API reported it.
type APIError struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

func (e *APIError) Error() string {
	return fmt.Sprintf("%s (%d)", e.Description, e.ErrCode)
}

// The error codes of the server that this package gives a meaning.
const (
	codeNoPeers              = 10005
	codeNotAvailable         = 10008
	codeNotLeader            = 10009
	codeConsumerNotFound     = 10014
	codeNoMessage            = 10037
	codeNotEnabledForAccount = 10039
	codeStreamNameInUse      = 10058
	codeStreamNotFound       = 10059
	codeSnapshot             = 10064
	codeNotEnabled           = 10076
	codeNameExistsAtRestore  = 10130
)

// Is matches the package's sentinels.
func (e *APIError) Is(target error) bool {
	switch target {
	case ErrStreamNotFound:
		return e.ErrCode == codeStreamNotFound
	case ErrStreamExists:
		return e.ErrCode == codeStreamNameInUse || e.ErrCode == codeNameExistsAtRestore
	case ErrConsumerNotFound:
		return e.ErrCode == codeConsumerNotFound
	case ErrNoMessage:
		return e.ErrCode == codeNoMessage
	case ErrNoJetStream:
		return e.ErrCode == codeNotEnabled || e.ErrCode == codeNotEnabledForAccount
	case ErrNotReady:
		// No peers may also mean that none is fit, which does not pass.
		return e.ErrCode == codeNotAvailable || e.ErrCode == codeNotLeader ||
			e.ErrCode == codeNoPeers && strings.Contains(e.Description, "offline")
	case ErrNoSnapshot:
		// One code for all failures of a snapshot: only the words differ.
		return e.ErrCode == codeSnapshot && strings.Contains(e.Description, "no impl")
	case ErrInProgress:
		return e.ErrCode == codeSnapshot && strings.Contains(e.Description, "in progress")
	}
	return false
}

// A PermissionError names the subject that the server refused to us.
type PermissionError struct {
	Op      string // "publish" or "subscribe"
	Subject string
}

func (e *PermissionError) Error() string {
	return fmt.Sprintf("no permission to %s to %q", e.Op, e.Subject)
}

// Is matches ErrPermission.
func (e *PermissionError) Is(target error) bool { return target == ErrPermission }

// A TooLargeError says which bound a reply passed.
type TooLargeError struct {
	What  string
	Size  uint64
	Limit uint64
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("%s of %d is over the limit of %d", e.What, e.Size, e.Limit)
}

// Is matches ErrTooLarge.
func (e *TooLargeError) Is(target error) bool { return target == ErrTooLarge }
