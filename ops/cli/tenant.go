package cli

import (
	"context"
	"flag"
	"io"
	"strconv"

	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// tenantPage is how many tenants are asked for at once.
const tenantPage = 500

func tenantCommands() []command {
	one := [2]int{1, 1}
	return []command{
		{name: "tenant create", args: "ID", count: one, summary: "Make a tenant", flags: createTenant},
		{name: "tenant get", args: "ID", count: one, summary: "Show a tenant", run: getTenant},
		{name: "tenant list", summary: "List all tenants", run: listTenants},
		{name: "tenant set-rf", args: "ID N", count: [2]int{2, 2}, summary: "Keep a tenant's keys on N storage nodes", run: setReplicationFactor},
		{name: "tenant delete", args: "ID", count: one, summary: "Delete a tenant and its data", run: deleteTenant},
	}
}

func createTenant(fs *flag.FlagSet) action {
	rf := fs.Int("rf", 0, "replication `FACTOR`: storage nodes that keep each key; 0 means 3")
	return func(ctx context.Context, in *invocation) error {
		n, err := int32Argument("-rf", strconv.Itoa(*rf))
		if err != nil {
			return err
		}
		a, err := ask(ctx, in, pb.CoordinatorServiceClient.CreateTenant,
			&pb.CreateTenantRequest{TenantId: in.args[0], ReplicationFactor: n})
		if err != nil {
			return err
		}
		return in.answer(a, printf("created tenant %s, replication factor %d\n", a.GetTenantId(), a.GetReplicationFactor()))
	}
}

func getTenant(ctx context.Context, in *invocation) error {
	a, err := ask(ctx, in, pb.CoordinatorServiceClient.GetTenant, &pb.GetTenantRequest{TenantId: in.args[0]})
	if err != nil {
		return err
	}
	return in.answer(a, func(w io.Writer) error { return table(w, tenantRows([]*pb.GetTenantResponse{a})) })
}

func tenantRows(tenants []*pb.GetTenantResponse) [][]string {
	rows := [][]string{{"TENANT", "REPLICATION FACTOR", "CREATED", "UPDATED"}}
	for _, t := range tenants {
		rows = append(rows, []string{t.GetTenantId(), strconv.Itoa(int(t.GetReplicationFactor())),
			moment(t.GetCreatedAt()), moment(t.GetUpdatedAt())})
	}
	return rows
}

func listTenants(ctx context.Context, in *invocation) error {
	conn, err := in.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	client := pb.NewCoordinatorServiceClient(conn)
	all := &pb.ListTenantsResponse{}
	for token := ""; ; {
		page, err := in.tenantPage(ctx, client, token)
		if err != nil {
			return err
		}
		all.Tenants = append(all.Tenants, page.GetTenants()...)
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	return in.answer(all, func(w io.Writer) error { return table(w, tenantRows(all.GetTenants())) })
}

func (in *invocation) tenantPage(ctx context.Context, client pb.CoordinatorServiceClient, token string) (*pb.ListTenantsResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, in.timeout)
	defer cancel()
	return client.ListTenants(ctx, &pb.ListTenantsRequest{PageSize: tenantPage, PageToken: token})
}

func setReplicationFactor(ctx context.Context, in *invocation) error {
	n, err := int32Argument("N", in.args[1])
	if err != nil {
		return err
	}
	a, err := ask(ctx, in, pb.CoordinatorServiceClient.UpdateReplicationFactor,
		&pb.UpdateReplicationFactorRequest{TenantId: in.args[0], NewReplicationFactor: n})
	if err != nil {
		return err
	}
	return in.answer(a, printf("tenant %s: replication factor %d, was %d%s\n",
		a.GetTenantId(), a.GetNewReplicationFactor(), a.GetOldReplicationFactor(), migrationNote(a.GetMigrationId())))
}

func deleteTenant(ctx context.Context, in *invocation) error {
	a, err := ask(ctx, in, pb.CoordinatorServiceClient.DeleteTenant, &pb.DeleteTenantRequest{TenantId: in.args[0]})
	if err != nil {
		return err
	}
	return in.answer(a, printf("deleted tenant %s\n", in.args[0]))
}

// int32Argument reads a number that the coordinator is sent.
func int32Argument(name, s string) (int32, error) {
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil {
		return 0, wrongUsage("%s must be a whole number, not %q", name, s)
	}
	return int32(n), nil
}

func migrationNote(id string) string {
	if id == "" {
		return ""
	}
	return "; migration " + id
}
