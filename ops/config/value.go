package config

import (
	"errors"
	"fmt"
	"math/big"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// decoder collects the faults of one configuration.
type decoder struct {
	text   sourceText
	faults Faults
}

func (d *decoder) report(subject hcl.Range, summary, detail string) {
	d.faults = append(d.faults, Fault{
		Range: subject, Summary: summary, Detail: detail, Source: d.text.line(subject),
	})
}

// reportSetting reports a fault outside the file.
func (d *decoder) reportSetting(setting, summary, detail string) {
	d.faults = append(d.faults, Fault{Setting: setting, Summary: summary, Detail: detail})
}

func (d *decoder) add(diags hcl.Diagnostics) {
	for _, diag := range diags {
		if diag.Severity != hcl.DiagError {
			continue
		}
		var subject hcl.Range
		if diag.Subject != nil {
			subject = *diag.Subject
		}
		d.report(subject, diag.Summary, strings.Join(strings.Fields(diag.Detail), " "))
	}
}

// block decodes the attributes of one block. Each method leaves its target
// alone where the attribute is absent, null or at fault.
type block struct {
	*decoder
	path string // "" at the top of the file, else as in "server.tls"
}

func (b block) name(attr *hcl.Attribute) string {
	if b.path == "" {
		return attr.Name
	}
	return b.path + "." + attr.Name
}

// words turns max_connections into "max connections".
func words(name string) string { return strings.ReplaceAll(name, "_", " ") }

func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// constant evaluates an attribute. Values are not converted: a number in
// quotes is a mistake about the type more often than not.
func (b block) constant(attr *hcl.Attribute, want cty.Type, expected string) (cty.Value, bool) {
	if attr == nil {
		return cty.NilVal, false
	}
	v, diags := attr.Expr.Value(nil)
	if diags.HasErrors() {
		b.add(diags)
		return cty.NilVal, false
	}
	if v.IsNull() {
		return cty.NilVal, false
	}
	if v.Type() != want {
		b.report(attr.Expr.Range(), "Wrong type", fmt.Sprintf("%s must be %s, not %s.",
			b.name(attr), expected, v.Type().FriendlyName()))
		return cty.NilVal, false
	}
	return v, true
}

func (b block) integer(dst *int, attr *hcl.Attribute, lo, hi int) {
	v, ok := b.constant(attr, cty.Number, "a whole number")
	if !ok {
		return
	}
	f := v.AsBigFloat()
	if !f.IsInt() {
		b.report(attr.Expr.Range(), "Wrong type", fmt.Sprintf("%s must be a whole number, not %s.",
			b.name(attr), f.Text('g', -1)))
		return
	}
	if f.Cmp(big.NewFloat(float64(lo))) < 0 || f.Cmp(big.NewFloat(float64(hi))) > 0 {
		b.report(attr.Expr.Range(), fmt.Sprintf("%s must be between %d and %d", capital(words(attr.Name)), lo, hi),
			fmt.Sprintf("%s is %s.", b.name(attr), f.Text('f', 0)))
		return
	}
	n, _ := f.Int64()
	*dst = int(n)
}

func (b block) integer64(dst *int64, attr *hcl.Attribute, lo, hi int) {
	n := int(*dst)
	b.integer(&n, attr, lo, hi)
	*dst = int64(n)
}

func (b block) boolean(dst *bool, attr *hcl.Attribute) {
	if v, ok := b.constant(attr, cty.Bool, "true or false"); ok {
		*dst = v.True()
	}
}

const durationHint = `rite it as "250ms" or "2s".`

func (b block) duration(dst *time.Duration, attr *hcl.Attribute, lo, hi time.Duration) {
	if attr == nil {
		return
	}
	if v, diags := attr.Expr.Value(nil); !diags.HasErrors() && !v.IsNull() && v.Type() == cty.Number {
		b.report(attr.Expr.Range(), "Duration needs a unit", "W"+durationHint)
		return
	}
	v, ok := b.constant(attr, cty.String, "a duration")
	if !ok {
		return
	}
	s := v.AsString()
	value, err := time.ParseDuration(s)
	if err != nil {
		if _, isNumber := strconv.ParseFloat(s, 64); isNumber == nil {
			b.report(attr.Expr.Range(), "Duration needs a unit", "W"+durationHint)
			return
		}
		b.report(attr.Expr.Range(), "Not a duration", fmt.Sprintf("%s is %q: w%s", b.name(attr), s, durationHint))
		return
	}
	if value < lo || value > hi {
		b.report(attr.Expr.Range(),
			fmt.Sprintf("%s must be between %s and %s", capital(words(attr.Name)), shortDuration(lo), shortDuration(hi)),
			fmt.Sprintf("%s is %s.", b.name(attr), s))
		return
	}
	*dst = value
}

// shortDuration prints 1h0m0s as 1h.
func shortDuration(v time.Duration) string {
	s := v.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// text takes a string that check, where there is one, has no complaint about.
func (b block) text(dst *string, attr *hcl.Attribute, check func(string) error) {
	v, ok := b.constant(attr, cty.String, "a string")
	if !ok {
		return
	}
	s := v.AsString()
	if check != nil {
		if err := check(s); err != nil {
			b.report(attr.Expr.Range(), "Invalid "+words(attr.Name), fmt.Sprintf("%s is %q: %v.", b.name(attr), s, err))
			return
		}
	}
	*dst = s
}

// texts decodes a list of strings, at least one.
func (b block) texts(dst *[]string, attr *hcl.Attribute, check func(string) error) {
	v, diags := attr.Expr.Value(nil)
	if diags.HasErrors() {
		b.add(diags)
		return
	}
	if v.IsNull() || !v.CanIterateElements() || v.LengthInt() == 0 {
		b.report(attr.Expr.Range(), "Wrong type", b.name(attr)+" must be a list of strings with at least one.")
		return
	}
	var list []string
	for it := v.ElementIterator(); it.Next(); {
		_, e := it.Element()
		if e.IsNull() || e.Type() != cty.String {
			b.report(attr.Expr.Range(), "Wrong type", b.name(attr)+" must be a list of strings.")
			return
		}
		if err := check(e.AsString()); err != nil {
			b.report(attr.Expr.Range(), "Invalid "+words(attr.Name), fmt.Sprintf("%s holds %q: %v.", b.name(attr), e.AsString(), err))
			return
		}
		list = append(list, e.AsString())
	}
	*dst = list
}

func (b block) secret(dst *Secret, attr *hcl.Attribute) {
	if v, ok := b.constant(attr, cty.String, "a string"); ok {
		*dst = NewSecret(v.AsString())
	}
}

// only reports the second and further blocks where one may stand.
func (b block) only(what string, ranges []hcl.Range) {
	for _, r := range ranges[min(1, len(ranges)):] {
		b.report(r, "Duplicate "+what+" block", fmt.Sprintf("Only one may stand; the first is at line %d.", ranges[0].Start.Line))
	}
}

// Checks of strings, shared by the file, the environment and flags. Their
// errors say what was expected.

func checkID(s string) error {
	switch {
	case s == "":
		return errors.New("want a name")
	case len(s) > maxIDBytes:
		return fmt.Errorf("want at most %d bytes", maxIDBytes)
	case strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) || r == unicode.ReplacementChar }):
		return errors.New("want a name without spaces and control characters")
	}
	return nil
}

