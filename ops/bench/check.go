package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"
)

// check is a question about the product that is no comparison with the echo.
type check struct {
	name string
	took func(*bench) time.Duration
	run  func(*bench, context.Context) error
}

var checks = []check{
	{"check/half-peak", func(b *bench) time.Duration { return 3*warmUp + b.length + 2*b.length }, (*bench).halfPeak},
	{"check/large-values", func(b *bench) time.Duration { return 4*warmUp + b.length + 3*b.length }, (*bench).largeValues},
	{"check/idle-memory", func(*bench) time.Duration { return idleTime + 3*time.Second }, (*bench).idleMemory},
	{"check/scaling", func(b *bench) time.Duration {
		return 4*scalingTurns*(b.length/scalingTurns+tuneWarmUp) + 4*time.Second
	}, (*bench).scaling},
	{"check/paused-node", func(b *bench) time.Duration { return 3*warmUp + 3*b.length }, (*bench).pausedNode},
}

// peak is the throughput of a system as fast as answers come.
func (b *bench) peak(ctx context.Context, s *system, do operation) (*sample, error) {
	return b.load.run(ctx, s, s.unary, drive{do: do, warmUp: warmUp, length: b.length})
}

// halfPeak measures latency at half of the peak throughput.
func (b *bench) halfPeak(ctx context.Context) error {
	s, err := b.system(ctx, systemFast)
	if err != nil {
		return err
	}
	peak, err := b.peak(ctx, s, opMix)
	if err != nil {
		return err
	}
	half, err := b.load.run(ctx, s, s.unary, drive{do: opMix, rate: peak.rate() / 2, warmUp: warmUp, length: 2 * b.length})
	if err != nil {
		return err
	}
	p50, p99 := half.quantile(50), half.quantile(99)
	b.report.judge(atMost(5, 0).judge("half of peak, mix: p99 over p50", p99.Seconds()/p50.Seconds()))
	b.report.note("half of peak: %.0f of %.0f ops/s; p50 %v, p95 %v, p99 %v, p99.9 %v %s",
		half.rate(), peak.rate(), p50, half.quantile(95), p99, half.quantile(99.9), half.failures())
	return nil
}

// Large values are written largeEvery in the background.
const (
	largeBytes = 10 << 20
	largeEvery = 500 * time.Millisecond
)

// largeValues measures small operations, at half of their peak throughput,
// with and without large ones in the background.
func (b *bench) largeValues(ctx context.Context) error {
	s, err := b.system(ctx, systemFast)
	if err != nil {
		return err
	}
	peak, err := b.peak(ctx, s, opMix)
	if err != nil {
		return err
	}
	quiet, disturbed := newSample(), newSample()
	written, failed := 0, 0
	for part := range 3 {
		into := quiet
		wait := func() (int, int, error) { return 0, 0, nil }
		if part == 1 {
			into = disturbed
			if wait, err = b.writeLarge(ctx, s, warmUp+b.length); err != nil {
				return err
			}
		}
		got, err := b.load.run(ctx, s, s.unary, drive{do: opMix, rate: peak.rate() / 2, warmUp: warmUp, length: b.length})
		good, bad, failure := wait()
		if err := errors.Join(err, failure); err != nil {
			return err
		}
		written, failed = written+good, failed+bad
		into.add(got)
	}
	before, during := quiet.quantile(99), disturbed.quantile(99)
	b.report.judge(atMost(2, 0).judge("10 MiB writes beside: p99 over p99 without", during.Seconds()/before.Seconds()))
	b.report.note("10 MiB writes beside, half of peak: %d written, %d failed; p50 %v to %v, p99 %v to %v, p99.9 %v to %v, %.0f to %.0f ops/s %s",
		written, failed, quiet.quantile(50), disturbed.quantile(50), before, during,
		quiet.quantile(99.9), disturbed.quantile(99.9), quiet.rate(), disturbed.rate(), disturbed.failures())
	return nil
}

