package config

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Fault is one thing wrong with a configuration.
type Fault struct {
	Range   hcl.Range // in the file; zero for a fault outside it
	Setting string    // outside the file: what is wrong, as in "flag -listen"
	Summary string
	Detail  string // empty, or sentences
	Source  string // the offending line, its secrets redacted; may be empty
}

// String is FILE:LINE,COL-COL: SUMMARY; DETAIL and, below it, the offending line.
func (f Fault) String() string {
	var b strings.Builder
	if f.Setting != "" {
		b.WriteString(f.Setting)
	} else {
		b.WriteString(f.Range.String())
	}
	b.WriteString(": ")
	b.WriteString(f.Summary)
	if f.Detail != "" {
		b.WriteString("; ")
		b.WriteString(f.Detail)
	}
	if f.Source != "" {
		fmt.Fprintf(&b, "\n  %4d | %s", f.Range.Start.Line, f.Source)
	}
	return b.String()
}

// Faults is every fault of a configuration, those of the file first and by
// position. It is never empty where it is an error.
type Faults []Fault

func (fs Faults) Error() string {
	lines := make([]string, len(fs))
	for i, f := range fs {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

func (fs Faults) sort() {
	slices.SortStableFunc(fs, func(a, b Fault) int {
		inFile := func(f Fault) int { return len(f.Setting) }
		if inFile(a) == 0 != (inFile(b) == 0) {
			return cmp.Compare(inFile(a), inFile(b))
		}
		return cmp.Or(
			cmp.Compare(a.Range.Start.Line, b.Range.Start.Line),
			cmp.Compare(a.Range.Start.Column, b.Range.Start.Column),
			cmp.Compare(a.Setting, b.Setting),
			cmp.Compare(a.Summary, b.Summary),
		)
	})
}

// sourceText prints lines of a file without its secrets.
type sourceText struct {
	src     []byte
	secrets []span
}

type span struct{ start, end int } // byte offsets, end exclusive

// secretName matches what passwords are called, and what one might be called
// by mistake: the line of an unknown attribute is printed too.
var secretName = regexp.MustCompile(`(?i)^(url|uri|dsn)$|pas+w|passwd|pwd|secret|credential|^headers?$`)

// newSourceText finds the values of all attributes with the name of a secret.
// It works on tokens, since files with syntax errors are printed as well.
func newSourceText(src []byte, filename string) sourceText {
	t := sourceText{src: src}
	tokens, _ := hclsyntax.LexConfig(src, filename, hcl.InitialPos)
	for i := 0; i+1 < len(tokens); i++ {
		if tokens[i].Type != hclsyntax.TokenIdent || tokens[i+1].Type != hclsyntax.TokenEqual ||
			!secretName.Match(tokens[i].Bytes) {
			continue
		}
		s := span{start: tokens[i+1].Range.End.Byte, end: len(src)}
		depth := 0
	value:
		for i += 2; i < len(tokens); i++ {
			switch tokens[i].Type {
			case hclsyntax.TokenOParen, hclsyntax.TokenOBrace, hclsyntax.TokenOBrack,
				hclsyntax.TokenTemplateInterp, hclsyntax.TokenTemplateControl:
				depth++
			case hclsyntax.TokenCParen, hclsyntax.TokenCBrace, hclsyntax.TokenCBrack, hclsyntax.TokenTemplateSeqEnd:
				depth--
			}
			ends := depth == 0 && (tokens[i].Type == hclsyntax.TokenNewline || tokens[i].Type == hclsyntax.TokenComment)
			if ends || depth < 0 {
				s.end = tokens[i].Range.Start.Byte
				break value
			}
		}
		t.secrets = append(t.secrets, s)
	}
	return t
}

// line returns the line on which r starts, without the space around it.
func (t sourceText) line(r hcl.Range) string {
	at := min(max(r.Start.Byte, 0), len(t.src))
	start := strings.LastIndexByte(string(t.src[:at]), '\n') + 1
	end := len(t.src)
	if i := strings.IndexByte(string(t.src[at:]), '\n'); i >= 0 {
		end = at + i
	}
	var b strings.Builder
	next := start
	for _, s := range t.secrets {
		if s.end <= start || s.start >= end {
			continue
		}
		b.Write(t.src[next:max(s.start, start)])
		if s.start >= start {
			b.WriteByte(' ')
		}
		b.WriteString(redacted)
		b.WriteByte(' ')
		next = min(s.end, end)
	}
	b.Write(t.src[next:end])
	return strings.TrimSpace(b.String())
}
