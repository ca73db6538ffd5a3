package rpc

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// Versions of the storage protocol.
//
//	1  the greeting is the magic and a byte 1. The node speaks that version or refuses.
//	2  the greeting is the magic, a byte 2, and the lowest and the highest
//	   version that the coordinator speaks, a byte each; the hello says which one
//	   the node has chosen. Both sides skip frames of kinds from frameOptional on.
//
// A later version changes what frames hold, and not the form of the greeting:
// each side says what it knows and the highest version that both know is
// spoken. What is new in a message of storage.proto needs no version where those
// who do not know it may ignore it.
//
// A node of version 1 refuses the greeting of version 2 in words, and is greeted
// again as version 1 would.
const (
	greetingMagic   = "PDBX" // differs from how HTTP/2 begins
	greetingSimple  = 1
	greetingOffered = 2
)

// speech is a range of versions of the storage protocol.
type speech struct{ lowest, highest byte }

// spoken is what this release speaks.
var spoken = speech{lowest: lowestProtocol, highest: highestProtocol}

func (s speech) String() string {
	if s.lowest == s.highest {
		return fmt.Sprintf("version %d", s.lowest)
	}
	return fmt.Sprintf("versions %d to %d", s.lowest, s.highest)
}

// errProtocol is wrapped where node and coordinator have no version in common.
var errProtocol = errors.New("no common version of the storage protocol")

// greeting is how a coordinator begins that speaks s.
func (s speech) greeting() []byte {
	if s.highest == greetingSimple {
		return append([]byte(greetingMagic), greetingSimple)
	}
	return append([]byte(greetingMagic), greetingOffered, s.lowest, s.highest)
}

// agree reads what follows the magic of a greeting, and tells which version a
// node that speaks s goes on with.
func (s speech) agree(r io.Reader) (version byte, err error) {
	var form, offer [2]byte
	if _, err := io.ReadFull(r, form[:1]); err != nil {
		return 0, err
	}
	switch {
	case form[0] == greetingSimple:
		offer = [2]byte{greetingSimple, greetingSimple}
	case form[0] != greetingOffered || s.highest == greetingSimple:
		return 0, s.refuse(fmt.Sprint(form[0]))
	default:
		if _, err := io.ReadFull(r, offer[:]); err != nil {
			return 0, err
		}
	}
	theirs := speech{offer[0], offer[1]}
	version = min(s.highest, theirs.highest)
	if theirs.lowest > theirs.highest || version < max(s.lowest, theirs.lowest) {
		return 0, s.refuse(theirs.String())
	}
	return version, nil
}

// protocolWords are in each refusal of a greeting, so that a coordinator knows
// one. Version 1 has them, too.
const protocolWords = " of the storage protocol, not "

func (s speech) refuse(theirs string) error {
	return fmt.Errorf("this node speaks %v%s%s", s, protocolWords, theirs)
}

// refusedGreeting tells whether a node ended a connection because of the
// version that it was greeted with.
func refusedGreeting(err error) bool {
	bye := (*byeError)(nil)
	return errors.As(err, &bye) && strings.Contains(bye.text, protocolWords)
}
