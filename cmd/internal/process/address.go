package process

import "net"

// PortExists tells whether a port, a number or a service's name, is one that there is.
func PortExists(port string) bool {
	_, err := net.LookupPort("tcp", port)
	return err == nil
}

// SameSocket tells whether two addresses to listen on, as host:port, are one socket, or the one contains the other: a port of every address
// is that of each. Port 0 is another one each time. localhost is 127.0.0.1, as it is to net.Listen where there is IPv4.
func SameSocket(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil {
		return a == b // paths
	}
	numberA, errA := net.LookupPort("tcp", portA)
	numberB, errB := net.LookupPort("tcp", portB)
	if errA != nil || errB != nil || numberA != numberB || numberA == 0 {
		return false
	}
	ipA, ipB := listenIP(hostA), listenIP(hostB)
	switch {
	case ipA == nil || ipB == nil: // names
		return hostA == hostB || isEvery(ipA) || isEvery(ipB)
	case isEvery(ipA) || isEvery(ipB):
		return isDual(ipA) || isDual(ipB) || (ipA.To4() == nil) == (ipB.To4() == nil)
	}
	return ipA.Equal(ipB)
}

// listenIP is nil for a name.
func listenIP(host string) net.IP {
	switch host {
	case "":
		return net.IPv6unspecified
	case "localhost":
		return net.IPv4(127, 0, 0, 1)
	}
	return net.ParseIP(host)
}

func isEvery(ip net.IP) bool { return ip != nil && ip.IsUnspecified() }

// isDual tells whether ip is every address of IPv6, which net.Listen takes for those of IPv4 too.
func isDual(ip net.IP) bool { return isEvery(ip) && ip.To4() == nil }

// IsEveryAddress tells whether to listen on host is to listen on every address, so that it is no host that can be dialled.
func IsEveryAddress(host string) bool { return isEvery(listenIP(host)) }

// IsLoopback tells whether only this machine can dial what listens on host.
func IsLoopback(host string) bool {
	ip := listenIP(host)
	return ip != nil && ip.IsLoopback()
}
