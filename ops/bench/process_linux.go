package main

import "syscall"

// dieWithParent makes a process end when this one is killed, since nobody else
// would end it.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
