package mvcc

import (
	"fmt"
	"io"
	"time"
)

// Snapshot is the file as of one moment. It keeps pages from being used again until it is closed.
type Snapshot struct {
	tx      *readTx
	metrics *metrics
}

// Snapshot commits what is pending and returns the file as it is then. It must be closed.
func (s *Store) Snapshot() (*Snapshot, error) {
	if err := s.Commit(); err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	st, err := s.acquire()
	if err != nil {
		return nil, err
	}
	return &Snapshot{st.tx, s.metrics}, nil
}

// Applied is how far the raft log is in the snapshot.
func (s *Snapshot) Applied() Applied { return s.tx.applied }

// Size is how many bytes WriteTo writes.
func (s *Snapshot) Size() int64 { return s.tx.tx.Size() }

// WriteTo writes the file, a bbolt file that etcd can open too.
func (s *Snapshot) WriteTo(w io.Writer) (int64, error) {
	start := time.Now()
	n, err := s.tx.tx.WriteTo(w)
	if err == nil {
		s.metrics.snapshot.Observe(time.Since(start).Seconds())
	}
	return n, err
}

// Close ends the use of the snapshot. It may be called once.
func (s *Snapshot) Close() error {
	s.tx.release()
	return nil
}
