// Package drain tests with real processes that servers can be stopped and started again under load without a client noticing: a
// client of etcd's that knows two proxies, or one address behind which another process soon listens, sees no error, and its watches
// miss no event. And that what was told to stop ends by itself within its time, whatever its clients do.
package drain
