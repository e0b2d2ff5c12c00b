package main

import (
	"fmt"
	"os"
	"sync"
)

const (
	logSize = 16 << 20 // bytes of one log file
	logKeep = 4        // older ones that are kept: server.log.1 is the youngest
)

// logFile is a file that starts anew when it is full and keeps the last few.
type logFile struct {
	path string

	mu   sync.Mutex
	file *os.File
	size int64
}

func openLog(path string) (*logFile, error) {
	l := &logFile{path: path}
	return l, l.open()
}

func (l *logFile) open() error {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	l.file, l.size = f, info.Size()
	return nil
}

func (l *logFile) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size > 0 && l.size+int64(len(b)) > logSize {
		l.turn()
	}
	n, err := l.file.Write(b)
	l.size += int64(n)
	return n, err
}

// turn makes room. What fails here costs an older log, not the server.
func (l *logFile) turn() {
	for i := logKeep; i > 1; i-- {
		os.Rename(fmt.Sprintf("%s.%d", l.path, i-1), fmt.Sprintf("%s.%d", l.path, i))
	}
	os.Rename(l.path, l.path+".1")
	old := l.file
	if err := l.open(); err != nil {
		l.size = 0 // goes on in the old file, and tries again when it has doubled
		return
	}
	old.Close()
}

func (l *logFile) Close() error { return l.file.Close() }
