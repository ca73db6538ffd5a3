package redistest

import "syscall"

// attributes make the kernel end the child when the test's process dies, however
// it dies.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
