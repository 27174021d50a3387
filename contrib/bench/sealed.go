package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// sealed backs the stream up into a plain and into an encrypted repository, in
// turn, and restores it from both.
func (b *bench) sealed(ctx context.Context, dir string) error {
	if err := b.renew(ctx, b.o.messages, 1); err != nil {
		return err
	}
	for n := range b.o.runs + 1 {
		at := filepath.Join(dir, fmt.Sprint(n))
		if err := os.MkdirAll(at, 0o700); err != nil {
			return err
		}
		for _, encrypted := range []bool{false, true} {
			backup, restore, err := b.sealedOnce(ctx, filepath.Join(at, fmt.Sprint(encrypted)), encrypted)
			if err != nil {
				return err
			}
			b.tell(backup, restore)
			if n > 0 { // the first is the warm-up
				b.keep(backup, restore)
			}
		}
		if err := os.RemoveAll(at); err != nil {
			return err
		}
	}
	b.ratios = append(b.ratios,
		ratio{"backup, encrypted", "backup, plain", "none"},
		ratio{"restore without read-back, encrypted", "restore without read-back, plain", "none"},
	)
	return nil
}

func (b *bench) sealedOnce(ctx context.Context, dir string, encrypted bool) (backup, restore sample, err error) {
	repository, key := filepath.Join(dir, "jetkeep", "repository"), filepath.Join(dir, "operator.key")
	if err = errors.Join(os.MkdirAll(dir, 0o700), b.forget(ctx)); err != nil {
		return backup, restore, err
	}
	name := "plain"
	read := []string{"restore", "--no-verify", stream}
	if encrypted {
		name = "encrypted"
		read = append(read, "--identity", key)
		if _, err = command(ctx, "", b.o.jetkeep, "repository", "init", "--path", repository, "--generate-operator", key); err != nil {
			return backup, restore, err
		}
	}
	if backup, err = b.withService(ctx, dir, "backup, "+name, "backup", stream); err != nil {
		return backup, restore, err
	}
	if backup.stored, err = sizeOf(repository); err != nil {
		return backup, restore, err
	}
	if err = b.deleteStream(ctx); err != nil {
		return backup, restore, err
	}
	if restore, err = b.withService(ctx, dir, "restore without read-back, "+name, read...); err != nil {
		return backup, restore, err
	}
	backup.moved, restore.moved = int64(b.o.messages)<<10, int64(b.o.messages)<<10
	return backup, restore, b.checkCount(ctx)
}
