package config

import (
	"reflect"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Summaries of the HCL library's faults about what must not stand where it does.
const (
	unknownAttribute = "Unsupported argument"
	unknownBlock     = "Unsupported block type"
)

// decode reads a body into the struct that into points to. Of what must not
// stand there it tells what might.
func (d *decoder) decode(body hcl.Body, into any) {
	diags := gohcl.DecodeBody(body, nil, into)
	for _, diag := range diags {
		if diag.Subject == nil || diag.Summary != unknownAttribute && diag.Summary != unknownBlock {
			continue
		}
		if text, ok := body.(*hclsyntax.Body); ok {
			diag.Detail += " " + expected(reflect.TypeOf(into).Elem(), text, *diag.Subject)
		}
	}
	d.add(diags)
}

// expected says which attributes and blocks the innermost body around a place
// may hold. Schema is the struct that body is decoded into.
func expected(schema reflect.Type, body *hclsyntax.Body, at hcl.Range) string {
	var attributes, blocks []string
	inner := map[string]reflect.Type{}
	for i := range schema.NumField() {
		field := schema.Field(i)
		name, kind, _ := strings.Cut(field.Tag.Get("hcl"), ",")
		switch kind {
		case "optional":
			attributes = append(attributes, name)
		case "block":
			blocks = append(blocks, name)
			inner[name] = field.Type.Elem()
		}
	}
	for _, b := range body.Blocks {
		schema, known := inner[b.Type]
		if within := b.Body.Range(); known && within.Start.Byte <= at.Start.Byte && at.End.Byte <= within.End.Byte {
			return expected(schema, b.Body, at)
		}
	}
	var text strings.Builder
	text.WriteString("Expected ")
	for _, part := range []struct {
		what  string
		names []string
	}{{"the attributes ", attributes}, {"the blocks ", blocks}} {
		if len(part.names) == 0 {
			continue
		}
		if text.Len() > len("Expected ") {
			text.WriteString("; ")
		}
		text.WriteString(part.what)
		text.WriteString(strings.Join(part.names, ", "))
	}
	text.WriteString(".")
	return text.String()
}
