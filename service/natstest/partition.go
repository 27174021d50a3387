package natstest

import (
	"fmt"
	"net"
	"strconv"
	"strings"
)

// nowhere is what a node of a Severable cluster tells the others as its address,
// so that they know only those that they were given.
const nowhere = "127.0.0.1:1"

// Severable makes a cluster whose nodes can be cut off by Sever.
func Severable() Option { return func(o *options) { o.severable = true } }

// Sever cuts node i of a Severable cluster off from the other nodes, until Mend.
// Its clients stay.
func (c *Cluster) Sever(i int) {
	c.t.Helper()
	c.each(i, (*Proxy).Cut)
}

// Mend ends what Sever did, and waits until the cluster is whole.
func (c *Cluster) Mend(i int) {
	c.t.Helper()
	c.each(i, (*Proxy).Mend)
	c.AwaitReady()
}

func (c *Cluster) each(i int, do func(*Proxy)) {
	c.t.Helper()
	if len(c.wires) == 0 {
		c.t.Fatal("the cluster is not Severable")
	}
	for _, w := range c.wires {
		if w.from == i || w.to == i {
			do(w.Proxy)
		}
	}
}

// routes returns the cluster block of node i of those that listen on ports.
func (c *Cluster) routes(i int, ports []int, o options) string {
	c.t.Helper()
	var routes []string
	advertise := ""
	for j, port := range ports {
		if o.severable && j == i {
			continue
		}
		to := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		if o.severable {
			w := &wire{NewProxy(c.t, to), i, j}
			c.wires = append(c.wires, w)
			to = w.Addr()
			advertise = "\n  advertise: \"" + nowhere + "\""
		}
		routes = append(routes, fmt.Sprintf("\"nats-route://%s\"", to))
	}
	return fmt.Sprintf("cluster {\n  name: test\n  no_advertise: %t\n  listen: \"127.0.0.1:%d\"%s\n  routes: [%s]\n}", o.hidden, ports[i], advertise, strings.Join(routes, ", "))
}

// A wire is how one node gets to another.
type wire struct {
	*Proxy
	from, to int // indexes of nodes
}
