package coord

import (
	"time"

	"github.com/anishathalye/porcupine"
)

// maxSimRequests bounds the requests of a run, and so those on one key: beyond
// some thousands porcupine stops answering.
const maxSimRequests = 5000

// observe notes what a quorum read returned.
func (s *sim) observe(r *simRequest) {
	if r.saw == nil || r.level == One || r.saw.request == nil {
		return
	}
	if w := r.saw.request; w.observed == 0 {
		w.observed = r.returned
	}
}

// history is the requests on a key as porcupine wants them. An operation is
// identified by its request's number: a write sets it, a read returns that of
// the write it saw.
//
// A write in doubt may take effect at any time after it began: it stays open.
// Two things follow, which spare porcupine the search: where no read saw it, it
// may as well never have taken effect, and is left out; where one did, it has
// taken effect before the first such read returned.
//
// A write at level one is always in doubt, and reads at one are left out. But a
// write at one may be late: it did not see a version that had been acknowledged
// before it began, and issued a lower one. A quorum read that began before both
// may still return it, which no order of effects explains. Such a write is left
// out with the reads that saw it; the order of versions is checked for them all
// the same (checkRead).
func (s *sim) history(k *simEntry) []porcupine.Operation {
	var ops []porcupine.Operation
	for _, r := range s.requests {
		if r.key != k || r.late || r.level == One && r.kind == requestGet {
			continue
		}
		op := porcupine.Operation{ClientId: 0, Input: boxedReads, Output: boxed[0], Call: r.called, Return: r.returned}
		switch {
		case r.kind == requestGet && (!r.ok || r.saw != nil && (r.saw.request == nil || r.saw.request.late)):
			continue
		case r.kind == requestGet:
			if r.saw != nil {
				op.Output = boxed[r.saw.request.id]
			}
		case r.ok && r.level != One:
			op.Input = boxed[r.id]
		case (r.ok || r.inDoubt) && r.observed != 0:
			op.Input, op.Return = boxed[r.id], r.observed
		default:
			continue
		}
		ops = append(ops, op)
	}
	return ops
}

// Values are boxed once: porcupine takes interfaces.
var (
	boxed      = boxNumbers(maxSimRequests + 1)
	boxedReads = any(int32(-1))
)

func boxNumbers(n int) []any {
	numbers := make([]any, n)
	for i := range numbers {
		numbers[i] = int32(i)
	}
	return numbers
}

// register is the model of one key. Its state and the input of a write are the
// request that wrote it, 0 for nothing yet.
var register = porcupine.Model{
	Init: func() any { return boxed[0] },
	Step: func(state, input, output any) (bool, any) {
		if input.(int32) < 0 {
			return state.(int32) == output.(int32), state
		}
		return true, input
	},
	Equal: func(x, y any) bool { return x.(int32) == y.(int32) },
	Hash:  func(state any) uint64 { return uint64(state.(int32)) * 0x9e3779b97f4a7c15 },
}

// checkHistories is P5.
func (s *sim) checkHistories() {
	for _, k := range s.keys {
		ops := s.history(k)
		if len(ops) == 0 {
			continue
		}
		s.figures.checked += int64(len(ops))
		switch porcupine.CheckOperationsTimeout(register, ops, 5*time.Second) {
		case porcupine.Illegal:
			s.violate(k, "P5", "the operations at quorum and all are not linearizable")
			return
		case porcupine.Unknown:
			s.figures.unknown++
		}
	}
}
