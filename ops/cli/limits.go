package cli

import (
	"context"
	"flag"
	"io"
	"strconv"

	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

func limitCommands() []command {
	one := [2]int{1, 1}
	return []command{
		{name: "tenant limits", args: "ID", count: one, summary: "Show what a tenant may ask of a coordinator", run: getLimits},
		{name: "tenant set-limits", args: "ID", count: one, summary: "Limit what a tenant may ask of a coordinator", flags: setLimits,
			details: "Each limit is a number, none (no limit) or default (what the coordinators'\n" +
				"configurations say); one that is not given stays as it is. Each coordinator\n" +
				"counts by itself. They all know of a change within a second."},
	}
}

func getLimits(ctx context.Context, in *invocation) error {
	a, err := ask(ctx, in, pb.CoordinatorServiceClient.GetTenantLimits, &pb.GetTenantLimitsRequest{TenantId: in.args[0]})
	if err != nil {
		return err
	}
	return in.answer(a, func(w io.Writer) error { return table(w, limitRows(a.GetTenantId(), a.GetSet(), a.GetInForce())) })
}

func setLimits(fs *flag.FlagSet) action {
	operations := fs.String("operations", "", "`LIMIT` of operations per second")
	bytes := fs.String("bytes", "", "`LIMIT` of bytes of values per second, written and read")
	concurrency := fs.String("concurrency", "", "`LIMIT` of operations under way at once")
	return func(ctx context.Context, in *invocation) error {
		req := &pb.SetTenantLimitsRequest{TenantId: in.args[0]}
		for _, f := range []struct {
			name, given string
			dst         **int64
		}{
			{"-operations", *operations, &req.OperationsPerSecond},
			{"-bytes", *bytes, &req.BytesPerSecond},
			{"-concurrency", *concurrency, &req.Concurrency},
		} {
			if f.given == "" {
				continue
			}
			n, err := parseLimit(f.name, f.given)
			if err != nil {
				return err
			}
			*f.dst = &n
		}
		if req.OperationsPerSecond == nil && req.BytesPerSecond == nil && req.Concurrency == nil {
			return wrongUsage("tenant set-limits needs -operations, -bytes or -concurrency")
		}
		a, err := ask(ctx, in, pb.CoordinatorServiceClient.SetTenantLimits, req)
		if err != nil {
			return err
		}
		return in.answer(a, func(w io.Writer) error { return table(w, limitRows(a.GetTenantId(), a.GetSet(), a.GetInForce())) })
	}
}

// Limits that are words.
const (
	noLimit      = -1
	defaultLimit = 0
)

func parseLimit(name, s string) (int64, error) {
	switch s {
	case "none":
		return noLimit, nil
	case "default":
		return defaultLimit, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 1 {
		return 0, wrongUsage("%s must be a number above 0, none or default, not %q", name, s)
	}
	return n, nil
}

func limitRows(tenant string, set, inForce *pb.TenantLimits) [][]string {
	word := func(n int64) string {
		switch n {
		case noLimit:
			return "none"
		case defaultLimit:
			return "default"
		}
		return strconv.FormatInt(n, 10)
	}
	return [][]string{
		{"TENANT", "LIMIT", "SET", "IN FORCE"},
		{tenant, "operations per second", word(set.GetOperationsPerSecond()), word(inForce.GetOperationsPerSecond())},
		{tenant, "bytes per second", word(set.GetBytesPerSecond()), word(inForce.GetBytesPerSecond())},
		{tenant, "concurrency", word(set.GetConcurrency()), word(inForce.GetConcurrency())},
	}
}
