package ring

// Span is the tokens from First to Last, both included, and never wraps: one
// that would is two.
type Span struct{ First, Last Token }

// Everything is the span of all tokens.
func Everything() Span { return Span{0, ^Token(0)} }

// Contains tells whether t is in the span.
func (s Span) Contains(t Token) bool { return s.First <= t && t <= s.Last }

// Share is the part of all tokens that the span has, 0 to 1.
func (s Span) Share() float64 { return (float64(s.Last-s.First) + 1) / (1 << 63) / 2 }
