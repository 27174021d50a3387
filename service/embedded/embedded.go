// Package embedded runs a nats-server with JetStream inside the process, its
// data in one directory that survives restarts.
//
// Start returns a server that accepts connections and answers JetStream
// requests, or an error and nothing running: ErrPortTaken when another process
// listens on the address, ErrDirInUse when another server holds the directory,
// ErrDirNotWritable when it cannot be written. The directory is held by a lock
// of the operating system, which ends with the process, however it ends.
//
// The server listens on the loopback interface unless it is told otherwise,
// because it asks nobody for credentials. Shutdown returns once the data is
// flushed and the directory is free again; it fails, with the server possibly
// still stopping, when its context ends first.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

var (
	// ErrPortTaken means that another process listens on the address.
	ErrPortTaken = errors.New("port is taken")
	// ErrDirInUse means that another server runs in the directory.
	ErrDirInUse = errors.New("directory is in use by another server")
	// ErrDirNotWritable means that the directory cannot be made or written.
	ErrDirNotWritable = errors.New("directory is not writable")
	// ErrNotReady means that the server did not come up in time.
	ErrNotReady = errors.New("server did not become ready")
)

// DefaultPort is the port of a NATS server.
const DefaultPort = 4222

// RandomPort asks for any free port.
const RandomPort = -1

// readyTimeout bounds the recovery of the streams at a start.
const readyTimeout = 2 * time.Minute

// Options configure a server. Only Dir is required.
type Options struct {
	Dir  string // holds JetStream's data; made if it is missing
	Host string // default 127.0.0.1
	Port int    // default DefaultPort, RandomPort for any free one
	Name string // server name, default "jetkeep"

	// Hidden lets nobody connect but this process, by InProcess. Host and Port
	// do not matter then.
	Hidden bool
	// MaxStore bounds what JetStream keeps on disk, in bytes; 0 for
	// nats-server's own bound.
	MaxStore int64

	MaxPayload int32        // largest message, default that of nats-server
	Log        *slog.Logger // what the server says; nothing if nil
}

// Server is a running server.
type Server struct {
	server *server.Server
	lock   *dirLock
	dir    string
	stop   sync.Once
	done   chan struct{}
}

// Start starts a server and waits until it serves JetStream.
func Start(ctx context.Context, o Options) (*Server, error) {
	if o.Dir == "" {
		return nil, errors.New("start embedded server: no directory given")
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("start embedded server: %w", err)
	}
	o = o.withDefaults()
	if !o.Hidden {
		if err := checkAddress(ctx, o.Host, o.Port); err != nil {
			return nil, err
		}
	}
	lock, err := prepareDir(o.Dir)
	if err != nil {
		return nil, err
	}
	s, err := start(ctx, o)
	if err != nil {
		lock.release()
		return nil, fmt.Errorf("start embedded server in %s: %w", o.Dir, err)
	}
	return &Server{server: s, lock: lock, dir: o.Dir, done: make(chan struct{})}, nil
}

func (o Options) withDefaults() Options {
	if o.Host == "" {
		o.Host = "127.0.0.1"
	}
	if o.Port == 0 {
		o.Port = DefaultPort
	}
	if o.Name == "" {
		o.Name = "jetkeep"
	}
	return o
}

// checkAddress listens for a moment, because the server itself only logs that
// it could not and then never becomes ready.
func checkAddress(ctx context.Context, host string, port int) error {
	address := net.JoinHostPort(host, strconv.Itoa(max(port, 0)))
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("listen on %s: %w", address, ErrPortTaken)
	}
	if err != nil {
		return fmt.Errorf("listen on %s: %w", address, err)
	}
	return l.Close()
}

// prepareDir makes and locks the directory. The lock file is also the proof
// that it can be written.
func prepareDir(dir string) (*dirLock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory %s: %w: %w", dir, ErrDirNotWritable, err)
	}
	lock, err := lockDir(filepath.Join(dir, "lock"))
	if errors.Is(err, ErrDirInUse) {
		return nil, fmt.Errorf("lock directory %s: %w", dir, err)
	}
	if err != nil {
		return nil, fmt.Errorf("lock directory %s: %w: %w", dir, ErrDirNotWritable, err)
	}
	return lock, nil
}

func start(ctx context.Context, o Options) (*server.Server, error) {
	s, err := server.NewServer(&server.Options{
		ServerName: o.Name,
		Host:       o.Host,
		Port:       o.Port,
		MaxPayload: o.MaxPayload,
		JetStream:  true,
		StoreDir:   o.Dir,
		DontListen: o.Hidden,

		JetStreamMaxStore: o.MaxStore,

		DisableJetStreamBanner: true,
		NoSigs:                 true,
	})
	if err != nil {
		return nil, err
	}
	log := &serverLog{log: o.Log}
	s.SetLoggerV2(log, false, false, false)
	// Start recovers every stream before it returns, which no context can
	// interrupt; only the waiting is ours to end.
	started := make(chan struct{})
	go func() {
		defer close(started)
		s.Start()
	}()
	if err := awaitReady(ctx, s, started, log); err != nil {
		s.Shutdown()
		<-started
		s.WaitForShutdown()
		return nil, err
	}
	return s, nil
}

func awaitReady(ctx context.Context, s *server.Server, started <-chan struct{}, log *serverLog) error {
	deadline := time.NewTimer(readyTimeout)
	defer deadline.Stop()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for {
		if err := log.fatal(); err != nil {
			return err
		}
		select {
		case <-started:
			if s.JetStreamEnabled() && s.ReadyForConnections(time.Millisecond) {
				return nil
			}
		default:
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline.C:
			return ErrNotReady
		case <-poll.C:
		}
	}
}

// URL returns the address that clients connect to.
func (s *Server) URL() string { return s.server.ClientURL() }

// InProcess makes connections without the network.
func (s *Server) InProcess() nats.InProcessConnProvider { return s.server }

// Dir returns the directory of the server's data.
func (s *Server) Dir() string { return s.dir }

// Shutdown stops the server, waits until its data is flushed and frees the
// directory. Calling it again waits for the first call.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop.Do(func() {
		go func() {
			defer close(s.done)
			s.server.Shutdown()
			s.server.WaitForShutdown()
			s.lock.release()
		}()
	})
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("shut down embedded server in %s: %w", s.dir, ctx.Err())
	}
}
