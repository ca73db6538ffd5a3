package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// answer prints a message: as JSON where that was asked for, else by text.
func (in *invocation) answer(m proto.Message, text func(io.Writer) error) error {
	if !in.json {
		return text(in.Stdout)
	}
	raw, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return fmt.Errorf("print the answer as JSON: %w", err)
	}
	var out bytes.Buffer // protojson varies its white space on purpose
	if err := json.Indent(&out, raw, "", "  "); err != nil {
		return fmt.Errorf("print the answer as JSON: %w", err)
	}
	out.WriteByte('\n')
	_, err = in.Stdout.Write(out.Bytes())
	return err
}

// answerObject prints what is no message: as JSON where that was asked for, else
// by text.
func (in *invocation) answerObject(v any, text func(io.Writer) error) error {
	if !in.json {
		return text(in.Stdout)
	}
	out := json.NewEncoder(in.Stdout)
	out.SetIndent("", "  ")
	if err := out.Encode(v); err != nil {
		return fmt.Errorf("print the answer as JSON: %w", err)
	}
	return nil
}

// printf returns a text for answer.
func printf(format string, args ...any) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := fmt.Fprintf(w, format, args...)
		return err
	}
}

// table prints rows in columns, the first one as the header.
func table(w io.Writer, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			row[i] = strings.Join(strings.Fields(cell), " ") // errors may have lines
		}
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	return t.Flush()
}

// explain turns an error into one line that its reader can act on.
func (in *invocation) explain(err error) string {
	var answered interface {
		error
		GRPCStatus() *status.Status
	}
	if !errors.As(err, &answered) {
		return err.Error()
	}
	s := answered.GRPCStatus()
	reason, outcome := details(s)
	// What was wrapped around the status stays, its "rpc error: code =" does not.
	message := strings.Replace(err.Error(), answered.Error(), s.Message(), 1)
	if reason == "" {
		switch s.Code() {
		case codes.Unavailable:
			if strings.Contains(message, "error reading from server") {
				return fmt.Sprintf("the connection to %s broke: %s; a write may have taken effect or not", in.addr, message)
			}
			return fmt.Sprintf("cannot reach the coordinator at %s: %s (is it running there? -addr or $COORDINATOR_ADDR names another)",
				in.addr, message)
		case codes.DeadlineExceeded:
			return fmt.Sprintf("no answer from %s within %v (-timeout); a write may have taken effect or not", in.addr, in.timeout)
		}
		reason = codeName(s.Code())
	}
	switch outcome {
	case "":
		return fmt.Sprintf("%s (%s)", message, reason)
	case "not_applied":
		return fmt.Sprintf("%s (%s, outcome not_applied: it had no effect)", message, reason)
	}
	return fmt.Sprintf("%s (%s, outcome %s: it may have taken effect, once, or not)", message, reason, outcome)
}

// details are the reason of an error, and a write's outcome, where the
// coordinator said them.
func details(s *status.Status) (reason, outcome string) {
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason(), info.GetMetadata()["outcome"]
		}
	}
	return "", ""
}

// codeName is a status code as the coordinator's documentation writes it.
func codeName(c codes.Code) string { return code.Code(c).String() }
