package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pairdb/coordinator/coord"
)

const testdata = "../../testdata/config"

func environment(pairs ...string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1], true
			}
		}
		return "", false
	}
}

func mustParse(t *testing.T, src Source, text string) *Config {
	t.Helper()
	if src.Path == "" && text != "" {
		src.Path = "test.hcl"
	}
	c, err := parse(src, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func mustFail(t *testing.T, src Source, text string) Faults {
	t.Helper()
	if src.Path == "" && text != "" {
		src.Path = "test.hcl"
	}
	_, err := parse(src, []byte(text))
	var faults Faults
	if !errors.As(err, &faults) || len(faults) == 0 {
		t.Fatalf("error = %v, want faults", err)
	}
	return faults
}

const minimal = `
metadata "sqlite" {}
idempotency "badger" {}
`

// Each bad file marks the lines that are at fault, and with what.
func TestBadFiles(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(testdata, "bad", "*.hcl"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files in testdata: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			for i, line := range strings.Split(string(text), "\n") {
				_, marks, ok := strings.Cut(line, "# ERROR: ")
				if !ok {
					continue
				}
				for mark := range strings.SplitSeq(marks, " | ") {
					want = append(want, fmt.Sprintf("%d: %s", i+1, mark))
				}
			}
			_, err = Load(Source{Path: file})
			var faults Faults
			if !errors.As(err, &faults) {
				t.Fatalf("error = %v, want faults", err)
			}
			var got []string
			for _, f := range faults {
				got = append(got, fmt.Sprintf("%d: %s", f.Range.Start.Line, f.Summary))
				prefix := fmt.Sprintf("%s:%d,%d-", file, f.Range.Start.Line, f.Range.Start.Column)
				if !strings.HasPrefix(f.String(), prefix) {
					t.Errorf("%q does not begin with %q", f, prefix)
				}
				if !strings.Contains(f.String(), f.Summary+"; ") || f.Detail == "" {
					t.Errorf("%q has no detail", f)
				}
			}
			if !slices.IsSortedFunc(faults, func(a, b Fault) int { return a.Range.Start.Byte - b.Range.Start.Byte }) {
				t.Errorf("not in the order of the file: %v", got)
			}
			slices.Sort(want)
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("got:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
			}
			for _, secret := range []string{"swordfish", "12345678"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("a secret is shown:\n%v", err)
				}
			}
		})
	}
}

func TestFaultNamesPlaceAndShowsLine(t *testing.T) {
	got := mustFail(t, Source{Path: "coordinator.hcl"}, minimal+`server {
  read_timeout = 10
}
hash_ring {
  virtual_nodes = 0
}
`).Error()
	want := `coordinator.hcl:5,18-20: Duration needs a unit; Write it as "250ms" or "2s".
     5 | read_timeout = 10
coordinator.hcl:8,19-20: Virtual nodes must be between 1 and 4096; hash_ring.virtual_nodes is 0.
     8 | virtual_nodes = 0`
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// What must not stand somewhere is told with what may, however deep it is.
func TestFaultTellsWhatIsExpected(t *testing.T) {
	for text, want := range map[string]string{
		`wrong = 1`:                                       "Expected the attributes node_id, data_dir; the blocks server, metadata,",
		`wrong {}`:                                        "Expected the attributes node_id, data_dir; the blocks server, metadata,",
		`server { wrong = 1 }`:                            "Expected the attributes listen, max_connections, read_timeout, write_timeout, shutdown_timeout; the blocks tls.",
		"server {\ntls {\nwrong = 1\n}\n}":                "Expected the attributes cert_file, key_file, client_ca_file, client_names.",
		"server {\ntls {\nwrong {}\n}\n}":                 "Expected the attributes cert_file, key_file, client_ca_file, client_names.",
		`storage_node "a" { wrong = 1 }`:                  "Expected the attributes address, virtual_nodes.",
		`metadata "sqlite" { wrong = 1 }`:                 "Expected the attributes path.",
		"metadata \"postgres\" {\ntls {\nwrong = 1\n}\n}": "Expected the attributes ca_file,",
		"idempotency \"badger\" {\nwrong {}\n}":           "Expected the attributes path, ttl.",
	} {
		faults := mustFail(t, Source{Path: "test.hcl", Dev: true}, text)
		if at := slices.IndexFunc(faults, func(f Fault) bool { return strings.HasPrefix(f.Summary, "Unsupported") }); at < 0 || !strings.Contains(faults[at].Detail, want) {
			t.Errorf("%s: got %v, want %q", text, faults, want)
		}
	}
}

func TestFaultLinesHideSecrets(t *testing.T) {
	tests := map[string]string{
		"unquoted":      "metadata \"postgres\" {\n password = swordfish\n}",
		"number":        "metadata \"postgres\" {\n password = 77swordfish\n}",
		"interpolation": "metadata \"postgres\" {\n password = \"swordfish${x}swordfish\"\n}",
		"heredoc":       "metadata \"postgres\" {\n password = <<EOT\nswordfish${x}\nEOT\n}",
		"parentheses":   "metadata \"postgres\" {\n password = (\n[\"swordfish\"])\n}",
		"unclosed":      "metadata \"postgres\" {\n password = \"swordfish\n}\n",
		"one line":      "idempotency \"redis\" { password = [\"swordfish\"] }",
		"url":           "metadata \"postgres\" {\n url = \"mysql://a:swordfish@h/d\"\n}",
		"misspelt":      "metadata \"postgres\" {\n db_passwd = \"swordfish\"\n}",
		"escape":        "metadata \"postgres\" {\n password = \"swordfish\\q\"\n}",
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			if got := mustFail(t, Source{}, text).Error(); strings.Contains(got, "swordfish") {
				t.Errorf("the password is shown:\n%s", got)
			}
		})
	}
}

