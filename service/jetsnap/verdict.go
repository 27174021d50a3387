package jetsnap

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"jetkeep/service/jsapi"
)

// finish tells the server that this was all, and waits for its verdict.
func (u *upload) finish(ctx context.Context) ([]byte, error) {
	u.mu.Lock()
	u.last, u.ending = u.next, true
	u.next++
	end := u.last
	u.mu.Unlock()
	if err := u.post(end, nil); err != nil {
		return nil, err
	}
	knocked := false
	err := u.until(ctx, tendInterval, func() bool { return u.reply != nil }, func() error {
		if knocked || time.Since(u.lastHeard()) < knockAfter {
			return nil
		}
		// A server that still works on the first end ignores a second one, and
		// a missing listener shows. A third one could block servers before
		// 2.11, which is why there is one.
		knocked = true
		u.mu.Lock()
		n := u.next
		u.next++
		u.mu.Unlock()
		return u.post(n, nil)
	})
	if errors.Is(err, ErrAborted) {
		err = u.verdict(ctx, err)
	}
	if err != nil {
		return nil, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if n := len(u.sizes); n > 0 {
		err := fmt.Errorf("%w: %d chunks were never acknowledged", ErrAborted, n)
		if why := jsapi.ReplyError(u.reply); why != nil {
			err = fmt.Errorf("%w: %w", err, why)
		}
		return nil, err
	}
	return u.reply, nil
}

// verdict waits a moment for the reason, or for the success, that another
// server may send after the sign that nobody listens any more.
func (u *upload) verdict(ctx context.Context, err error) error {
	t := time.NewTimer(settle)
	defer t.Stop()
	for {
		u.mu.Lock()
		got, failed := u.reply != nil, u.err
		u.mu.Unlock()
		switch {
		case failed != nil:
			return failed
		case got:
			return nil
		}
		select {
		case <-u.event:
		case <-t.C:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// abort makes the server drop the restore at once: it refuses a chunk that has
// no reply subject. Otherwise it would wait for 5 s.
func (u *upload) abort() {
	u.mu.Lock()
	gone := u.gone
	u.mu.Unlock()
	if !gone && u.link.intact() {
		_ = u.link.nc.Publish(u.to, []byte{0}) // the server's own timeout does it otherwise
		_ = u.link.nc.FlushTimeout(settle)
	}
}

// life asks the server from time to time whether it answers at all, until the
// function it returns is called.
func (u *upload) life(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		t := time.NewTicker(lifeInterval)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
			_, err := u.c.api.CallWithin(ctx, "INFO", nil, lifeInterval)
			// An error that the server made, such as a refusal, shows life too.
			if !errors.Is(err, jsapi.ErrNoReply) && !errors.Is(err, ErrConnectionLost) && !errors.Is(err, jsapi.ErrNoJetStream) {
				u.mu.Lock()
				u.alive = time.Now()
				u.mu.Unlock()
			}
		}
	}()
	return func() { cancel(); wg.Wait() }
}
