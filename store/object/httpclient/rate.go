package httpclient

import (
	"context"
	"net"
	"time"

	"golang.org/x/time/rate"
)

// rateChunk is how many bytes wait for their turn together.
const rateChunk = 32 << 10

// dialer connects, and lets no more bytes through than allowed.
func dialer(o Options) func(ctx context.Context, network, address string) (net.Conn, error) {
	d := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	up, down := limiter(o.UploadRate), limiter(o.DownloadRate)
	if up == nil && down == nil {
		return d.DialContext
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		r := &ratedConn{Conn: c, up: up, down: down}
		r.ctx, r.cancel = context.WithCancel(context.Background())
		return r, nil
	}
}

func limiter(bytes int64) *rate.Limiter {
	if bytes <= 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(bytes), rateChunk)
}

// A ratedConn waits before it writes and after it has read. Closing ends the
// waiting.
type ratedConn struct {
	net.Conn
	up, down *rate.Limiter
	ctx      context.Context // as long as the connection
	cancel   context.CancelFunc
}

func (c *ratedConn) Write(p []byte) (int, error) {
	if c.up == nil {
		return c.Conn.Write(p)
	}
	written := 0
	for written < len(p) {
		next := p[written:min(len(p), written+rateChunk)]
		if err := c.up.WaitN(c.ctx, len(next)); err != nil {
			return written, net.ErrClosed
		}
		n, err := c.Conn.Write(next)
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

func (c *ratedConn) Read(p []byte) (int, error) {
	if c.down == nil {
		return c.Conn.Read(p)
	}
	n, err := c.Conn.Read(p[:min(len(p), rateChunk)])
	if n > 0 && c.down.WaitN(c.ctx, n) != nil {
		return n, net.ErrClosed
	}
	return n, err
}

func (c *ratedConn) Close() error {
	c.cancel()
	return c.Conn.Close()
}
