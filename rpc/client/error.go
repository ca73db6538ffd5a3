package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// Kinds of failure, as errors.Is tells them.
var (
	ErrInvalidRequest         = errors.New("invalid request")
	ErrKeyNotFound            = errors.New("key not found")
	ErrTenantNotFound         = errors.New("tenant not found")
	ErrIdempotencyKeyConflict = errors.New("idempotency key was used for another operation or value")
	ErrQuorumNotReached       = errors.New("quorum not reached")
	ErrUnauthenticated        = errors.New("unauthenticated")
	ErrForbidden              = errors.New("forbidden")
	ErrRateLimited            = errors.New("rate limit exceeded")
	ErrOverloaded             = errors.New("overloaded")
	ErrShuttingDown           = errors.New("shutting down")
	ErrDeadlineExceeded       = errors.New("deadline exceeded")
	ErrIdempotencyUnavailable = errors.New("idempotency store unavailable")
	ErrMetadataUnavailable    = errors.New("metadata store unavailable")
	// ErrUnavailable: the coordinator was out of reach.
	ErrUnavailable = errors.New("coordinator unavailable")
	// ErrClosed: the Client was closed.
	ErrClosed = errors.New("client closed")
)

// kinds are the reasons that coordinators give.
var kinds = map[string]error{
	"INVALID_REQUEST":          ErrInvalidRequest,
	"KEY_NOT_FOUND":            ErrKeyNotFound,
	"TENANT_NOT_FOUND":         ErrTenantNotFound,
	"IDEMPOTENCY_KEY_CONFLICT": ErrIdempotencyKeyConflict,
	"QUORUM_NOT_REACHED":       ErrQuorumNotReached,
	"UNAUTHENTICATED":          ErrUnauthenticated,
	"FORBIDDEN":                ErrForbidden,
	"RATE_LIMIT_EXCEEDED":      ErrRateLimited,
	"OVERLOADED":               ErrOverloaded,
	"SHUTTING_DOWN":            ErrShuttingDown,
	"DEADLINE_EXCEEDED":        ErrDeadlineExceeded,
	"IDEMPOTENCY_UNAVAILABLE":  ErrIdempotencyUnavailable,
	"METADATA_UNAVAILABLE":     ErrMetadataUnavailable,
}

// Outcome is what a failed write or delete did.
type Outcome string

const (
	// NotApplied: it has had no effect and will have none.
	NotApplied Outcome = "not_applied"
	// InDoubt: it may have taken effect, may take effect yet (once), or never.
	InDoubt Outcome = "in_doubt"
)

// Error is why an operation failed.
type Error struct {
	Code    codes.Code
	Reason  string // as the coordinator's documentation lists them; empty where none was given
	Message string
	// Outcome of a write or delete, all attempts together. It may be set for a
	// read that was turned away for load.
	Outcome Outcome
	// RetryDelay is how long the coordinator asks to wait; 0 where it does not.
	RetryDelay time.Duration
	// RequestID names an internal error in the coordinator's log.
	RequestID string
	// Attempts is how often it was tried.
	Attempts int

	kind   error // what Is tells, besides what Reason says
	cause  error // a context's error
	unsent bool  // it certainly never reached the coordinator's engine
}

// Error says what the coordinator said, and what is known of the effect.
func (e *Error) Error() string {
	text := e.Message
	if e.Reason != "" {
		text += " (" + e.Reason + ")"
	}
	if e.Outcome != "" {
		text += ", " + string(e.Outcome)
	}
	if e.Attempts > 1 {
		text += fmt.Sprintf(", after %d attempts", e.Attempts)
	}
	return text
}

// Is tells the error's kind.
func (e *Error) Is(target error) bool {
	return target == e.kind || e.Reason != "" && target == kinds[e.Reason]
}

// Unwrap is the error of a context that ended, or nil.
func (e *Error) Unwrap() error { return e.cause }

