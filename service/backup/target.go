package backup

import (
	"context"
	"io"

	"jetkeep/service/jetsnap"
	"jetkeep/service/jsapi"
	"jetkeep/service/natsconn"
)

// OfConn returns the account behind a connection as a target. Each snapshot
// takes a connection of its own, which does not reconnect: chunks that were
// lost while a connection was gone would be missing without a word.
func OfConn(conn *natsconn.Conn) Target { return connTarget{conn.API, conn} }

type connTarget struct {
	*jsapi.Client
	conn *natsconn.Conn
}

func (t connTarget) Snapshot(ctx context.Context, stream string, o jetsnap.SnapshotOptions) (io.ReadCloser, error) {
	conn, err := t.conn.Another(ctx, "jetkeep snapshot of "+stream)
	if err != nil {
		return nil, err
	}
	snap, err := jetsnap.New(conn.API).Snapshot(ctx, stream, o)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &snapshot{snap, conn}, nil
}

type snapshot struct {
	*jetsnap.Snapshot
	conn *natsconn.Conn
}

func (s *snapshot) Close() error {
	err := s.Snapshot.Close()
	s.conn.Close()
	return err
}
