package postgres

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pairdb/coordinator/backends/postgrestest"
	"github.com/pairdb/coordinator/coord"
	"github.com/pairdb/coordinator/coord/conformance"
)

func TestMain(m *testing.M) {
	if address := os.Getenv(childURL); address != "" {
		os.Exit(child(address))
	}
	code := postgrestest.Main(m)
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// open opens a store; whoever called closes it.
func open(t *testing.T, opts Options) *Store {
	t.Helper()
	s, err := Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// opened opens a store until the test ends.
func opened(t *testing.T, opts Options) *Store {
	t.Helper()
	s := open(t, opts)
	t.Cleanup(func() { closed(t, s) })
	return s
}

func closed(t *testing.T, s interface{ Close() error }) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// must is for what cannot fail where the store answers.
func must[T any](value T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// eventually waits for something that must come to be.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not so in time: %s", what)
		}
	}
}

func TestConformance(t *testing.T) {
	conformance.Metadata(t, func(t *testing.T) conformance.OpenMetadata {
		url := postgrestest.Shared(t).Database(t)
		return func(t *testing.T) coord.Metadata { return open(t, Options{URL: url}) }
	})
}

func TestHintConformance(t *testing.T) {
	conformance.Hints(t, func(t *testing.T, bounds conformance.HintBounds) conformance.OpenHints {
		opts := Options{URL: postgrestest.Shared(t).Database(t), MaxHints: bounds.Hints, MaxHintBytes: bounds.Bytes}
		return func(t *testing.T) conformance.HintStore { return open(t, opts) }
	})
}
