package cli

import (
	"context"
	"math/rand/v2"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	attempts     = 6
	firstBackoff = 100 * time.Millisecond
	maxBackoff   = 3 * time.Second
)

// retry makes a call, and makes it again, a bounded number of times, while the
// coordinator is out of reach, without a quorum, or overloaded. Only for calls
// that may safely take effect twice.
func (in *invocation) retry(ctx context.Context, call func(context.Context) error) error {
	for attempt := 1; ; attempt++ {
		err := in.once(ctx, call)
		code := status.Code(err)
		if err == nil || attempt == attempts || code != codes.Unavailable && code != codes.ResourceExhausted {
			return err
		}
		if in.backOff(ctx, attempt, err) != nil {
			return err
		}
	}
}

// backOff waits after a failed attempt, as long as the coordinator asked for.
// It fails where ctx ends first.
func (in *invocation) backOff(ctx context.Context, attempt int, failure error) error {
	backoff := firstBackoff << (attempt - 1)
	timer := time.NewTimer(min(max(backoff/2+rand.N(backoff/2), asked(failure)), maxBackoff))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (in *invocation) once(ctx context.Context, call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, in.timeout)
	defer cancel()
	return call(ctx)
}

// asked is the pause that the coordinator asked for, 0 where it did not.
func asked(err error) time.Duration {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			return info.GetRetryDelay().AsDuration()
		}
	}
	return 0
}
