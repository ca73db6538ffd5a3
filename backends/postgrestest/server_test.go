package postgrestest

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

func TestServer(t *testing.T) {
	s := Shared(t)
	if Shared(t) != s {
		t.Error("a second server was started")
	}
	address := s.Database(t)
	query := func(statement string) (n int, err error) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		conn, err := pgx.Connect(ctx, address)
		if err != nil {
			return 0, err
		}
		defer conn.Close(ctx)
		err = conn.QueryRow(ctx, statement).Scan(&n)
		return n, err
	}
	if n, err := query("WITH made AS (SELECT 1) SELECT count(*) FROM made"); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	s.Administer(t, address, "CREATE TABLE kept (n INTEGER); INSERT INTO kept VALUES (7); GRANT SELECT ON kept TO PUBLIC")
	for what, end := range map[string]func(testing.TB){"stop": s.Stop, "kill": s.Kill} {
		end(t)
		if _, err := query("SELECT 1"); err == nil {
			t.Errorf("after %s it still answers", what)
		}
		s.Start(t)
		if n, err := query("SELECT n FROM kept"); n != 7 || err != nil {
			t.Errorf("after %s and start: %d, %v", what, n, err)
		}
	}
	if s.Database(t) == address {
		t.Error("two databases have one name")
	}
}
