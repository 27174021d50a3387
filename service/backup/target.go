package backup

import (
	"context"
	"io"

	"jetkeep/service/jetsnap"
	"jetkeep/service/jsapi"
	"jetkeep/service/natsconn"
)

// OfConn returns the account behind a connection as a target. The connection
// should be the capture's own and not reconnect: what a server sends while a
// connection is gone is lost, and the capture then ends with an error.
func OfConn(conn *natsconn.Conn) Target { return connTarget{conn.API} }

type connTarget struct{ *jsapi.Client }

func (t connTarget) Snapshot(ctx context.Context, stream string, o jetsnap.SnapshotOptions) (io.ReadCloser, error) {
	snap, err := jetsnap.New(t.Client).Snapshot(ctx, stream, o)
	if err != nil {
		return nil, err
	}
	return snap, nil
}
