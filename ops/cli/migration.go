package cli

import (
	"context"
	"io"
	"strconv"

	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

func migrationCommands() []command {
	one := [2]int{1, 1}
	return []command{
		{name: "migration status", args: "ID", count: one, summary: "Show how far a migration has come", run: showMigration},
		{name: "migration list", summary: "List the migrations", run: listMigrations},
		{name: "migration cancel", args: "ID", count: one, summary: "Cancel a migration", run: cancelMigration},
	}
}

func showMigration(ctx context.Context, in *invocation) error {
	a, err := ask(ctx, in, pb.CoordinatorServiceClient.GetMigrationStatus, &pb.GetMigrationStatusRequest{MigrationId: in.args[0]})
	if err != nil {
		return err
	}
	return in.answer(a, func(w io.Writer) error { return table(w, migrationRows([]*pb.GetMigrationStatusResponse{a})) })
}

func listMigrations(ctx context.Context, in *invocation) error {
	a, err := ask(ctx, in, pb.CoordinatorServiceClient.ListMigrations, &pb.ListMigrationsRequest{})
	if err != nil {
		return err
	}
	return in.answer(a, func(w io.Writer) error { return table(w, migrationRows(a.GetMigrations())) })
}

func migrationRows(migrations []*pb.GetMigrationStatusResponse) [][]string {
	rows := [][]string{{"MIGRATION", "TYPE", "SUBJECT", "STATUS", "KEYS", "OF", "DONE", "STARTED", "ENDS", "NOTE"}}
	for _, m := range migrations {
		p := m.GetProgress()
		rows = append(rows, []string{
			m.GetMigrationId(), m.GetType(), dash(m.GetNodeId() + m.GetTenantId()), m.GetStatus(),
			strconv.FormatInt(p.GetKeysMigrated(), 10), strconv.FormatInt(p.GetTotalKeys(), 10), percent(p.GetPercentage()),
			moment(m.GetStartedAt()), moment(m.GetEstimatedCompletion()), dash(m.GetErrorMessage()),
		})
	}
	return rows
}

func cancelMigration(ctx context.Context, in *invocation) error {
	a, err := ask(ctx, in, pb.CoordinatorServiceClient.CancelMigration, &pb.CancelMigrationRequest{MigrationId: in.args[0]})
	if err != nil {
		return err
	}
	return in.answer(a, printf("cancelled migration %s\n", in.args[0]))
}

// dash stands for an empty cell.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
