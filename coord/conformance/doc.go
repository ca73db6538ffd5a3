// Package conformance holds one suite for each interface that the engine
// consumes and a backend implements. A suite asserts what the interface's doc
// comments promise, case by case; every backend's tests run it on the real thing.
package conformance
