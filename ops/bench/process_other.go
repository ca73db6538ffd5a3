//go:build !linux

package main

import "syscall"

// dieWithParent asks for nothing where the system offers nothing. Measuring
// needs Linux anyway: processor time is read from /proc.
func dieWithParent() *syscall.SysProcAttr { return nil }
