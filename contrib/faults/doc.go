// Package faults holds a test that disturbs the way between jetkeep and a real
// object store, a thousand times and more, and looks whether anything that was
// called a success is none.
package faults
