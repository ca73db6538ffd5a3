package deploy

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pairdb/coordinator/ops/cli"
	"github.com/pairdb/coordinator/ops/config"
	"github.com/pairdb/coordinator/ops/flags"
)

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.FromSlash(path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestConfigurationOfPodsIsValid(t *testing.T) {
	env := map[string]string{"DATABASE_PASSWORD": "p", "REDIS_PASSWORD": "r"}
	c, err := config.Load(config.Source{Path: "k8s/coordinator.hcl", Env: func(name string) (string, bool) {
		value, ok := env[name]
		return value, ok
	}})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Warnings) > 0 || c.NodeID != "auto" || c.Metadata.Postgres == nil || c.Idempotency.Redis == nil {
		t.Errorf("got %+v", c)
	}
	// The variables of the Secret are the ones that the program reads.
	for name := range env {
		if !strings.Contains(read(t, "k8s/secret.yaml"), "\n  "+name+": ") {
			t.Errorf("the Secret lacks %s", name)
		}
	}
}

// storageArguments are those of a storage node, as its manifest or unit gives them.
func storageArguments(t *testing.T) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	for _, m := range regexp.MustCompile(`(?m)^ {12}- (\S+)$`).FindAllStringSubmatch(read(t, "k8s/storage.yaml"), -1) {
		found["k8s"] = append(found["k8s"], m[1])
	}
	unit := strings.ReplaceAll(read(t, "systemd/pairdb-storage@.service"), "\\\n", "")
	line := regexp.MustCompile(`(?m)^ExecStart=\S*/coordinator (.*)$`).FindStringSubmatch(unit)
	if line == nil {
		t.Fatal("the unit starts nothing")
	}
	found["systemd"] = strings.Fields(line[1])
	return found
}

// What orchestrators put in place of a variable.
var placeholders = regexp.MustCompile(`\$[({]\w+[)}]|%i`)

func TestStorageNodesStartWithFlagsThatExist(t *testing.T) {
	for where, args := range storageArguments(t) {
		if len(args) == 0 || args[0] != "storage" {
			t.Fatalf("%s: arguments %q", where, args)
		}
		for i := range args {
			if placeholders.FindString(args[i]) == args[i] {
				args[i] = "x:1" // perhaps an address
			}
			args[i] = placeholders.ReplaceAllString(args[i], "x")
		}
		var said strings.Builder
		node, err := flags.Storage(args[1:], &said, func(string) string { return "" })
		if err != nil {
			t.Fatalf("%s: %v: %s", where, err, said.String())
		}
		if !node.Sync || node.Join.Coordinator == "" || node.OpsListen == "" || node.Advertise == "" {
			t.Errorf("%s: got %+v", where, node)
		}
	}
}

func TestCoordinatorsStartWithFlagsThatExist(t *testing.T) {
	for where, pattern := range map[string]string{
		"k8s/coordinator.yaml":               `args: \["(-config)", "(\S+)"\]`,
		"systemd/pairdb-coordinator.service": `(?m)^ExecStart=\S+/coordinator (-config) (\S+)$`,
		"Dockerfile":                         `(?m)^CMD \["(-config)", "(\S+)"\]$`,
	} {
		m := regexp.MustCompile(pattern).FindStringSubmatch(read(t, where))
		if m == nil {
			t.Errorf("%s: no command line", where)
			continue
		}
		if _, err := flags.Coordinator(m[1:], io.Discard, os.LookupEnv); err != nil {
			t.Errorf("%s: %v", where, err)
		}
	}
}

func TestImageIsCheckedByItsOwnProgram(t *testing.T) {
	m := regexp.MustCompile(`(?s)HEALTHCHECK .*CMD \["/coordinator", (.*?)\]`).FindStringSubmatch(read(t, "Dockerfile"))
	if m == nil {
		t.Fatal("the image has no health check")
	}
	args := strings.Split(strings.ReplaceAll(strings.ReplaceAll(m[1], `"`, ""), " ", ""), ",")
	var said strings.Builder
	env := cli.Env{Stdout: &said, Stderr: &said, Getenv: func(name string) string {
		return map[string]string{"COORDINATOR_OPS": "http://127.0.0.1:1"}[name]
	}}
	// Nothing listens there: it must fail for that reason, not for its flags.
	if code := cli.Run(t.Context(), args, env); code != cli.ExitFailed || !strings.Contains(said.String(), "connection refused") {
		t.Errorf("%q: exit %d, %s", args, code, said.String())
	}
}