func TestGoodFiles(t *testing.T) {
	solo := defaults(false)
	solo.NodeID, solo.DataDir = "solo", "/data"
	solo.Metadata.SQLite = &SQLite{Path: "/data/metadata.db"}
	solo.Idempotency = Idempotency{Badger: &Badger{Path: "/data/idempotency"}, TTL: time.Hour}
	solo.Storage.Embedded = 3

	cluster := &Config{
		NodeID:  "coordinator-7",
		DataDir: "/srv/pairdb",
		Server: Server{Listen: "[::]:6000", MaxConnections: 2000, ReadTimeout: 250 * time.Millisecond,
			WriteTimeout: 90 * time.Second, ShutdownTimeout: 0},
		Metadata: Metadata{Postgres: &Postgres{URL: NewSecret("postgresql://alice:s3cret@db-1:5433/meta?sslmode=require"),
			MaxConnections: 5, MinConnections: 5, ConnMaxLifetime: time.Hour}},
		Idempotency: Idempotency{
			Redis: &Redis{Addresses: []string{"cache:6380"}, Password: NewSecret("hunter2"), DB: 3, MaxRetries: 0, PoolSize: 20},
			TTL:   48 * time.Hour,
		},
		StorageNodes: []StorageNode{
			{ID: "storage-1", Host: "10.0.0.1", Port: 7000, VirtualNodes: 64},
			{ID: "storage-2", Host: "storage-2.internal", Port: 7000, VirtualNodes: 300},
		},
		HashRing: HashRing{VirtualNodes: 64, UpdateInterval: 5 * time.Second},
		Consistency: Consistency{DefaultLevel: coord.All, WriteTimeout: time.Second,
			ReadTimeout: 500 * time.Millisecond},
		Cache: Cache{TenantConfigTTL: 10 * time.Second, MaxSize: 5},
		Maintenance: Maintenance{BytesPerSecond: 1 << 20, CleanupDelay: 2 * time.Second, RepairInterval: time.Hour,
			HintLifetime: time.Hour, TombstoneGrace: 72 * time.Hour},
		Limits:  Limits{MaxValueBytes: 10 << 20, MaxInFlight: 10_000, MaxHeldBytes: 512 << 20},
		Metrics: Metrics{Enabled: false, Listen: ":0", Path: "/prometheus", PProf: true},
		Logging: Logging{Level: "warn", Format: "text"},
	}
	for file, want := range map[string]*Config{"sqlite-badger.hcl": solo, "cluster.hcl": cluster} {
		got, err := Load(Source{Path: filepath.Join(testdata, "good", file)})
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %+v\nwant %+v", file, got, want)
		}
	}
}

