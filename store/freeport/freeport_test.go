package freeport

import "testing"

// TestGet: nobody is given a port that another one was given and has not used yet.
func TestGet(t *testing.T) {
	seen := map[int]bool{}
	for range partSize / 2 {
		port, err := Get()
		if err != nil {
			t.Fatal(err)
		}
		if seen[port] {
			t.Fatalf("port %d was handed out twice", port)
		}
		seen[port] = true
		if port < firstPort+ports.part*partSize || port >= firstPort+(ports.part+1)*partSize {
			t.Fatalf("port %d is not of part %d", port, ports.part)
		}
	}
	if listen(firstHeld+ports.part) != nil {
		t.Error("another process may take the same part")
	}
}
