package audit

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func entries(t *testing.T, path string) []Entry {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []Entry
	for scan := bufio.NewScanner(f); scan.Scan(); {
		var e Entry
		if err := json.Unmarshal(scan.Bytes(), &e); err != nil {
			t.Fatalf("line %q: %v", scan.Text(), err)
		}
		all = append(all, e)
	}
	return all
}

func TestLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	want := Entry{Time: time.Unix(1, 5).UTC(), Subject: "line\nbreak", Operation: "DeleteTenant", Target: "a\"b", Outcome: "ok"}
	var wait sync.WaitGroup
	for range 100 {
		wait.Go(func() {
			if err := l.Write(want); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	// Another program moves the file away.
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := l.Reload(); err != nil {
		t.Fatal(err)
	}
	if err := l.Write(want); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Write(want); err == nil || !strings.Contains(err.Error(), "audit log") {
		t.Errorf("to a closed log: %v", err)
	}
	// What was there is kept.
	if l, err = Open(path); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.Write(want); err != nil {
		t.Fatal(err)
	}
	for file, n := range map[string]int{path + ".1": 100, path: 2} {
		got := entries(t, file)
		if len(got) != n {
			t.Errorf("%s holds %d entries, want %d", file, len(got), n)
		}
		for _, e := range got {
			if e != want {
				t.Fatalf("entry %+v, want %+v", e, want)
			}
		}
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode of %s is %v, %v", file, info.Mode(), err)
		}
	}
	if _, err := Open(filepath.Join(path, "x")); err == nil {
		t.Error("a path below a file is opened")
	}
}
