package lease

// IsExpired tells whether a lease is there and has expired, as of now. On a member that is not primary none has.
func (l *Lessor) IsExpired(id int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	le := l.leases[id]
	return l.primary && le != nil && le.expiry <= l.now()
}
