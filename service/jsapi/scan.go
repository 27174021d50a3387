package jsapi

import (
	"bytes"
	"errors"
	"fmt"
)

// encoding/json would read a list of ten million sequences number by number
// into memory. What follows finds members of an object without looking into
// the values between, and reads such a list in one pass.

var errJSON = errors.New("malformed JSON")

// member returns the raw value of one member of the object in data.
func member(data []byte, name string) (value []byte, found bool, err error) {
	from, to, found, err := locate(data, name)
	if err != nil || !found {
		return nil, false, err
	}
	return data[from:to], true, nil
}

// locate returns where in data the value of the object's member lies.
func locate(data []byte, name string) (from, to int, found bool, err error) {
	err = walk(data, func(key []byte, a, b int) bool {
		if string(key) == name {
			from, to, found = a, b, true
		}
		return !found
	})
	return from, to, found, err
}

// members calls fn with every member of the object in data.
func members(data []byte, fn func(name string, value []byte) error) error {
	var failed error
	err := walk(data, func(key []byte, from, to int) bool {
		failed = fn(string(key), data[from:to])
		return failed == nil
	})
	if failed != nil {
		return failed
	}
	return err
}

// walk calls fn with the name of each member of the object in data and where
// its value lies, until fn returns false.
func walk(data []byte, fn func(key []byte, from, to int) bool) error {
	i := space(data, 0)
	if i >= len(data) || data[i] != '{' {
		return fmt.Errorf("%w: object expected", errJSON)
	}
	i = space(data, i+1)
	for i < len(data) && data[i] != '}' {
		if data[i] != '"' {
			return fmt.Errorf("%w: name expected", errJSON)
		}
		end, err := skip(data, i)
		if err != nil {
			return err
		}
		key := data[i+1 : end-1]
		if i = space(data, end); i >= len(data) || data[i] != ':' {
			return fmt.Errorf("%w: value expected", errJSON)
		}
		from := space(data, i+1)
		to, err := skip(data, from)
		if err != nil {
			return err
		}
		if !fn(key, from, to) {
			return nil
		}
		if i = space(data, to); i < len(data) && data[i] == ',' {
			i = space(data, i+1)
		}
	}
	if i >= len(data) {
		return fmt.Errorf("%w: object without end", errJSON)
	}
	return nil
}

func space(data []byte, i int) int {
	for i < len(data) && (data[i] == ' ' || data[i] == '\n' || data[i] == '\t' || data[i] == '\r') {
		i++
	}
	return i
}

// skip returns the index behind the value that starts at i.
func skip(data []byte, i int) (int, error) {
	depth := 0
	for i < len(data) {
		switch data[i] {
		case '"':
			n := stringEnd(data, i+1)
			if n < 0 {
				return 0, fmt.Errorf("%w: string without end", errJSON)
			}
			i = n
		case '{', '[':
			if n := flat(data[i:]); n > 0 {
				i += n
				break
			}
			depth++
			i++
			continue
		case '}', ']':
			depth--
			i++
		case ',', ':', ' ', '\n', '\t', '\r':
			if depth == 0 {
				return 0, fmt.Errorf("%w: value expected", errJSON)
			}
			i++
			continue
		default:
			n := bytes.IndexAny(data[i:], ",:]} \n\t\r")
			if n < 0 {
				n = len(data) - i
			}
			i += n
		}
		if depth == 0 {
			return i, nil
		}
		if depth < 0 {
			break
		}
	}
	return 0, fmt.Errorf("%w: value without end", errJSON)
}

// flat returns the length of the array at the front of data if it holds neither
// strings nor other arrays or objects: a list of numbers is passed over quickly.
func flat(data []byte) int {
	if len(data) < 2 || data[0] != '[' || data[1] < '0' || data[1] > '9' {
		return 0
	}
	end := bytes.IndexByte(data, ']')
	if end < 0 {
		return 0
	}
	for _, b := range []byte{'"', '{', '['} {
		if bytes.IndexByte(data[1:end], b) >= 0 {
			return 0
		}
	}
	return end + 1
}

func stringEnd(data []byte, i int) int {
	for i < len(data) {
		n := bytes.IndexByte(data[i:], '"')
		if n < 0 {
			return -1
		}
		// A quote counts unless an odd number of backslashes precedes it.
		end, slashes := i+n, 0
		for end-slashes > i && data[end-slashes-1] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return end + 1
		}
		i = end + 1
	}
	return -1
}

// numbers calls add with the runs of consecutive numbers in a JSON array of
// unsigned integers.
func numbers(array []byte, add func(first, last uint64) error) error {
	i := space(array, 0)
	if i >= len(array) || array[i] != '[' {
		return fmt.Errorf("%w: no array", errJSON)
	}
	var first, last uint64
	have := false
	for i = space(array, i+1); i < len(array) && array[i] != ']'; {
		n, end, err := number(array, i)
		if err != nil {
			return err
		}
		if have && n == last+1 {
			last = n
		} else {
			if have {
				if err := add(first, last); err != nil {
					return err
				}
			}
			first, last, have = n, n, true
		}
		if i = space(array, end); i < len(array) && array[i] == ',' {
			i = space(array, i+1)
		}
	}
	if i >= len(array) {
		return fmt.Errorf("%w: array without end", errJSON)
	}
	if have {
		return add(first, last)
	}
	return nil
}

func number(b []byte, i int) (uint64, int, error) {
	var n uint64
	start := i
	for ; i < len(b) && b[i] >= '0' && b[i] <= '9'; i++ {
		d := uint64(b[i] - '0')
		if n > (1<<64-1-d)/10 {
			return 0, 0, fmt.Errorf("%w: number over 64 bits", errJSON)
		}
		n = n*10 + d
	}
	if i == start {
		return 0, 0, fmt.Errorf("%w: number expected", errJSON)
	}
	return n, i, nil
}
