package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

func keysCommand() command {
	return command{
		name: "keys", summary: "Print the keys of a tenant, a line each",
		details: `
Keys come in the order of their tokens, each once. A key that holds a line feed
or other control characters is better read with -json, which prints a JSON
string a line.`,
		flags: listKeys,
	}
}

func listKeys(fs *flag.FlagSet) action {
	prefix := fs.String("prefix", "", "only keys that begin with `P`")
	return func(ctx context.Context, in *invocation) error {
		conn, err := in.dial()
		if err != nil {
			return err
		}
		defer conn.Close()
		out := bufio.NewWriterSize(in.Stdout, 1<<16)
		err = in.scan(ctx, pb.NewCoordinatorServiceClient(conn), *prefix, func(key string) error {
			if in.json {
				quoted, err := json.Marshal(key)
				if err != nil {
					return fmt.Errorf("print %q: %w", key, err)
				}
				key = string(quoted)
			}
			_, err := fmt.Fprintln(out, key)
			return err
		})
		if flushed := out.Flush(); err == nil {
			err = flushed
		}
		return err
	}
}

// scan calls found for each key of the tenant, and goes on where a stream that
// breaks has stopped.
func (in *invocation) scan(ctx context.Context, client pb.CoordinatorServiceClient, prefix string, found func(key string) error) error {
	token, failures := "", 0
	for {
		came, err := in.scanOnce(ctx, client, prefix, &token, found)
		if err == nil || status.Code(err) != codes.Unavailable || ctx.Err() != nil {
			return err
		}
		if came {
			failures = 0
		}
		if failures++; failures == attempts {
			return err
		}
		if err := in.backOff(ctx, failures, err); err != nil {
			return err
		}
	}
}

// scanOnce reads one stream to its end; token says where to go on.
func (in *invocation) scanOnce(ctx context.Context, client pb.CoordinatorServiceClient, prefix string, token *string, found func(string) error) (came bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.ScanKeys(ctx, &pb.ScanKeysRequest{TenantId: in.tenant, Prefix: prefix, ResumeToken: *token})
	if err != nil {
		return false, err
	}
	for {
		page, err := stream.Recv()
		if err == io.EOF {
			return came, nil
		}
		if err != nil {
			return came, err
		}
		came = true
		for _, key := range page.GetKeys() {
			if err := found(key); err != nil {
				return came, err
			}
		}
		if *token = page.GetResumeToken(); *token == "" {
			return came, nil
		}
	}
}
