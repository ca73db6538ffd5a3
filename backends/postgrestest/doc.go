// Package postgrestest runs throwaway Postgres servers for tests, from the
// binaries of the machine: on a free port of 127.0.0.1, with its data in a
// temporary directory, and without waiting for the disk. Where the binaries are
// missing, a test that asks for a server is skipped with a line that says what
// to install; with CI=true in the environment it fails.
//
// A package that wants one server for all its tests has
//
//	func TestMain(m *testing.M) { os.Exit(postgrestest.Main(m)) }
//
// and calls Shared; a test that stops or kills its server calls Start for one
// of its own. A server ends with the process of the test, however that ends.
package postgrestest
