package redis

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	driver "github.com/redis/go-redis/v9"
)

const (
	checkEvery   = time.Minute
	checkAgain   = 5 * time.Second // after a check that failed
	checkTimeout = 5 * time.Second
)

// Check asks the server, or every primary of a cluster, for the settings that
// put claims at risk, and returns a sentence for each, in a fixed order. It fails
// where one does not answer.
func (s *Store) Check(ctx context.Context) ([]string, error) {
	var mu sync.Mutex
	var all []string
	err := s.eachPrimary(ctx, func(ctx context.Context, server driver.Cmdable, address string) error {
		text, err := server.Info(ctx).Result()
		if err != nil {
			return fmt.Errorf("ask for INFO: %w", err)
		}
		risks := s.risks(parseInfo(text), appendfsync(ctx, server))
		mu.Lock()
		defer mu.Unlock()
		for _, risk := range risks {
			if address != "" {
				risk = address + ": " + risk
			}
			all = append(all, "Redis "+risk)
		}
		return nil
	})
	if err != nil {
		return nil, s.unavailable("check settings", err)
	}
	slices.Sort(all)
	return all, nil
}

// appendfsync is that setting, or empty where the server does not tell: hosted
// ones often refuse CONFIG.
func appendfsync(ctx context.Context, server driver.Cmdable) string {
	config, err := server.ConfigGet(ctx, "appendfsync").Result()
	if err != nil {
		return ""
	}
	return config["appendfsync"]
}

// risks reads a server's settings out of its INFO.
func (s *Store) risks(info map[string]string, fsync string) []string {
	var risks []string
	add := func(format string, args ...any) { risks = append(risks, fmt.Sprintf(format, args...)) }
	if info["role"] == "slave" {
		add("is a replica: it refuses keyed requests; give the primary's address, or the Sentinels' and the primary's name")
	}
	if info["cluster_enabled"] == "1" && !s.opts.cluster() {
		add("is a node of a Redis Cluster, but is asked as a single server: keyed requests fail for the claims of other nodes")
	}
	if policy, ok := info["maxmemory_policy"]; ok && policy != "noeviction" {
		now := "when its memory is full it"
		if info["maxmemory"] == "0" {
			now = "once maxmemory is set and reached it"
		}
		add("has maxmemory-policy %s: %s drops claims, and a request sent again may take effect twice; set it to noeviction", policy, now)
	}
	switch {
	case info["aof_enabled"] == "0":
		add("has appendonly off: a restart forgets claims, and a request sent again may take effect twice; set it to yes")
	case fsync == "no":
		add("has appendfsync no: a crash of its machine may forget half a minute of claims; set it to everysec, or always")
	}
	replicas, err := strconv.Atoi(info["connected_slaves"])
	_, bounded := info["min_slaves_good_slaves"] // is told only where the minimum is set
	wait := s.opts.WaitReplicas
	switch {
	case err != nil || info["role"] == "slave":
	case replicas < wait:
		add("has %d replicas, and %d are waited for: keyed requests are refused", replicas, wait)
	case replicas > wait && wait > 0:
		add("has %d replicas, and %d are waited for: a failover to another may forget claims", replicas, wait)
	case replicas > 0 && wait == 0 && !bounded:
		add("has %d replicas and no min-replicas-to-write: a primary that is cut off goes on confirming claims that are then dropped; "+
			"set it to 1 or more, with a short min-replicas-max-lag", replicas)
	}
	return risks
}

// parseInfo reads the lines NAME:VALUE of an INFO.
func parseInfo(text string) map[string]string {
	info := make(map[string]string)
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ":"); ok {
			info[name] = value
		}
	}
	return info
}

// watch checks the settings until ctx ends, and warns of what is new.
func (s *Store) watch(ctx context.Context) {
	var known []string
	for {
		wait := checkEvery
		asking, cancel := context.WithTimeout(ctx, checkTimeout)
		risks, err := s.Check(asking)
		cancel()
		if err != nil {
			wait = checkAgain
		} else {
			for _, risk := range risks {
				if !slices.Contains(known, risk) {
					s.opts.Warn(risk)
				}
			}
			known = risks
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}
