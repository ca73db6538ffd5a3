package cli

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

func healthCommand() command {
	return command{
		name: "health", summary: "Tell by the exit code whether a process is healthy", local: true,
		details: `
Asks a coordinator or storage node over HTTP, and exits with 0 where it is ready
for requests, with 1 where it is not. It is the health check of containers that
hold nothing but this program.`,
		flags: healthOf,
	}
}

// maxHealthBytes bounds what is read of an answer.
const maxHealthBytes = 1 << 20

// healthOf asks the health endpoints.
func healthOf(fs *flag.FlagSet) action {
	base := fs.String("ops", "", "`URL` of health and metrics; default $COORDINATOR_OPS, else "+defaultOps)
	live := fs.Bool("live", false, "ask only whether the process lives")
	quiet := fs.Bool("quiet", false, "print nothing where all is well")
	timeout := fs.Duration("timeout", 3*time.Second, "longest to wait for the answer")
	return func(ctx context.Context, in *invocation) error {
		if *timeout <= 0 {
			return wrongUsage("-timeout must be above 0")
		}
		if *base == "" {
			*base = in.Getenv("COORDINATOR_OPS")
		}
		if *base == "" {
			*base = defaultOps
		}
		endpoint, err := url.Parse(*base)
		if err != nil || endpoint.Scheme != "http" && endpoint.Scheme != "https" || endpoint.Host == "" {
			return wrongUsage("-ops %q is not a URL such as %s", *base, defaultOps)
		}
		path := "health/ready"
		if *live {
			path = "health/live"
		}
		ctx, cancel := context.WithTimeout(ctx, *timeout)
		defer cancel()
		return askHealth(ctx, in, endpoint.JoinPath(path).String(), *quiet)
	}
}

// defaultOps is where the ops port is when nobody says otherwise.
const defaultOps = "http://127.0.0.1:9090"

// healthAnswer is what the endpoints answer.
type healthAnswer struct {
	Status string `json:"status"`
	Reason string `json:"reason"`
	Checks []struct {
		Name          string  `json:"name"`
		State         string  `json:"state"`
		LatencyMillis float64 `json:"latency_ms"`
		Error         string  `json:"error"`
	} `json:"checks"`
}

func askHealth(ctx context.Context, in *invocation, endpoint string, quiet bool) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint, nil)
	if err != nil {
		return fmt.Errorf("ask %s: %w", endpoint, err)
	}
	// A transport of its own: what it holds open ends with the command, and no
	// proxy of the environment stands between a container and itself.
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		var wrapped *url.Error // its text repeats the method and the address
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		return fmt.Errorf("ask %s: %w", endpoint, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxHealthBytes))
	if err != nil {
		return fmt.Errorf("read the answer of %s: %w", endpoint, err)
	}
	var answer healthAnswer
	if err := json.Unmarshal(body, &answer); err != nil || answer.Status == "" {
		return fmt.Errorf("%s answered %s, and not with the health of a coordinator or storage node", endpoint, response.Status)
	}
	if response.StatusCode != http.StatusOK {
		return errors.New(strings.TrimSuffix(answer.Status+": "+answer.Reason, ": "))
	}
	if quiet {
		return nil
	}
	if _, err := fmt.Fprintln(in.Stdout, answer.Status); err != nil {
		return err
	}
	for _, c := range answer.Checks {
		if _, err := fmt.Fprintf(in.Stdout, "%s %s %.1fms%s\n", c.Name, c.State, c.LatencyMillis, note(c.Error)); err != nil {
			return err
		}
	}
	return nil
}
