package redis

import (
	"fmt"
	"io"
	"strconv"
)

// Secret is a password. However it is printed or encoded it shows as
// [redacted], or as nothing where there is none.
type Secret string

func (s Secret) String() string {
	if s == "" {
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
