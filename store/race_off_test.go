//go:build !race

package store

// raceDetector says whether it is on, which makes tests some ten times slower.
const raceDetector = false
