package flags

import (
	"errors"
	"flag"
	"strings"
	"testing"
)

func TestRefusedCommandLines(t *testing.T) {
	none := func(string) (string, bool) { return "", false }
	coordinator := func(args []string, out *strings.Builder) error {
		_, err := Coordinator(args, out, none)
		return err
	}
	storage := func(args []string, out *strings.Builder) error {
		_, err := Storage(args, out, func(string) string { return "" })
		return err
	}
	validate := func(args []string, out *strings.Builder) error {
		_, err := Validate(args, out)
		return err
	}
	for _, c := range []struct {
		parse func([]string, *strings.Builder) error
		args  string
		want  error
		says  string
	}{
		{coordinator, "", ErrUsage, "-dev or -config"},
		{coordinator, "-dev more", ErrUsage, `"more"`},
		{coordinator, "-nonsense", ErrUsage, "-nonsense"},
		{coordinator, "-h", flag.ErrHelp, ""},
		{validate, "a -h", flag.ErrHelp, ""},
		{storage, "-id a -h", flag.ErrHelp, ""},
		{storage, "-id a -listen :1 -data d -join nowhere", ErrUsage, "-join"},
		{storage, "-id a -listen :1 -data d -join c:1 -advertise here", ErrUsage, "-advertise"},
		{coordinator, "-dev", nil, ""},
		{storage, "-id a -listen :1", ErrUsage, "-data"},
		{storage, "-id a -listen :1 -data d", nil, ""},
		{validate, "", ErrUsage, "FILE is missing"},
		{validate, "a b", ErrUsage, `"b"`},
		{validate, "a", nil, ""},
	} {
		var out strings.Builder
		err := c.parse(strings.Fields(c.args), &out)
		if !errors.Is(err, c.want) || !strings.Contains(out.String(), c.says) {
			t.Errorf("%q: %v, %q; want %v, %q", c.args, err, out.String(), c.want, c.says)
		}
		if help := (*Help)(nil); errors.As(err, &help) && (out.String() != "" || !strings.HasPrefix(help.Text, "Usage: coordinator")) {
			t.Errorf("%q: help %q, and said %q", c.args, help.Text, out.String())
		}
	}
}
