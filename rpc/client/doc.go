// Package client writes and reads keys through a PairDB coordinator.
//
// A Client is made once and shared: its methods are safe for concurrent use.
// What many goroutines ask for at the same time travels together on a few
// connections, so that an operation costs a fraction of a call of its own:
// callers simply call, and batches form by themselves. A value above 256 KiB
// goes as a call of its own, so that it delays no small one.
//
// # Errors
//
// Every error is an *Error, of a kind that errors.Is tells (ErrKeyNotFound,
// ErrOverloaded, ...). The error of a write or delete says in Outcome whether it
// may have taken effect.
//
// # Retries
//
// An operation that failed for a passing reason is tried again, within its
// deadline, where that is safe: a read; a write that had no effect; a write in
// doubt only if it carries an idempotency key, under which it takes effect at
// most once. Options.IdempotentWrites gives every write such a key. Retries wait
// with growing, random pauses, at least as long as the coordinator asks for, and
// are few in comparison with what succeeds, so that they cannot keep an
// overloaded coordinator overloaded.
package client