// GRPCStatus is the error as the operation's own RPC would have returned it.
func (e *Error) GRPCStatus() *status.Status {
	plain := status.New(e.Code, e.Message)
	if e.Reason == "" && e.Outcome == "" {
		return plain
	}
	info := &errdetails.ErrorInfo{Domain: errorDomain, Reason: e.Reason, Metadata: map[string]string{}}
	if e.Outcome != "" {
		info.Metadata["outcome"] = string(e.Outcome)
	}
	if e.RequestID != "" {
		info.Metadata["request_id"] = e.RequestID
	}
	details := []protoadapt.MessageV1{info}
	if e.RetryDelay > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(e.RetryDelay)})
	}
	detailed, err := plain.WithDetails(details...)
	if err != nil {
		return plain
	}
	return detailed
}

const errorDomain = "pairdb"

// errNotFound is what reads of absent keys return. Nobody changes it.
var errNotFound = &Error{Code: codes.NotFound, Reason: "KEY_NOT_FOUND", Message: ErrKeyNotFound.Error(), Attempts: 1}

// operationError is the error of one operation among several.
func operationError(s *coordinatorpb.OperationStatus) *Error {
	if s.Reason == errNotFound.Reason && s.Outcome == "" {
		return errNotFound
	}
	e := &Error{
		Code:       codes.Code(s.Code),
		Reason:     clone(s.Reason),
		Message:    clone(s.Message),
		Outcome:    outcomeOf(s.Outcome),
		RetryDelay: time.Duration(s.RetryDelayMs) * time.Millisecond,
		RequestID:  clone(s.RequestId),
	}
	if e.Code == codes.DeadlineExceeded {
		e.cause = context.DeadlineExceeded
	}
	return e
}

// callError is the error of an RPC. A write that was sent and of which nobody
// says what it did is in doubt.
func callError(err error, mutation bool) *Error {
	s := status.Convert(err)
	e := &Error{Code: s.Code(), Message: s.Message()}
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			if d.Domain == errorDomain {
				e.Reason, e.Outcome, e.RequestID = d.Reason, outcomeOf(d.Metadata["outcome"]), d.Metadata["request_id"]
			}
		case *errdetails.RetryInfo:
			e.RetryDelay = d.RetryDelay.AsDuration()
		}
	}
	if mutation && e.Outcome == "" {
		e.Outcome = InDoubt
	}
	if e.Reason == "" {
		switch e.Code {
		case codes.Unavailable:
			e.kind = ErrUnavailable
		case codes.DeadlineExceeded:
			e.kind, e.cause = ErrDeadlineExceeded, context.DeadlineExceeded
		case codes.Canceled:
			e.cause = context.Canceled
		}
	}
	return e
}

func outcomeOf(s string) Outcome {
	switch s {
	case string(NotApplied):
		return NotApplied
	case string(InDoubt):
		return InDoubt
	}
	return ""
}

// lost is the error of an operation whose stream ended without an answer. One
// that certainly was not begun is not applied.
func lost(mutation, begun bool, message string) *Error {
	e := &Error{Code: codes.Unavailable, Message: message, kind: ErrUnavailable, unsent: !begun}
	switch {
	case mutation && begun:
		e.Outcome = InDoubt
	case mutation:
		e.Outcome = NotApplied
	}
	return e
}

// overdue is the error of an operation whose time ended without an answer.
func overdue(mutation, sent bool, cause error) *Error {
	e := &Error{Code: codes.DeadlineExceeded, Message: "no answer in time", kind: ErrDeadlineExceeded, cause: cause}
	if errors.Is(cause, context.Canceled) {
		e.Code, e.Message, e.kind = codes.Canceled, "canceled by the caller", nil
	}
	switch {
	case mutation && sent:
		e.Outcome = InDoubt
	case mutation:
		e.Outcome = NotApplied
	}
	return e
}

func closed(mutation, sent bool) *Error {
	e := lost(mutation, sent, "the client was closed")
	e.Code, e.kind = codes.Canceled, ErrClosed
	return e
}
