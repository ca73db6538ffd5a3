package rpc

import (
	"context"
	"errors"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/rpc/coordinatorpb"
	"github.com/pairdb/coordinator/rpc/limit"
)

// errorDomain is the domain of every ErrorInfo.
const errorDomain = "pairdb"

// Reasons that code outside the table names.
const (
	reasonInternal = "INTERNAL"
	reasonCanceled = "DEADLINE_EXCEEDED" // a client that went away set itself a deadline
)

// retryAfter is what an overloaded coordinator asks a client to wait.
const retryAfter = 100 * time.Millisecond

// errMalformed is a request that its codec cannot read.
var errMalformed = errors.New("malformed request")

// verdict is what clients are told of a kind of error. The message of one with
// a word holds that word: clients classify by it.
type verdict struct {
	kind   error
	code   codes.Code
	reason string
	word   string
}

// verdicts is ordered: an error that is of several kinds is told as the first.
// What a store's failure caused stands before the deadline that ended it.
var verdicts = [...]verdict{
	{coord.ErrKeyNotFound, codes.NotFound, "KEY_NOT_FOUND", ""},
	{errUnauthenticated, codes.Unauthenticated, "UNAUTHENTICATED", ""},
	{errForbidden, codes.PermissionDenied, "FORBIDDEN", ""},
	{coord.ErrInvalidRequest, codes.InvalidArgument, "INVALID_REQUEST", ""},
	{errMalformed, codes.InvalidArgument, "INVALID_REQUEST", ""},
	{coord.ErrInvalidReplicationFactor, codes.InvalidArgument, "INVALID_REPLICATION_FACTOR", ""},
	{coord.ErrTenantNotFound, codes.NotFound, "TENANT_NOT_FOUND", "tenant"},
	{coord.ErrTenantExists, codes.AlreadyExists, "TENANT_EXISTS", "tenant"},
	{coord.ErrNodeNotFound, codes.NotFound, "NODE_NOT_FOUND", "node"},
	{coord.ErrNodeInUse, codes.FailedPrecondition, "NODE_IN_USE", "node"},
	{coord.ErrNodeIDTaken, codes.FailedPrecondition, "NODE_IN_USE", "node"},
	{coord.ErrMigrationNotFound, codes.NotFound, "MIGRATION_NOT_FOUND", "migration"},
	{coord.ErrMigrationConflict, codes.FailedPrecondition, "MIGRATION_CONFLICT", ""},
	{coord.ErrIdempotencyConflict, codes.AlreadyExists, "IDEMPOTENCY_KEY_CONFLICT", "idempotency"},
	{limit.ErrRate, codes.ResourceExhausted, "RATE_LIMIT_EXCEEDED", ""},
	{coord.ErrOverloaded, codes.ResourceExhausted, "OVERLOADED", ""},
	{coord.ErrShuttingDown, codes.Unavailable, "SHUTTING_DOWN", ""},
	{coord.ErrNoQuorum, codes.Unavailable, "QUORUM_NOT_REACHED", ""},
	{coord.ErrIdempotencyUnavailable, codes.Unavailable, "IDEMPOTENCY_UNAVAILABLE", ""},
	{coord.ErrMetadataUnavailable, codes.Unavailable, "METADATA_UNAVAILABLE", ""},
	{coord.ErrReplicaRefused, codes.Unavailable, "QUORUM_NOT_REACHED", "node"},
	{coord.ErrReplicaUnavailable, codes.Unavailable, "QUORUM_NOT_REACHED", "node"},
	{coord.ErrDeadlineExceeded, codes.DeadlineExceeded, "DEADLINE_EXCEEDED", ""},
	{context.DeadlineExceeded, codes.DeadlineExceeded, "DEADLINE_EXCEEDED", ""},
	{context.Canceled, codes.Canceled, reasonCanceled, ""},
}

// judge finds what clients are told of err; internal errors are in no row.
func judge(err error) verdict {
	for i := range verdicts {
		if errors.Is(err, verdicts[i].kind) {
			return verdicts[i]
		}
	}
	return verdict{code: codes.Internal, reason: reasonInternal}
}

