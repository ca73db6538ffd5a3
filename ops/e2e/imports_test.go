package e2e

import (
	"os/exec"
	"strings"
	"testing"
)

// The rooms and whom each may import, of ours; and drivers and frameworks,
// each of which has one room.
func TestArrowsPointOneWay(t *testing.T) {
	const module = "github.com/pairdb/coordinator/"
	ours := []struct{ room, may string }{
		{"ring", ""},
		{"coord", "ring coord"},
		{"backends", "coord ring backends"},
		{"rpc", "coord ring rpc"},
		// The command line and the configuration reach the client's generated
		// code and the engine's plain types.
		{"ops", "coord ring rpc/coordinatorpb rpc/client rpc/auth ops"},
	}
	theirs := map[string]string{
		"google.golang.org/grpc":             "rpc ops/cli ops/metrics ops/bench ops/certs ops/guard ops/tracing",
		"github.com/dgraph-io/badger":        "backends/badger",
		"modernc.org/sqlite":                 "backends/sqlite",
		"github.com/jackc/pgx":               "backends/postgres backends/postgrestest",
		"github.com/redis/go-redis":          "backends/redis backends/redistest",
		"github.com/hashicorp/hcl":           "ops/config",
		"github.com/hashicorp/go-hclog":      "ops/logging",
		"github.com/VictoriaMetrics/metrics": "ops/metrics",
		"go.opentelemetry.io":                "ops/tracing",
		"database/sql":                       "backends/sqlite",
	}
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, module+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) < 10 {
		t.Fatalf("only %d packages are listed", len(lines))
	}
	within := func(path string, rooms string) bool {
		for _, room := range strings.Fields(rooms) {
			if path == room || strings.HasPrefix(path, room+"/") {
				return true
			}
		}
		return false
	}
	for _, line := range lines {
		fields := strings.Fields(line)
		path := strings.TrimPrefix(fields[0], module)
		if path == strings.TrimSuffix(module, "/") {
			continue // main reaches everything
		}
		for _, imported := range fields[1:] {
			if inner, ok := strings.CutPrefix(imported, module); ok {
				for _, o := range ours {
					if within(path, o.room) && !within(inner, o.may) {
						t.Errorf("%s imports %s; %s may import: %s", path, inner, o.room, o.may)
					}
				}
				continue
			}
			for prefix, rooms := range theirs {
				if (imported == prefix || strings.HasPrefix(imported, prefix+"/")) && !within(path, rooms) {
					t.Errorf("%s imports %s, which belongs to %s", path, imported, rooms)
				}
			}
		}
	}
}