// What coordinator.hcl says the defaults are, they are.
func TestDefaultFileIsTheDefaults(t *testing.T) {
	got, err := Load(Source{Path: "../../coordinator.hcl"})
	if err != nil {
		t.Fatal(err)
	}
	want := mustParse(t, Source{}, `
metadata "postgres" {}
idempotency "redis" {}
`)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("coordinator.hcl:\n got %+v\nwant %+v", got, want)
	}
	if url := got.Metadata.Postgres.URL.Reveal(); url != "postgres://coordinator@localhost:5432/pairdb_metadata" {
		t.Errorf("url = %s", url)
	}
}

// The examples that coordinator.hcl comments out are right, too: each block
// decodes without a fault.
func TestCommentedExamplesDecode(t *testing.T) {
	text, err := os.ReadFile("../../coordinator.hcl")
	if err != nil {
		t.Fatal(err)
	}
	example := regexp.MustCompile(`^(\s*)# ?(\s*(?:[a-z_]+ += .*|[a-z_]+( "[^"]*")? \{|\}))$`)
	// The second store and the second way to give an address stay out.
	alternative := regexp.MustCompile(`^\s*# (metadata "sqlite"|idempotency "(badger|postgres)"|url|host|port|addresses)`)
	skipping := false
	var out []string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if alternative.MatchString(line) {
			skipping = strings.HasSuffix(line, "{")
			continue
		}
		if skipping {
			skipping = line != "# }"
			continue
		}
		out = append(out, example.ReplaceAllString(line, "$1$2"))
	}
	mustParse(t, Source{}, strings.Join(out, "\n"))
}

func TestEverySettingIsDocumented(t *testing.T) {
	text, err := os.ReadFile("../../coordinator.hcl")
	if err != nil {
		t.Fatal(err)
	}
	documented := func(pattern string) bool {
		return regexp.MustCompile(`(?m)^[ #]*` + pattern).Match(text)
	}
	var walk func(reflect.Type)
	walk = func(ty reflect.Type) {
		for i := range ty.NumField() {
			f := ty.Field(i)
			name, kind, _ := strings.Cut(f.Tag.Get("hcl"), ",")
			switch kind {
			case "optional":
				if !documented(name + ` += `) {
					t.Errorf("coordinator.hcl does not mention %s of %s", name, ty.Name())
				}
			case "block":
				if !documented(name + `( "[^"]+")? \{`) {
					t.Errorf("coordinator.hcl does not mention the block %s of %s", name, ty.Name())
				}
				walk(f.Type.Elem())
			}
		}
	}
	for _, schema := range []any{fileSchema{}, postgresBody{}, sqliteBody{}, redisBody{}, badgerBody{}} {
		walk(reflect.TypeOf(schema))
	}
}

func TestPostgresTLS(t *testing.T) {
	c := mustParse(t, Source{Env: environment("DATABASE_PASSWORD", "s3cret")}, `
metadata "postgres" {
  host        = "db"
  session_url = "postgres://coordinator@db:5433/pairdb_metadata"
  tls {
    ca_file   = "/ca.pem"
    cert_file = "/c.pem"
    key_file  = "/k.pem"
  }
}
idempotency "postgres" {
  url = "postgres://claims@db/claims"
  tls {}
}
`)
	const parameters = "?sslcert=%2Fc.pem&sslkey=%2Fk.pem&sslmode=verify-full&sslrootcert=%2Fca.pem"
	for got, want := range map[string]string{
		c.Metadata.Postgres.URL.Reveal():        "postgres://coordinator:s3cret@db:5432/pairdb_metadata" + parameters,
		c.Metadata.Postgres.SessionURL.Reveal(): "postgres://coordinator@db:5433/pairdb_metadata" + parameters,
		c.Idempotency.Postgres.URL.Reveal():     "postgres://claims@db/claims?sslmode=verify-full",
	} {
		if got != want {
			t.Errorf("url is %s, want %s", got, want)
		}
	}
	mustFail(t, Source{}, `
metadata "postgres" {
  session_url = "postgres://db/pairdb?sslmode=disable"
  tls {}
}
idempotency "postgres" {
  tls {}
}
`)
}

