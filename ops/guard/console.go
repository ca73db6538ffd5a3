package guard

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

var errNoToken = errors.New("want the header Authorization: Bearer TOKEN")

// AuthorizeAdmin returns what lets only administrators pass, known by the token
// of an HTTP request: its error wraps forbidden for others whose token is good.
// It is nil where nobody needs a token.
func (g *Guard) AuthorizeAdmin(forbidden error) func(*http.Request) error {
	if g.Tokens == nil {
		return nil
	}
	return func(r *http.Request) error {
		scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
		if !ok || !strings.EqualFold(scheme, "bearer") {
			return errNoToken
		}
		p, err := g.Tokens.Verify(token)
		if err != nil {
			return err
		}
		if !p.Admin() {
			return fmt.Errorf("%w: the token lacks the role admin", forbidden)
		}
		return nil
	}
}
