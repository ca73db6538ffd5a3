package badger

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain lets the test binary play the process that a test kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv(victimDir); dir != "" {
		fmt.Fprintln(os.Stderr, runVictim(dir))
		os.Exit(1)
	}
	if dir := os.Getenv(reaperDir); dir != "" {
		fmt.Fprintln(os.Stderr, runReaper(dir))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}
