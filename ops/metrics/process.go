package metrics

import (
	"bytes"
	"runtime"
	"strings"

	"github.com/VictoriaMetrics/metrics"
)

// processFamilies are what is shown of the Go runtime and the operating
// system's view of the process, under the names that common dashboards know.
var processFamilies = []family{
	{name: "go_goroutines", kind: "gauge", help: "Goroutines that exist."},
	{name: "go_threads", kind: "gauge", help: "Operating system threads that exist."},
	{name: "go_gomaxprocs", kind: "gauge", help: "Threads that may run Go code at once."},
	{name: "go_memstats_alloc_bytes", kind: "gauge", help: "Bytes in live or not yet collected heap objects."},
	{name: "go_memstats_alloc_bytes_total", kind: "counter", help: "Bytes allocated on the heap since the start."},
	{name: "go_memstats_mallocs_total", kind: "counter", help: "Heap objects allocated since the start."},
	{name: "go_memstats_frees_total", kind: "counter", help: "Heap objects freed since the start."},
	{name: "go_memstats_heap_inuse_bytes", kind: "gauge", help: "Bytes in heap spans in use."},
	{name: "go_memstats_heap_idle_bytes", kind: "gauge", help: "Bytes in idle heap spans."},
	{name: "go_memstats_heap_released_bytes", kind: "gauge", help: "Bytes of the heap returned to the operating system."},
	{name: "go_memstats_heap_objects", kind: "gauge", help: "Heap objects that exist."},
	{name: "go_memstats_stack_inuse_bytes", kind: "gauge", help: "Bytes in stacks."},
	{name: "go_memstats_next_gc_bytes", kind: "gauge", help: "Heap size at which the next garbage collection starts."},
	{name: "go_memlimit_bytes", kind: "gauge", help: "Memory that the runtime tries to stay within."},
	{name: "go_memstats_sys_bytes", kind: "gauge", help: "Bytes obtained from the operating system."},
	{name: "go_gc_duration_seconds", kind: "summary", help: "Pauses for garbage collection."},
	{name: "process_cpu_seconds_total", kind: "counter", help: "Processor time used, user and system."},
	{name: "process_resident_memory_bytes", kind: "gauge", help: "Resident memory."},
	{name: "process_virtual_memory_bytes", kind: "gauge", help: "Virtual memory."},
	{name: "process_open_fds", kind: "gauge", help: "Open file descriptors."},
	{name: "process_max_fds", kind: "gauge", help: "File descriptors that may be open at once."},
	{name: "process_start_time_seconds", kind: "gauge", help: "When the process started, in Unix seconds."},
}

// Process adds the Go runtime, the process and the build to the page. It is to
// be called before the number of the scheduler's processors is changed.
func (p *Page) Process(version, commit string) {
	labels := label("version", version) + "," + label("commit", commit) + "," + label("go_version", runtime.Version())
	p.add(family{"coordinator_build_info", "gauge", "Always 1; its labels name the build.", func(w *writer) {
		w.sample("coordinator_build_info", labels, 1)
	}})
	p.add(family{"go_info", "gauge", "Always 1; its label names the Go version.", func(w *writer) {
		w.sample("go_info", label("version", runtime.Version()), 1)
	}})
	processors := float64(runtime.GOMAXPROCS(0))
	p.add(family{"go_available_processors", "gauge", "Processors that the process may use; go_gomaxprocs is how many it does use at present.", func(w *writer) {
		w.sample("go_available_processors", "", processors)
	}})
	for _, f := range processFamilies {
		f.write = func(w *writer) { w.text(w.readProcess()[f.name]...) }
		p.add(f)
	}
}

// readProcess returns the lines of process metrics by family, read once for a
// page. What the platform does not tell is absent.
func (w *writer) readProcess() map[string][]string {
	if w.process != nil {
		return w.process
	}
	var page bytes.Buffer
	metrics.WriteProcessMetrics(&page)
	w.process = map[string][]string{}
	for line := range strings.Lines(page.String()) {
		name := line[:max(strings.IndexAny(line, "{ "), 0)]
		name = strings.TrimSuffix(strings.TrimSuffix(name, "_sum"), "_count")
		w.process[name] = append(w.process[name], line)
	}
	return w.process
}
