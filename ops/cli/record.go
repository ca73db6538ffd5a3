package cli

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// maxLineBytes bounds a line of JSON: the greatest value in base64 fits.
const maxLineBytes = 16 << 20

// record is a line of a dump: a key with its value, as text where that is
// possible and else in base64.
type record struct {
	Key    string  `json:"key"`
	Value  *string `json:"value,omitempty"`
	Base64 *string `json:"value_base64,omitempty"`
}

// encodeRecord appends the line of a key and its value, with its newline.
func encodeRecord(dst *bytes.Buffer, key string, value []byte) error {
	r := record{Key: key}
	if utf8.Valid(value) {
		text := string(value)
		r.Value = &text
	} else {
		text := base64.StdEncoding.EncodeToString(value)
		r.Base64 = &text
	}
	encoder := json.NewEncoder(dst)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(r)
}

// decodeRecord reads a line.
func decodeRecord(line []byte) (key string, value []byte, err error) {
	if !utf8.Valid(line) {
		return "", nil, errors.New("not valid UTF-8")
	}
	var r record
	if err := json.Unmarshal(line, &r); err != nil {
		return "", nil, fmt.Errorf("not a JSON record: %w", err)
	}
	switch {
	case r.Key == "":
		return "", nil, errors.New(`"key" is missing or empty`)
	case (r.Value == nil) == (r.Base64 == nil):
		return "", nil, errors.New(`want either "value" or "value_base64"`)
	case r.Value != nil:
		return r.Key, []byte(*r.Value), nil
	}
	value, err = base64.StdEncoding.DecodeString(*r.Base64)
	if err != nil {
		return "", nil, fmt.Errorf(`"value_base64": %w`, err)
	}
	return r.Key, value, nil
}

var errLineTooLong = fmt.Errorf("longer than %d bytes", maxLineBytes)

// lines reads lines of bounded length.
type lines struct {
	r      *bufio.Reader
	number int // of the line last read, from 1
}

// next returns a line without its newline, the caller's to keep. A line that
// is too long is skipped and fails with errLineTooLong; the end is io.EOF.
func (l *lines) next() ([]byte, error) {
	l.number++
	var line []byte
	tooLong := false
	for {
		part, err := l.r.ReadSlice('\n')
		if tooLong = tooLong || len(line)+len(part) > maxLineBytes+1; tooLong {
			line = nil
		} else {
			line = append(line, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err == nil, errors.Is(err, io.EOF) && (len(line) > 0 || tooLong):
			if tooLong {
				return nil, errLineTooLong
			}
			return bytes.TrimSpace(line), nil
		default:
			return nil, err
		}
	}
}
