package service

import (
	"fmt"
	"slices"
	"testing"

	"jetkeep/service/api"
	"jetkeep/store"
	"jetkeep/store/object"
	"jetkeep/store/object/mem"
)

// TestPagesEnd whatever limit they have.
func TestPagesEnd(t *testing.T) {
	list := []string{"a", "b", "c"}
	for _, limit := range []int{-1, 0, 1, 2, 3, 4} {
		var got []string
		cursor := ""
		for range 10 {
			part, next := page(list, func(s string) string { return s }, ascending, cursor, limit)
			got = append(got, part...)
			if cursor = next; cursor == "" {
				break
			}
		}
		if !slices.Equal(got, list) {
			t.Errorf("limit %d: %v", limit, got)
		}
	}
}

// TestListsWithoutAServiceAreValidated: who opens a repository by himself asks for the
// same as the service is asked for.
func TestListsWithoutAServiceAreValidated(t *testing.T) {
	bucket := object.NewBucket(mem.New())
	defer bucket.Close()
	repo, err := store.Init(t.Context(), bucket, store.InitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for limit, ok := range map[int]bool{0: true, 1: true, api.MaxLimit: true, -1: false, api.MaxLimit + 1: false} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			_, err := ListBackups(t.Context(), repo, &api.BackupListRequest{Limit: limit})
			_, infoErr := DescribeBackup(t.Context(), repo, &api.BackupInfoRequest{Backup: "b", Limit: limit})
			if (err == nil) != ok || (infoErr == nil) != ok || !ok && !api.HasCode(err, api.CodeInvalidRequest) {
				t.Errorf("%v, %v", err, infoErr)
			}
		})
	}
	if _, err := ListBackups(t.Context(), repo, &api.BackupListRequest{Stream: "a b"}); !api.HasCode(err, api.CodeInvalidStream) {
		t.Error(err)
	}
}