// message is what a client reads. Of an internal error it gets the request id
// to report, and nothing else; of a store that is out not where it is, or as
// whom the coordinator goes there.
func (v verdict) message(err error, requestID string) string {
	switch {
	case v.code == codes.Internal:
		return "internal error; the coordinator's log has the details under request id " + requestID
	case v.kind == coord.ErrKeyNotFound:
		return coord.ErrKeyNotFound.Error()
	case v.kind == coord.ErrMetadataUnavailable, v.kind == coord.ErrIdempotencyUnavailable:
		return v.kind.Error() + "; the coordinator's log says why"
	}
	text := strings.ToValidUTF8(err.Error(), "\uFFFD")
	if v.word != "" && !strings.Contains(strings.ToLower(text), v.word) {
		return v.word + ": " + text
	}
	return text
}

// outcome is what a failed write or delete did. The engine says so itself; what
// failed before it was asked has done nothing, and of what is left nobody knows.
func (v verdict) outcome(err error) coord.Outcome {
	var failed *coord.WriteError
	if errors.As(err, &failed) {
		return failed.Outcome
	}
	switch v.kind {
	case errUnauthenticated, errForbidden, coord.ErrInvalidRequest, errMalformed, coord.ErrShuttingDown, coord.ErrOverloaded, limit.ErrRate:
		return coord.NotApplied
	}
	return coord.InDoubt
}

// answer is what clients are told of a failed operation, however it was sent.
type answer struct {
	code      codes.Code
	reason    string
	message   string
	outcome   string        // empty where there is none to tell
	retry     time.Duration // 0: nothing is asked for
	requestID string        // of an internal error
}

// answer tells err. A failed mutation (write or delete) carries its outcome,
// and so does everything that was turned away for load.
func (v verdict) answer(err error, mutation bool, requestID string) answer {
	a := answer{code: v.code, reason: v.reason, message: v.message(err, requestID)}
	if mutation || v.code == codes.ResourceExhausted {
		a.outcome = v.outcome(err).String()
	}
	if v.code == codes.ResourceExhausted {
		a.retry = retryAfter
		if refusal := (*limit.Refusal)(nil); errors.As(err, &refusal) {
			a.retry = refusal.After
		}
	}
	if v.code == codes.Internal {
		a.requestID = requestID
	}
	return a
}

// status is the answer as a gRPC status.
func (a answer) status() *status.Status {
	info := &errdetails.ErrorInfo{Domain: errorDomain, Reason: a.reason}
	if a.outcome != "" || a.requestID != "" {
		info.Metadata = make(map[string]string, 2)
	}
	if a.outcome != "" {
		info.Metadata["outcome"] = a.outcome
	}
	if a.requestID != "" {
		info.Metadata["request_id"] = a.requestID
	}
	details := []protoadapt.MessageV1{info}
	if a.retry != 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(a.retry)})
	}
	plain := status.New(a.code, a.message)
	detailed, err := plain.WithDetails(details...)
	if err != nil {
		return plain
	}
	return detailed
}

// operation is the answer as the status of one operation among several.
func (a answer) operation() *coordinatorpb.OperationStatus {
	return &coordinatorpb.OperationStatus{
		Code:         int32(a.code),
		Reason:       a.reason,
		Message:      a.message,
		Outcome:      a.outcome,
		RetryDelayMs: a.retry.Milliseconds(),
		RequestId:    a.requestID,
	}
}

// notFound is the answer to a read of an absent key, often a frequent one.
var notFound = judge(coord.ErrKeyNotFound).answer(coord.ErrKeyNotFound, false, "")

// A read of an absent key is an answer like another, so it is made once.
// Nobody may change these.
var (
	notFoundError     = notFound.status().Err()
	notFoundOperation = notFound.operation()
)

// told is an error of a stream as its client is told of it, and what it was.
type told struct {
	status    *status.Status
	cause     error
	requestID string // that the client was told
}

func (t *told) Error() string              { return t.status.Err().Error() }
func (t *told) GRPCStatus() *status.Status { return t.status }
func (t *told) Unwrap() error              { return t.cause }

// statusOf is an error that no RPC of its own has caused, with its gRPC status.
func statusOf(err error) error {
	id := randomID()
	return &told{judge(err).answer(err, false, id).status(), err, id}
}
