package store

// Bounds and targets of the format, in bytes unless said otherwise.
const (
	// MaxSegment is the raw size at which a segment is cut by force. Only a
	// segment of one record can be larger.
	MaxSegment = 4 << 20
	// maxRawSegment bounds a segment of one record.
	maxRawSegment = 1<<28 + 1<<17
	// minRecord is the least that a record's encoding has.
	minRecord = 6
	// maxPackStored and maxPackRaw cut a pack by force, maxPackSegments too.
	maxPackStored   = 16 << 20
	maxPackRaw      = 64 << 20
	maxPackSegments = 256
	// maxPack is the most that a pack has as it is stored: one segment of one
	// record that cannot be compressed, and the index, sealed.
	maxPack = maxRawSegment + maxRawSegment>>6 + 64<<10
	// maxTableSegments cuts a table by force.
	maxTableSegments = 4096
	// maxOverlap is how many segments may cover one sequence: a reader holds
	// them all in memory to merge them.
	maxOverlap = 8
)

// A border says what ends after a record.
type border uint8

const (
	borderNone    border = iota // nothing: if a segment ends here it was cut by force
	borderSegment               // a segment
	borderPack                  // a segment and a pack
	borderTable                 // a segment, a pack and a table
)

// mix64 is the finaliser of SplitMix64.
func mix64(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// borderAfter says what ends after a record of the given sequence, time and
// encoded size. It depends on that record alone, so a border stays where it is
// whatever is deleted before it, and with a chance proportional to the size,
// so that segments average 2 MiB, packs 32 MiB raw and tables 2 GiB whatever
// the size of the records.
func borderAfter(seq uint64, time int64, size int) border {
	h := mix64(mix64(seq+0x9e3779b97f4a7c15) + uint64(time))
	switch n := uint64(size); {
	case h>>33 < n:
		return borderTable
	case h>>39 < n:
		return borderPack
	case h>>43 < n:
		return borderSegment
	}
	return borderNone
}