// maxIDBytes bounds the name of a coordinator or storage node, as the engine does.
const maxIDBytes = 256

func checkPath(s string) error {
	if s == "" {
		return errors.New("want a path")
	}
	if strings.ContainsRune(s, 0) {
		return errors.New("a path holds no NUL")
	}
	return nil
}

// checkListen wants an address to listen on. Port 0 takes a free port, an
// empty host all addresses.
func checkListen(s string) error {
	_, _, err := splitAddress(s, 0)
	return err
}

// checkAddress wants an address to connect to.
func checkAddress(s string) error {
	host, _, err := splitAddress(s, 1)
	if err == nil && host == "" {
		return errors.New(`want HOST:PORT, as in "10.0.0.5:50051"; the host is missing`)
	}
	return err
}

func splitAddress(s string, minPort int) (host string, port int, err error) {
	host, portText, err := net.SplitHostPort(s)
	if err != nil || strings.ContainsFunc(host, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) || r == '/' }) {
		return "", 0, errors.New(`want HOST:PORT, as in "10.0.0.5:50051"`)
	}
	port, err = strconv.Atoi(portText)
	if err != nil || port < minPort || port > 65535 {
		return "", 0, fmt.Errorf("want HOST:PORT with a port from %d to 65535", minPort)
	}
	return host, port, nil
}

func checkHost(s string) error {
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
		return errors.New("want a host name or address")
	}
	return nil
}

// oneOf wants one of the names.
func oneOf(names ...string) func(string) error {
	return func(s string) error {
		if !slices.Contains(names, s) {
			last := len(names) - 1
			return fmt.Errorf("want %s or %s", strings.Join(names[:last], ", "), names[last])
		}
		return nil
	}
}

var (
	checkLogLevel  = oneOf("trace", "debug", "info", "warn", "error")
	checkLogFormat = oneOf("json", "text")
)
