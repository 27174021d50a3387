package store

import (
	"errors"
	"strings"
	"testing"
)

// What lies in itself a million times costs no memory for each time.
func TestDeepValuesAreRefused(t *testing.T) {
	deep := strings.Repeat("[", 1_000_000)
	for _, text := range []string{"[" + deep, `[{"a":` + deep, "[" + strings.Repeat(`{"a":`, 1_000_000)} {
		if _, err := countConsumers(strings.NewReader(text)); !errors.Is(err, errMalformed) || !strings.Contains(err.Error(), "lie in each other") {
			t.Errorf("%.8s…: %v", text, err)
		}
	}
	flat := `[{"name":"a","config":{"metadata":{"x":[[[[1]]]]}}},{"name":"b"}]`
	if n, err := countConsumers(strings.NewReader(flat)); n != 2 || err != nil {
		t.Errorf("%d consumers, %v", n, err)
	}
}