func TestPrecedence(t *testing.T) {
	const file = minimal + `
node_id = "file"
logging {
  level = "warn"
}
`
	env := environment("COORDINATOR_NODE_ID", "env", "LOG_LEVEL", "debug")
	flags := Flags{NodeID: "flag", LogLevel: "error", Listen: "127.0.0.1:0", OpsListen: ":1", LogFormat: "text", DataDir: "/d"}
	tests := []struct {
		name         string
		src          Source
		text         string
		nodeID, logs string
	}{
		{"defaults", Source{}, minimal, "coordinator-1", "info"},
		{"file", Source{}, file, "file", "warn"},
		{"environment", Source{Env: env}, file, "env", "debug"},
		{"flags", Source{Env: env, Flags: flags}, file, "flag", "error"},
		{"empty variables are unset", Source{Env: environment("LOG_LEVEL", "", "COORDINATOR_NODE_ID", "")}, file, "file", "warn"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := mustParse(t, test.src, test.text)
			if c.NodeID != test.nodeID || c.Logging.Level != test.logs {
				t.Errorf("node_id %q, level %q, want %q, %q", c.NodeID, c.Logging.Level, test.nodeID, test.logs)
			}
		})
	}
	c := mustParse(t, Source{Flags: flags}, file)
	if c.Server.Listen != flags.Listen || c.Metrics.Listen != flags.OpsListen ||
		c.Logging.Format != flags.LogFormat || c.DataDir != flags.DataDir {
		t.Errorf("flags are not in %+v", c)
	}
}

func TestEnvironmentOverridesStores(t *testing.T) {
	env := environment("DATABASE_HOST", "db", "DATABASE_PORT", "5433", "DATABASE_NAME", "n", "DATABASE_USER", "u",
		"DATABASE_PASSWORD", "p@ss/word", "REDIS_HOST", "cache", "REDIS_PORT", "6380", "REDIS_PASSWORD", "r")
	tests := []struct{ name, metadata, env, want string }{
		{"parts", `host = "h"`, "all", "postgres://u:p%40ss%2Fword@db:5433/n"},
		{"url", `url = "postgres://a:b@h:1/d?sslmode=require"`, "all", "postgres://u:p%40ss%2Fword@db:5433/n?sslmode=require"},
		{"url, password alone", `url = "postgres://a@h:1/d"`, "password", "postgres://a:s@h:1/d"},
		{"url, no environment", `url = "postgres://a:b@h1:1,h2:2/d"`, "", "postgres://a:b@h1:1,h2:2/d"},
		{"unix socket", `host = "/run/postgresql"`, "", "postgres://coordinator@/pairdb_metadata?host=%2Frun%2Fpostgresql&port=5432"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			src := Source{}
			switch test.env {
			case "all":
				src.Env = env
			case "password":
				src.Env = environment("DATABASE_PASSWORD", "s")
			}
			c := mustParse(t, src, "metadata \"postgres\" {\n"+test.metadata+"\n}\nidempotency \"redis\" {}\n")
			if got := c.Metadata.Postgres.URL.Reveal(); got != test.want {
				t.Errorf("url = %s, want %s", got, test.want)
			}
			if test.env == "all" {
				if r := c.Idempotency.Redis; r.Addresses[0] != "cache:6380" || r.Password.Reveal() != "r" {
					t.Errorf("redis = %s, %s", r.Addresses[0], r.Password.Reveal())
				}
			}
		})
	}
}

