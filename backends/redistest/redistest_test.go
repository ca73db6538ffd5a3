package redistest

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func mustDo(t *testing.T, s *Server, args ...any) any {
	t.Helper()
	answer, err := s.Do(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestServerComesBackOnItsPortWithItsData(t *testing.T) {
	s := Start(t, Options{AppendOnly: true, Password: "se cret"})
	address := s.Addr()
	mustDo(t, s, "SET", "k", "v")
	must(t, s.Kill())
	if _, err := s.Do(t.Context(), "PING"); err == nil {
		t.Fatal("a killed server answers")
	}
	must(t, s.Restart())
	if got := mustDo(t, s, "GET", "k"); got != "v" || s.Addr() != address {
		t.Fatalf("after the restart, %s has %v; want %s with v", s.Addr(), got, address)
	}
	must(t, s.Stop())
	must(t, s.Stop())
	must(t, s.Restart())
	if got := mustDo(t, s, "GET", "k"); got != "v" {
		t.Fatalf("after the stop, it has %v", got)
	}
}

func TestServerIsSilentWhilePaused(t *testing.T) {
	s := Start(t, Options{})
	must(t, s.Pause())
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	answered := make(chan error, 1)
	go func() {
		_, err := s.Do(t.Context(), "PING")
		answered <- err
	}()
	select {
	case err := <-answered:
		t.Fatalf("a paused server answers (%v)", err)
	case <-ctx.Done():
	}
	must(t, s.Resume())
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
}
