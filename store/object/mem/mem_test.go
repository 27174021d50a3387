package mem

import (
	"testing"

	"jetkeep/store/object"
	"jetkeep/store/object/objecttest"
)

func TestConformance(t *testing.T) {
	objecttest.Run(t, func(*testing.T) object.Driver { return New() })
}
