//go:build !linux || race

package rpc

import "net"

func quick(conn net.Conn) net.Conn { return conn }
