// Package check drives the console in a real browser, Debian's chromium.
package check

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// binary is the program under test, built once.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "console-check-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "coordinator")
	build := exec.Command("go", "build", "-C", "../../..", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the coordinator: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// freeAddress is an address that was free a moment ago.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// start runs the program until the test ends.
func start(t *testing.T, args ...string) *os.Process {
	t.Helper()
	cmd := exec.Command(binary, args...)
	output := &strings.Builder{}
	cmd.Stdout, cmd.Stderr = io.Discard, output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have been killed already
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", strings.Join(args, " "), output)
		}
	})
	return cmd.Process
}

// client runs a client command, again and again until it succeeds.
func client(t *testing.T, args ...string) {
	t.Helper()
	var out []byte
	var err error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if out, err = exec.Command(binary, args...).CombinedOutput(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
}

// profile is a directory for a browser, which writes there for a while after
// its end.
func profile(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "console-check-profile-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for end := time.Now().Add(10 * time.Second); os.RemoveAll(dir) != nil; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				t.Errorf("the browser still writes to %s", dir)
				return
			}
		}
	})
	return dir
}

// browse opens the page in a new browser, and fails the test for whatever the
// page's scripts complain of.
func browse(t *testing.T, url string, width, height int64, scheme string) context.Context {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("chromium is not on PATH, and CI needs it")
		}
		t.Skip("NOT CHECKED: chromium is not on PATH (Debian: apt-get install chromium)")
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if response, err := http.Get(url); err == nil {
			response.Body.Close()
			break
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.UserDataDir(profile(t)))
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, 90*time.Second)
	t.Cleanup(cancel)
	listen := func(event any) {
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			t.Errorf("the page threw: %v", e.ExceptionDetails)
		case *log.EventEntryAdded:
			if e.Entry.Level == log.LevelError {
				t.Errorf("the browser complains: %s %s", e.Entry.Text, e.Entry.URL)
			}
		}
	}
	chromedp.ListenTarget(ctx, listen)
	if err := chromedp.Run(ctx, chromedp.EmulateViewport(width, height),
		emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}),
		chromedp.Navigate(url), chromedp.WaitVisible("#nodes tbody tr", chromedp.ByQuery)); err != nil {
		t.Fatal(err)
	}
	return ctx
}

func evaluate[T any](t *testing.T, ctx context.Context, script string) T {
	t.Helper()
	var value T
	if err := chromedp.Run(ctx, chromedp.Evaluate(script, &value)); err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	return value
}

