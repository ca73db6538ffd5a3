// Package timeline turns the trace of an operation into the rows of a chart, for
// whoever draws it.
package timeline

import (
	"fmt"
	"time"

	pb "github.com/pairdb/coordinator/rpc/coordinatorpb"
)

// Row is one line of the chart: something with a begin and an end, or a moment.
type Row struct {
	Node, What string // Node is empty for what is not of one
	From, To   int64  // microseconds since the operation began
	Open       bool   // it had not ended; To is the end of the trace
	Hedge      bool
	Failed     bool
	Skipped    bool // it never began, since the node was known to be down
	Note       string
}

// Rows joins what begins with what ends it, in order of their beginnings, and
// tells when the last step of all was, in microseconds.
func Rows(t *pb.Trace) (rows []Row, end int64) {
	begun := map[string]int{} // row by what it waits for
	for _, s := range t.GetSteps() {
		end = max(end, s.GetAtUs())
		switch s.GetKind() {
		case "skip":
			rows = append(rows, Row{Node: s.GetNodeId(), What: "skipped", Skipped: true, Note: s.GetError()})
		case "send":
			note := ""
			if s.GetHedge() {
				note = "hedge: one more was asked, the first is slow; "
			}
			begun["call "+s.GetWhat()+" "+s.GetNodeId()] = len(rows)
			rows = append(rows, Row{Node: s.GetNodeId(), What: whatOf[s.GetWhat()], From: s.GetAtUs(), Open: true, Hedge: s.GetHedge(), Note: note})
		case "claim":
			begun["claim "+s.GetWhat()] = len(rows)
			rows = append(rows, Row{What: s.GetWhat(), From: s.GetAtUs(), Open: true})
		case "reply":
			endRow(rows, begun, "call "+s.GetWhat()+" "+s.GetNodeId(), s)
		case "claimed":
			endRow(rows, begun, "claim "+s.GetWhat(), s)
		case "hint":
			rows = append(rows, Row{Node: s.GetNodeId(), What: "hint", From: s.GetAtUs(), To: s.GetAtUs(), Note: "will be sent when it answers again"})
		case "answer":
			rows = append(rows, Row{What: "answer", From: s.GetAtUs(), To: s.GetAtUs(), Note: "at " + micros(max(s.GetAtUs(), 1))})
		}
	}
	for i := range rows {
		if rows[i].Open {
			rows[i].To = end
			rows[i].Note += "had not answered by then"
		}
	}
	return rows, end
}

// whatOf names the parts of an operation.
var whatOf = map[string]string{
	"clocks": "ask version", "send": "write", "read": "read", "fetch": "fetch value", "repair": "repair",
}

func endRow(rows []Row, begun map[string]int, key string, s *pb.TraceStep) {
	i, ok := begun[key]
	if !ok {
		return // its beginning was left out
	}
	r := &rows[i]
	r.To, r.Open = s.GetAtUs(), false
	took := micros(max(r.To-r.From, 1))
	switch {
	case s.GetError() != "":
		r.Failed = true
		r.Note += took + ", failed: " + s.GetError()
	case s.GetVersion() == "":
		r.Note += took
	case s.GetRelation() == "":
		r.Note += took + ", holds " + s.GetVersion()
	case s.GetRelation() == "same":
		r.Note += took + ", holds this version"
	default:
		r.Note += fmt.Sprintf("%s, holds %s, %s by this version", took, s.GetVersion(), map[string]string{
			"dominated": "dominated", "concurrent": "in conflict, replaced",
		}[s.GetRelation()])
	}
}

func micros(us int64) string { return (time.Duration(us) * time.Microsecond).String() }