// writeLarge writes large values for so long, from a process of its own: what it
// costs a client to make them is not what is measured. Wait tells how many were
// written and how many failed.
func (b *bench) writeLarge(ctx context.Context, s *system, length time.Duration) (wait func() (written, failed int, err error), err error) {
	command := exec.CommandContext(ctx, b.launcher.binary, "bench", "-addr", s.server.grpc, "-tenant", s.tenant,
		"-duration", length.String(), "-rate", fmt.Sprint(float64(time.Second)/float64(largeEvery)), "-workers", "4",
		"-connections", "1", "-keys", "10", "-mix", "write", "-value-size", fmt.Sprint(largeBytes), "-json")
	command.SysProcAttr = dieWithParent()
	var out, problems bytes.Buffer
	command.Stdout, command.Stderr = &out, &problems
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("write large values: %w", err)
	}
	return func() (written, failed int, err error) {
		// It fails where a request did; what it printed tells of that.
		ended := command.Wait()
		var got struct {
			Operations []struct {
				Count  int
				Errors map[string]int
			}
		}
		if err := json.Unmarshal(out.Bytes(), &got); err != nil || len(got.Operations) != 1 {
			return 0, 0, fmt.Errorf("write large values: %w: %s", errors.Join(err, ended), problems.String())
		}
		for _, n := range got.Operations[0].Errors {
			failed += n
		}
		return got.Operations[0].Count, failed, nil
	}, nil
}

// pausedMiB is what a coordinator may take more while a node is paused: the
// small calls that wait for the node (16 MiB at most) and the hints (64 MiB at
// most), five times over until they are collected.
const pausedMiB = 400

// pausedNode measures with one of three storage nodes stopped. It comes last:
// the system that it uses is not the same afterwards.
func (b *bench) pausedNode(ctx context.Context) error {
	s, err := b.system(ctx, systemFast)
	if err != nil {
		return err
	}
	before, err := b.peak(ctx, s, opMix)
	if err != nil {
		return err
	}
	memoryBefore, _, err := memory(s.server.cmd.Process.Pid)
	if err != nil {
		return err
	}
	node := s.storage[len(s.storage)-1]
	if err := node.pause(); err != nil {
		return fmt.Errorf("pause %s: %w", node.name, err)
	}
	// From the moment of the pause: to find it out is part of it.
	during, err := b.load.run(ctx, s, s.unary, drive{do: opMix, length: b.length})
	if err != nil {
		return err
	}
	later, err := b.load.run(ctx, s, s.unary, drive{do: opMix, length: b.length})
	if err != nil {
		return err
	}
	memoryAfter, most, err := memory(s.server.cmd.Process.Pid)
	if err != nil {
		return err
	}
	if err := node.resume(); err != nil {
		return fmt.Errorf("resume %s: %w", node.name, err)
	}
	b.report.judge(atLeast(0.9, 0).judge("one node paused: throughput over before", during.rate()/before.rate()))
	b.report.judge(atMost(2, 0).judge("one node paused: p99 over before", during.quantile(99).Seconds()/before.quantile(99).Seconds()))
	b.report.judge(atMost(0, 0).judge("one node paused: failed requests", float64(during.failed()+later.failed())))
	b.report.judge(atMost(pausedMiB, 0).judge("one node paused: MiB of memory that the coordinator took more", float64((most-memoryBefore)>>20)))
	b.report.note("one node paused, mix: %.0f ops/s before, %.0f in the first %v, %.0f later; p99 %v, %v, %v; p99.9 %v, %v, %v; coordinator %d MiB before, %d MiB after, %d MiB at most; errors: %s %s",
		before.rate(), during.rate(), b.length, later.rate(), before.quantile(99), during.quantile(99), later.quantile(99),
		before.quantile(99.9), during.quantile(99.9), later.quantile(99.9),
		memoryBefore>>20, memoryAfter>>20, most>>20, during.failures(), later.failures())
	b.drop(systemFast)
	return nil
}

// idleTime is how long a process is left alone before its memory is read.
const idleTime = 10 * time.Second

// idleMemory measures dev mode that was just started.
func (b *bench) idleMemory(ctx context.Context) error {
	p, err := start(ctx, b.launcher.dir, "idle", nil, bannerLine, b.launcher.binary,
		"-dev", "-data", filepath.Join(b.launcher.dir, "idle"), "-listen", "127.0.0.1:0", "-ops-listen", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer p.kill()
	if err := sleepUntil(ctx, time.Now().Add(idleTime)); err != nil {
		return err
	}
	now, most, err := memory(p.cmd.Process.Pid)
	if err != nil {
		return err
	}
	b.report.judge(atMost(150, 0).judge("idle -dev: resident MB", float64(now)/1e6))
	b.report.note("idle -dev: %.0f MB resident after %v, %.0f MB at most", float64(now)/1e6, idleTime, float64(most)/1e6)
	return nil
}