// waitFor waits until script is true.
func waitFor(t *testing.T, ctx context.Context, script string, within time.Duration) time.Duration {
	t.Helper()
	began := time.Now()
	for !evaluate[bool](t, ctx, script) {
		if time.Since(began) > within {
			t.Fatalf("not within %v: %s", within, script)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(began)
}

// picture saves what the browser shows where CONSOLE_PICTURES names a directory.
func picture(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	dir := os.Getenv("CONSOLE_PICTURES")
	if dir == "" {
		return
	}
	var png []byte
	if err := chromedp.Run(ctx, chromedp.FullScreenshot(&png, 100)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A key is read on three replicas, at every width and in both colour schemes.
func TestKeyOnThreeReplicas(t *testing.T) {
	grpc, ops := freeAddress(t), freeAddress(t)
	start(t, "-dev", "-data", t.TempDir(), "-listen", grpc, "-ops-listen", ops)
	client(t, "put", "-addr", grpc, "cart", `<b id="markup">three items</b>`)
	for _, look := range []struct {
		name          string
		width, height int64
		scheme        string
	}{{"light-wide", 1400, 1000, "light"}, {"dark-wide", 1400, 1000, "dark"}, {"light-narrow", 390, 844, "light"}, {"dark-narrow", 390, 844, "dark"}} {
		t.Run(look.name, func(t *testing.T) {
			ctx := browse(t, "http://"+ops+"/", look.width, look.height, look.scheme)
			// As the operator does it.
			if err := chromedp.Run(ctx, chromedp.SendKeys("#key-key", "cart\r", chromedp.ByQuery), chromedp.WaitVisible("#copies .copy", chromedp.ByQuery)); err != nil {
				t.Fatal(err)
			}
			waitFor(t, ctx, `document.querySelectorAll('#copies [data-relation=greatest]').length === 3`, 5*time.Second)
			for i := range 3 {
				card := fmt.Sprintf(`document.querySelector('[data-copy=storage-%d]')`, i+1)
				if got := evaluate[string](t, ctx, card+`.querySelector('pre').textContent`); got != `<b id="markup">three items</b>` {
					t.Errorf("storage-%d shows %q", i+1, got)
				}
				if text := evaluate[string](t, ctx, card+`.textContent`); !strings.Contains(text, "{coordinator-1:1}") {
					t.Errorf("storage-%d shows no clock: %q", i+1, text)
				}
			}
			// A read is drawn step by step, each bar within its track.
			if err := chromedp.Run(ctx, chromedp.Click("#key-trace", chromedp.ByQuery), chromedp.WaitVisible("#trace li", chromedp.ByQuery)); err != nil {
				t.Fatal(err)
			}
			if text := evaluate[string](t, ctx, `document.querySelector('#trace > p').textContent`); !strings.Contains(text, "Read at quorum: found, in ") {
				t.Errorf("the read: %q", text)
			}
			if n := evaluate[int](t, ctx, `document.querySelectorAll('#trace li[data-what=read]').length`); n < 2 {
				t.Errorf("%d reads of replicas are drawn", n)
			}
			if n := evaluate[int](t, ctx, `[...document.querySelectorAll('#trace .bar')].filter((b) => {
				const bar = b.getBoundingClientRect(), track = b.parentElement.getBoundingClientRect();
				return bar.width < 2 || track.width < 90 || bar.left < track.left - 4 || bar.right > track.right + 4;
			}).length`); n != 0 {
				t.Errorf("%d bars are not on their tracks", n)
			}
			if evaluate[bool](t, ctx, `!!document.getElementById('markup')`) {
				t.Error("a value has become markup")
			}
			if n := evaluate[int](t, ctx, `document.querySelectorAll('#ring path[data-node]').length`); n != 3 {
				t.Errorf("the ring has %d nodes", n)
			}
			if !evaluate[bool](t, ctx, `!!document.getElementById('ring-key')`) {
				t.Error("the key has no place on the ring")
			}
			if over := evaluate[int](t, ctx, `document.documentElement.scrollWidth - innerWidth`); over > 0 {
				t.Errorf("the page is %d pixels too wide", over)
			}
			light := evaluate[string](t, ctx, `getComputedStyle(document.body).backgroundColor`) == "rgb(246, 247, 249)"
			if light != (look.scheme == "light") {
				t.Error("the colours are those of the other scheme")
			}
			picture(t, ctx, "key-"+look.name)
		})
	}
}

// A node that is killed, and one that freezes, are seen to be down within 3 s,
// and up again when they are back.
func TestKilledNodeIsSeen(t *testing.T) {
	dir := t.TempDir()
	grpc, ops := freeAddress(t), freeAddress(t)
	file := filepath.Join(dir, "coordinator.hcl")
	config := fmt.Sprintf("node_id = \"coordinator-1\"\ndata_dir = %q\nserver { listen = %q }\nmetadata \"sqlite\" {}\nidempotency \"badger\" {}\nmetrics { listen = %q }\n",
		filepath.Join(dir, "c"), grpc, ops)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var addresses [4]string
	storage := func(i int) *os.Process {
		id := fmt.Sprintf("storage-%d", i)
		return start(t, "storage", "-id", id, "-listen", addresses[i], "-data", filepath.Join(dir, id), "-join", grpc, "-sync=false")
	}
	var nodes [4]*os.Process
	for i := 1; i <= 3; i++ {
		addresses[i] = freeAddress(t)
		nodes[i] = storage(i)
	}
	start(t, "-config", file)
	client(t, "tenant", "create", "-addr", grpc, "default", "-rf", "3")
	start(t, "bench", "-addr", grpc, "-duration", "60s", "-workers", "2", "-rate", "50", "-keys", "50")
	ctx := browse(t, "http://"+ops+"/", 1400, 1000, "light")
	state := func(i int, state string) string {
		return fmt.Sprintf(`document.querySelector('#nodes tr[data-node=storage-%d]')?.dataset.state === '%s'`, i, state)
	}
	for i := 1; i <= 3; i++ {
		waitFor(t, ctx, state(i, "up"), 10*time.Second)
	}
	if evaluate[bool](t, ctx, `!document.getElementById('key-form').hidden`) {
		t.Error("keys are shown to whoever opens the page")
	}
	const limit = 3 * time.Second
	if err := nodes[2].Kill(); err != nil {
		t.Fatal(err)
	}
	t.Logf("the killed node was seen after %v", waitFor(t, ctx, state(2, "down"), limit).Round(time.Millisecond))
	waitFor(t, ctx, `document.querySelector('#ring').textContent.includes('1 down')`, limit)
	waitFor(t, ctx, `parseFloat(document.getElementById('t-hints').textContent) > 0`, 10*time.Second)
	picture(t, ctx, "killed")
	storage(2)
	waitFor(t, ctx, state(2, "up"), 10*time.Second)
	waitFor(t, ctx, `document.getElementById('t-hints').textContent === '0'`, 20*time.Second)

	if err := nodes[3].Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Logf("the frozen node was seen after %v", waitFor(t, ctx, state(3, "down"), limit).Round(time.Millisecond))
	if err := nodes[3].Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	waitFor(t, ctx, state(3, "up"), 10*time.Second)
	picture(t, ctx, "well")
}
