package cli

import (
	"context"
	"flag"
	"fmt"
	"io"
	"time"

	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// maxValueBytes is the most that a value may have.
const maxValueBytes = 10 << 20

func keyCommands() []command {
	return []command{
		{name: "put", args: "KEY VALUE", count: [2]int{2, 2}, summary: "Write a value; a VALUE of - is read from standard input", flags: putFlags},
		{name: "get", args: "KEY", count: [2]int{1, 1}, summary: "Print a value, exactly its bytes", flags: traced(get)},
		{name: "delete", args: "KEY", count: [2]int{1, 1}, summary: "Delete a key; one that is absent, too", flags: traced(deleteKey)},
	}
}

func putFlags(fs *flag.FlagSet) action {
	ttl := fs.Duration("ttl", 0, "how long the value lives, whole seconds such as 90s or 24h; 0: for ever")
	trace := traceFlag(fs)
	return func(ctx context.Context, in *invocation) error {
		in.trace = *trace
		if *ttl < 0 || *ttl%time.Second != 0 {
			return wrongUsage("-ttl must be whole seconds, not %v", *ttl)
		}
		return put(ctx, in, *ttl)
	}
}

func put(ctx context.Context, in *invocation, ttl time.Duration) error {
	value := []byte(in.args[1])
	if in.args[1] == "-" {
		var err error
		if value, err = io.ReadAll(io.LimitReader(interruptible(ctx, in.Stdin), maxValueBytes+1)); err != nil {
			return fmt.Errorf("read the value from standard input: %w", err)
		}
		if len(value) > maxValueBytes {
			return fmt.Errorf("the value on standard input is more than %d bytes", maxValueBytes)
		}
	}
	a, err := askTraced(ctx, in, pb.CoordinatorServiceClient.WriteKeyValue, &pb.WriteKeyValueRequest{
		TenantId: in.tenant, Key: in.args[0], Value: value, Consistency: in.consistency, IdempotencyKey: in.idempotencyKey,
		TtlSeconds: int64(ttl / time.Second),
	})
	if err != nil {
		return err
	}
	return in.answer(a, printf("stored %s at %s: %s%s\n", a.GetKey(), a.GetConsistency(), replicas(a.GetReplicaCount()), duplicate(a.GetIsDuplicate())))
}

func get(ctx context.Context, in *invocation) error {
	a, err := askTraced(ctx, in, pb.CoordinatorServiceClient.ReadKeyValue, &pb.ReadKeyValueRequest{
		TenantId: in.tenant, Key: in.args[0], Consistency: in.consistency,
	})
	if err != nil {
		return err
	}
	return in.answer(a, func(w io.Writer) error {
		_, err := w.Write(a.GetValue())
		return err
	})
}

func deleteKey(ctx context.Context, in *invocation) error {
	a, err := askTraced(ctx, in, pb.CoordinatorServiceClient.DeleteKeyValue, &pb.DeleteKeyValueRequest{
		TenantId: in.tenant, Key: in.args[0], Consistency: in.consistency, IdempotencyKey: in.idempotencyKey,
	})
	if err != nil {
		return err
	}
	return in.answer(a, printf("deleted %s at %s: %s%s\n", a.GetKey(), a.GetConsistency(), replicas(a.GetReplicaCount()), duplicate(a.GetIsDuplicate())))
}

func replicas(n int32) string {
	if n == 1 {
		return "1 replica"
	}
	return fmt.Sprintf("%d replicas", n)
}

func duplicate(is bool) string {
	if is {
		return ", by an earlier attempt"
	}
	return ""
}

// interruptible reads from r until ctx ends. The read that is under way then
// goes on in the background: a terminal's cannot be ended.
func interruptible(ctx context.Context, r io.Reader) io.Reader {
	out, in := io.Pipe()
	go func() {
		_, err := io.Copy(in, r)
		in.CloseWithError(err)
	}()
	context.AfterFunc(ctx, func() { out.CloseWithError(ctx.Err()) })
	return out
}
