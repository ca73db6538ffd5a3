package console

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/pairdb/coordinator/coord"
)

const (
	maxRequestBytes = 8 << 10
	// maxShownBytes bounds what is shown of a value.
	maxShownBytes = 4 << 10
)

// keyQuestion is what the page asks about a key.
type keyQuestion struct {
	Tenant string `json:"tenant"`
	Key    string `json:"key"`
	// Consistency is that of a read; empty: the default.
	Consistency string `json:"consistency"`
}

// keyAnswer is where the key lives and what each replica holds.
type keyAnswer struct {
	Place    float64        `json:"place"` // on the ring, 0 to 1
	Token    string         `json:"token"`
	Factor   int            `json:"replication_factor"`
	Replicas []shownReplica `json:"replicas"` // in the order in which they would be asked
	Copies   []shownCopy    `json:"copies"`   // in the order of the ring
}

type shownReplica struct {
	Node     string `json:"node"`
	Place    int    `json:"place"`
	Standing string `json:"standing"`
}

type shownCopy struct {
	Node       string  `json:"node"`
	TookMillis float64 `json:"took_ms"`
	Error      string  `json:"error,omitempty"`
	Held       string  `json:"held"` // value, deleted or absent
	Value      string  `json:"value"`
	Binary     bool    `json:"binary"` // Value is in hexadecimal
	Size       int     `json:"size"`
	Timestamp  int64   `json:"timestamp,string"` // nanoseconds, too long for a number of JavaScript's
	UpdatedAt  string  `json:"updated_at"`       // the same, to read
	Writer     string  `json:"writer"`
	Clock      string  `json:"clock"`
	Relation   string  `json:"relation"` // to the greatest version: greatest, outdated or concurrent
}

// question reads what is asked about a key. Where it may not be asked, it was
// refused.
func (c *Console) question(w http.ResponseWriter, r *http.Request) (q keyQuestion, ok bool) {
	if !c.showsKeys() {
		refuse(w, http.StatusForbidden, "keys are shown only where requests are authenticated, or with -dev")
		return q, false
	}
	// No form of another site can send this type.
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		refuse(w, http.StatusUnsupportedMediaType, "want application/json")
		return q, false
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequestBytes)).Decode(&q); err != nil {
		refuse(w, http.StatusBadRequest, fmt.Sprintf("the question is not JSON of at most %d bytes: %v", maxRequestBytes, err))
		return q, false
	}
	if q.Tenant == "" || q.Key == "" || strings.Contains(q.Tenant, ":") {
		refuse(w, http.StatusBadRequest, "want a tenant without a colon, and a key")
		return q, false
	}
	return q, true
}

// answer sends what the page shows.
func answer(w http.ResponseWriter, a any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(a) // a browser that went away needs no answer
}

// serveKey looks at one key.
func (c *Console) serveKey(w http.ResponseWriter, r *http.Request, engine Engine) {
	q, ok := c.question(w, r)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), keyTimeout)
	defer cancel()
	found, err := lookAt(ctx, engine, q)
	switch {
	case errors.Is(err, coord.ErrTenantNotFound):
		refuse(w, http.StatusNotFound, err.Error())
	case err != nil:
		refuse(w, http.StatusServiceUnavailable, err.Error())
	default:
		answer(w, found)
	}
}

func lookAt(ctx context.Context, engine Engine, q keyQuestion) (keyAnswer, error) {
	e, err := engine.Explain(ctx, q.Tenant, q.Key, coord.LevelDefault)
	if err != nil {
		return keyAnswer{}, err
	}
	copies, err := engine.Inspect(ctx, q.Tenant, q.Key)
	if err != nil {
		return keyAnswer{}, err
	}
	a := keyAnswer{Place: fraction(e.Token), Token: fmt.Sprintf("%016x", uint64(e.Token)), Factor: e.ReplicationFactor}
	for i := range e.Replicas {
		a.Replicas = append(a.Replicas, shownReplica{e.Replicas[i].Node.ID, e.Replicas[i].Place, e.Replicas[i].Standing.String()})
	}
	for i := range copies {
		a.Copies = append(a.Copies, showCopy(&copies[i]))
	}
	return a, nil
}

func showCopy(held *coord.Copy) shownCopy {
	shown := shownCopy{Node: held.Node, TookMillis: millis(held.Took)}
	if held.Err != nil {
		shown.Error = cut(held.Err.Error(), maxErrorBytes)
		return shown
	}
	v := &held.Version
	if !v.Exists() {
		shown.Held = "absent"
		return shown
	}
	shown.Held, shown.Size = "value", len(v.Value)
	if v.Tombstone {
		shown.Held = "deleted"
	}
	shown.Value, shown.Binary = showValue(v.Value)
	shown.Timestamp, shown.UpdatedAt = v.Timestamp, v.UpdatedAt().UTC().Format("2006-01-02T15:04:05.000000000Z")
	shown.Writer = fmt.Sprintf("%s/%d", v.Writer.ID, v.Writer.Incarnation)
	shown.Clock = v.Clock.String()
	switch {
	case held.Greatest:
		shown.Relation = "greatest"
	case held.Relation == coord.Concurrent:
		shown.Relation = "concurrent"
	default:
		shown.Relation = "outdated"
	}
	return shown
}

// showValue is a value as text where it is text, else in hexadecimal.
func showValue(value []byte) (text string, binary bool) {
	head := value[:min(len(value), maxShownBytes)]
	more := ""
	if len(head) < len(value) {
		more = "…"
		for i := 0; i < utf8.UTFMax && !utf8.Valid(head); i++ {
			head = head[:len(head)-1] // a character that was cut
		}
	}
	printable := utf8.Valid(head) && strings.IndexFunc(string(head), func(r rune) bool {
		return !unicode.IsPrint(r) && !unicode.IsSpace(r)
	}) < 0
	if !printable {
		return hex.EncodeToString(head) + more, true
	}
	return string(head) + more, false
}

// refuse answers with an error that the page shows.
func refuse(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(struct {
		Error string `json:"error"`
	}{message})
}
