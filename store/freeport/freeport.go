// Package freeport hands out ports of the loopback interface for the servers of
// tests. They are below the range from which systems take those of outgoing
// connections, so that one is still free when a server is started on it again.
//
// Test processes run side by side, and a port is asked for a while before its
// server listens: so each process takes a part of the range, which it holds by
// listening on the port that stands for the part, and hands out each port once
// before it hands out one again. It is test support: nothing but tests may import
// it.
package freeport

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

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

// Get returns a port that nobody listens on and that this process was not given
// lately.
func Get() (int, error) {
	ports.Lock()
	defer ports.Unlock()
	if ports.held == nil {
		if err := hold(); err != nil {
			return 0, err
		}
	}
	for range partSize {
		port := firstPort + ports.part*partSize + ports.next%partSize
		ports.next++
		if l := listen(port); l != nil {
			_ = l.Close()
			return port, nil
		}
	}
	return 0, fmt.Errorf("find a free port: none of %d", partSize)
}

func hold() error {
	for _, part := range rand.Perm(parts) {
		if l := listen(firstHeld + part); l != nil {
			ports.held, ports.part = l, part
			return nil
		}
	}
	return fmt.Errorf("find a range of free ports: %d processes have one each", parts)
}

func listen(port int) net.Listener {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return nil
	}
	return l
}
