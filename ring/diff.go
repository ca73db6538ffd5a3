package ring

import (
	"cmp"
	"slices"
)

// Range is a span whose tokens all have the same replicas in two rings.
type Range struct {
	Span
	// Old and New are the replicas in preference order, as indexes into the
	// rings' Nodes: as many as were asked for, or all nodes where there are fewer.
	Old, New []uint32
}

// Ranges cuts the tokens into spans of which every token has the same rf
// replicas in r and the same nextRF in next, in order; neighbours that have the
// same are one. Both rings must have nodes.
func Ranges(r *Ring, rf int, next *Ring, nextRF int) []Range {
	bounds := make([]Token, 0, len(r.vnodes)+len(next.vnodes)+1)
	for _, v := range r.vnodes {
		bounds = append(bounds, v.token)
	}
	for _, v := range next.vnodes {
		bounds = append(bounds, v.token)
	}
	// What lies behind the last virtual node belongs to the first.
	bounds = append(bounds, ^Token(0))
	slices.SortFunc(bounds, func(a, b Token) int { return cmp.Compare(a, b) })
	bounds = slices.Compact(bounds)
	ranges := make([]Range, 0, len(bounds))
	first := Token(0)
	for _, last := range bounds {
		old, new := r.Replicas(nil, last, rf), next.Replicas(nil, last, nextRF)
		if n := len(ranges); n > 0 && slices.Equal(ranges[n-1].Old, old) && slices.Equal(ranges[n-1].New, new) {
			ranges[n-1].Last = last
		} else {
			ranges = append(ranges, Range{Span{first, last}, old, new})
		}
		if last == ^Token(0) {
			break
		}
		first = last + 1
	}
	return ranges
}
