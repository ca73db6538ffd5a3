package coord

import (
	"fmt"
	"strings"
	"time"
)

// simTrace is what happened in a run, line by line.
type simTrace struct {
	lines []traceLine
}

type traceLine struct {
	at   instant
	key  *simEntry   // nil: it is a fault
	node *simReplica // that the fault concerns alone
	text string
}

// traced tells whether events of a key are to be noted. Callers ask first, so
// that a run without a trace formats nothing.
func (s *sim) traced(*simEntry) bool { return s.trace != nil }

func (s *sim) note(k *simEntry, format string, args ...any) {
	s.trace.lines = append(s.trace.lines, traceLine{at: s.now, key: k, text: fmt.Sprintf(format, args...)})
}

// noteNode notes a fault of one node, which concerns the keys that it holds.
func (s *sim) noteNode(n *simReplica, format string, args ...any) {
	if s.trace != nil {
		s.note(nil, format, args...)
		s.trace.lines[len(s.trace.lines)-1].node = n
	}
}

func (s *sim) noteFault(format string, args ...any) {
	if s.trace != nil {
		s.note(nil, format, args...)
	}
}

// text is the last lines that concern k, or all of them for a nil k.
func (t *simTrace) text(k *simEntry, limit int) string {
	var picked []traceLine
	for _, l := range t.lines {
		if k == nil || l.key == k || l.key == nil && (l.node == nil || k.owned[l.node.index]) {
			picked = append(picked, l)
		}
	}
	var b strings.Builder
	if over := len(picked) - limit; over > 0 {
		fmt.Fprintf(&b, "... %d earlier lines; -sim.trace=N prints the last N\n", over)
		picked = picked[over:]
	}
	for _, l := range picked {
		key := "*"
		if l.key != nil {
			key = l.key.name
		}
		fmt.Fprintf(&b, "%14v %-6s %s\n", time.Duration(l.at), key, l.text)
	}
	return b.String()
}

// name is short for a version: its timestamp since the world began, and its writer.
func (s *sim) name(h *Head) string {
	if !h.Exists() {
		return "nothing"
	}
	mark := ""
	if h.Tombstone {
		mark = "†"
	}
	return fmt.Sprintf("%s@%s/%d%s", s.when(h.Timestamp), h.Writer.ID, h.Writer.Incarnation, mark)
}

func (s *sim) when(timestamp int64) string {
	if timestamp == 0 {
		return "0"
	}
	return time.Duration(timestamp - worldEpoch.UnixNano()).String()
}
