package natstest

import (
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
)

// Servers get ports below the range from which systems take those of outgoing
// connections, so that one is still free when a server is started on it again.
// Test processes run side by side, and a port is asked for a while before its
// server listens: so each process takes a part of the range, which it holds by
// listening on the port that stands for the part, and hands out each port once
// before it hands out one again.
const (
	firstPort = 12000
	partSize  = 1000
	parts     = 20
	firstHeld = firstPort - parts
)

var ports struct {
	sync.Mutex
	held net.Listener // open until the process ends
	part int
	next int
}

// freePort returns a port that nobody listens on.
func freePort(t testing.TB) int {
	t.Helper()
	ports.Lock()
	defer ports.Unlock()
	if ports.held == nil {
		holdPart(t)
	}
	for range partSize {
		port := firstPort + ports.part*partSize + ports.next%partSize
		ports.next++
		if l := listen(port); l != nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatalf("find a free port: none of %d", partSize)
	return 0
}

func holdPart(t testing.TB) {
	t.Helper()
	for _, part := range rand.Perm(parts) {
		if l := listen(firstHeld + part); l != nil {
			ports.held, ports.part = l, part
			return
		}
	}
	t.Fatalf("find a range of free ports: %d processes have one each", parts)
}

func listen(port int) net.Listener {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return nil
	}
	return l
}