func TestEnvironmentAndFlagFaults(t *testing.T) {
	faults := mustFail(t, Source{
		Env:   environment("DATABASE_PORT", "0", "LOG_LEVEL", "loud", "REDIS_PORT", "x"),
		Flags: Flags{Listen: "nowhere", LogFormat: "xml"},
	}, "metadata \"postgres\" {}\nidempotency \"redis\" { pool_size = 0 }\n")
	got := faults.Error()
	for _, want := range []string{
		`test.hcl:2,35-36: Pool size must be between 1 and 100000; idempotency.pool_size is 0.`,
		`environment DATABASE_PORT: Invalid value; It is "0": want a port from 1 to 65535.`,
		`environment LOG_LEVEL: Invalid value; It is "loud": want trace, debug, info, warn or error.`,
		`environment REDIS_PORT: Invalid value; It is "x": want a port from 1 to 65535.`,
		`flag -listen: Invalid value; It is "nowhere": want HOST:PORT, as in "10.0.0.5:50051".`,
		`flag -log-format: Invalid value; It is "xml": want json or text.`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("missing: %s", want)
		}
	}
	if faults[0].Setting != "" {
		t.Errorf("the file's faults come first, got %v", faults[0])
	}
	if t.Failed() {
		t.Log(got)
	}
}

func TestVariablesWithoutEffectAreWarnedAbout(t *testing.T) {
	c := mustParse(t, Source{Env: environment("DATABASE_HOST", "db", "REDIS_PASSWORD", "secret")}, minimal)
	if len(c.Warnings) != 2 || !strings.HasPrefix(c.Warnings[0], "DATABASE_HOST ") ||
		strings.Contains(strings.Join(c.Warnings, ""), "secret") {
		t.Errorf("warnings = %q", c.Warnings)
	}
}

func TestDevNeedsNothing(t *testing.T) {
	c := mustParse(t, Source{Dev: true}, "")
	if c.NodeID != "coordinator-1" || c.Server.Listen != "127.0.0.1:50051" || c.Metrics.Listen != "127.0.0.1:9090" ||
		c.Storage.Embedded != 3 || c.Logging.Format != "text" || c.DataDir != "" {
		t.Errorf("dev = %+v", c)
	}
	in := c.InDataDir("/d")
	if in.DataDir != "/d" || in.Metadata.SQLite.Path != "/d/metadata.db" || in.Idempotency.Badger.Path != "/d/idempotency" {
		t.Errorf("in data dir = %+v", in)
	}
	if c.DataDir != "" || c.Metadata.SQLite.Path != "" {
		t.Error("InDataDir changed its receiver")
	}
	faults := mustFail(t, Source{}, "")
	if len(faults) != 2 {
		t.Errorf("without dev and file: %v", faults)
	}
}

func TestUnreadableFiles(t *testing.T) {
	if _, err := Load(Source{Path: filepath.Join(t.TempDir(), "absent.hcl")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
	big := filepath.Join(t.TempDir(), "big.hcl")
	if err := os.WriteFile(big, make([]byte, maxFileBytes+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(Source{Path: big}); err == nil || !strings.Contains(err.Error(), "more than 1048576 bytes") {
		t.Errorf("big: %v", err)
	}
}

func TestSecretNeverShows(t *testing.T) {
	c := Postgres{URL: NewSecret("swordfish")}
	hidden := struct{ password Secret }{NewSecret("swordfish")}
	printed := []string{}
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		printed = append(printed, fmt.Sprintf(format, c), fmt.Sprintf(format, c.URL), fmt.Sprintf(format, &c), fmt.Sprintf(format, hidden))
	}
	j, err := json.Marshal(map[Secret]any{NewSecret("swordfish"): c})
	if err != nil {
		t.Fatal(err)
	}
	printed = append(printed, string(j), fmt.Sprint(c), c.URL.String())
	for _, s := range printed {
		if strings.Contains(s, "swordfish") || strings.Contains(s, "73776f7264") {
			t.Errorf("shown: %s", s)
		}
	}
	if got := fmt.Sprintf("%s|%s", NewSecret("x"), NewSecret("")); got != "[redacted]|" {
		t.Errorf("printed %q", got)
	}
}

func FuzzParse(f *testing.F) {
	files, err := filepath.Glob(filepath.Join(testdata, "*", "*.hcl"))
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range append(files, "../../coordinator.hcl") {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := parse(Source{Path: "fuzz.hcl", Env: environment("DATABASE_HOST", "h", "REDIS_PORT", "1")}, text)
		if (c == nil) == (err == nil) {
			t.Fatalf("config %v, error %v", c, err)
		}
		if err != nil && err.Error() == "" {
			t.Fatal("an error that says nothing")
		}
	})
}
