package redis

import (
	"fmt"
	"io"
	"strconv"
)

// Secret is a password. However it is printed or encoded it shows as
// [redacted]. The empty Secret, which is the zero one, prints as nothing.
type Secret struct {
	// value is a pointer, since that is what package fmt prints of it where it
	// cannot call Format: in another struct's unexported field.
	value *string
}

// NewSecret hides s.
func NewSecret(s string) Secret {
	if s == "" {
		return Secret{}
	}
	return Secret{&s}
}

func (s Secret) reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

func (s Secret) String() string {
	if s.value == nil {
		return ""
	}
	return "[redacted]"
}

// Format keeps every verb from showing the secret.
func (s Secret) Format(f fmt.State, verb rune) {
	text := s.String()
	if verb == 'q' || verb == 'v' && f.Flag('#') {
		text = strconv.Quote(text)
	}
	_, _ = io.WriteString(f, text)
}

// MarshalText keeps JSON and every other text encoding from showing the secret.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
