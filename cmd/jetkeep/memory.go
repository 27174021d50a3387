package main

import (
	"os"
	"runtime/debug"
)

// memoryLimit is what the runtime tries to stay below. What bounds the memory are
// the bounds of each part; without this, garbage of large messages would come on
// top of what is in use, up to as much again.
const memoryLimit = 200 << 20

// limitMemory tells the collector to work sooner when the process comes near the
// limit, unless GOMEMLIMIT says where that is. It is not for a process with a NATS
// server inside, whose memory nobody here bounds.
func limitMemory() {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
}
