package service

import "slices"

// page returns the part of a sorted list that follows the cursor, and the next
// cursor if something follows that part. Keys must be unique and sorted, in
// falling order if so ordered; an entry that came or went in between moves
// nothing. A page has at least one entry, or nobody would get to the end.
func page[T any](list []T, key func(T) string, order sortOrder, cursor string, limit int) ([]T, string) {
	limit = max(limit, 1)
	from := 0
	if cursor != "" {
		from = slices.IndexFunc(list, func(v T) bool {
			if order == descending {
				return key(v) < cursor
			}
			return key(v) > cursor
		})
		if from < 0 {
			return []T{}, ""
		}
	}
	list = list[from:]
	if len(list) <= limit {
		return append([]T{}, list...), ""
	}
	return append([]T{}, list[:limit]...), key(list[limit-1])
}

type sortOrder int

const (
	ascending sortOrder = iota
	descending
)
