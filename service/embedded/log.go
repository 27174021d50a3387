package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
)

// serverLog passes on what the server logs, and keeps the first fatal message:
// it is the only way in which a server reports that it could not start.
type serverLog struct {
	log *slog.Logger

	mu    sync.Mutex
	death error
}

func (l *serverLog) fatal() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.death
}

func (l *serverLog) Fatalf(format string, v ...any) {
	message := fmt.Sprintf(format, v...)
	l.mu.Lock()
	if l.death == nil {
		l.death = errors.New(message)
	}
	l.mu.Unlock()
	l.pass(slog.LevelError, message)
}

func (l *serverLog) Errorf(format string, v ...any) {
	l.pass(slog.LevelError, fmt.Sprintf(format, v...))
}
func (l *serverLog) Warnf(format string, v ...any) { l.pass(slog.LevelWarn, fmt.Sprintf(format, v...)) }

// Notices of a server are details to the program that embeds it.
func (l *serverLog) Noticef(format string, v ...any) {
	l.pass(slog.LevelDebug, fmt.Sprintf(format, v...))
}
func (l *serverLog) Debugf(string, ...any) {}
func (l *serverLog) Tracef(string, ...any) {}

func (l *serverLog) pass(level slog.Level, message string) {
	if l.log != nil {
		l.log.Log(context.Background(), level, message, "component", "nats-server")
	}
}
