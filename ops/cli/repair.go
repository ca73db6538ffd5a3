package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync/atomic"

	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

func repairCommand() command {
	return command{
		name: "repair", summary: "Compare the replicas of keys now, and make equal what differs",
		details: `
All tenants are compared unless -tenant names one. Coordinators do the same
by themselves, slowly and for ever; this does it at once. It ends when every
replica that answers has been compared.`,
		flags: repair,
	}
}

func repair(fs *flag.FlagSet) action {
	tokens := fs.String("range", "", "only tokens from `FIRST-LAST`, in hexadecimal")
	return func(ctx context.Context, in *invocation) error {
		req := new(pb.RepairReplicasRequest)
		fs.Visit(func(f *flag.Flag) {
			if f.Name == "tenant" {
				req.TenantId = in.tenant
			}
		})
		if *tokens != "" {
			var err error
			if req.FirstToken, req.LastToken, err = tokenRange(*tokens); err != nil {
				return err
			}
		}
		conn, err := in.dial()
		if err != nil {
			return err
		}
		defer conn.Close()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := pb.NewCoordinatorServiceClient(conn).RepairReplicas(ctx, req)
		if err != nil {
			return err
		}
		var line repairLine
		hide := in.show(&line)
		for {
			progress, err := stream.Recv()
			if err == io.EOF {
				err = errors.New("the coordinator ended the repair without a result")
			}
			if err != nil {
				hide()
				return err
			}
			line.Store(progress)
			if progress.GetDone() {
				hide()
				return in.answer(progress, printf("%s\n", &line))
			}
		}
	}
}

// tokenRange reads two tokens in hexadecimal.
func tokenRange(s string) (first, last uint64, err error) {
	from, to, ok := strings.Cut(s, "-")
	if ok {
		first, err = strconv.ParseUint(from, 16, 64)
	}
	if ok && err == nil {
		last, err = strconv.ParseUint(to, 16, 64)
	}
	if !ok || err != nil || first > last || last == 0 {
		return 0, 0, wrongUsage("-range must be FIRST-LAST, two tokens of up to 16 hexadecimal digits, not %q", s)
	}
	return first, last, nil
}

// repairLine is how far a repair has come, in words.
type repairLine struct {
	atomic.Pointer[pb.RepairReplicasResponse]
}

func (l *repairLine) String() string {
	p := l.Load()
	if p == nil {
		return "nothing is compared yet"
	}
	s := fmt.Sprintf("compared %d of %d spans, %d differed; repaired %d keys (%s)",
		p.GetCompared(), p.GetSpans(), p.GetDiffered(), p.GetKeysRepaired(), size(p.GetBytesRepaired()))
	if n := p.GetSkipped(); n > 0 {
		s += fmt.Sprintf("; %d spans had a replica that did not answer", n)
	}
	return s
}
