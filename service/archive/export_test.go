package archive

// SetBlock sets the index of the first block that is written.
func SetBlock(v *V1Writer, index uint32) {
	v.index, v.key = index, blockKey(v.stream, index)
}
