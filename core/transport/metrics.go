package transport

import (
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are those of a Transport. Names, labels, units and buckets are etcd's (server/etcdserver/api/rafthttp/metrics.go, etcd
// 3.7). Messages that are dropped count as failures to send; bytes are those of frames and of snapshots, without what HTTP/2 and
// TLS add. A peer is active while its small channel is connected.
type metrics struct {
	local    string
	vectors  []vector
	ofMember peerVectors
}

// vector is a metric with a label for the peer.
type vector interface {
	prometheus.Collector
	DeletePartialMatch(prometheus.Labels) int
}

type peerVectors struct {
	active, snapshotSending, snapshotReceiving             *prometheus.GaugeVec
	disconnected                                           *prometheus.CounterVec
	sentBytes, sentFailures                                *prometheus.CounterVec
	receivedBytes, receivedFailures                        *prometheus.CounterVec
	snapshotSent, snapshotSendFailures                     *prometheus.CounterVec
	snapshotReceived, snapshotReceiveFailures              *prometheus.CounterVec
	roundTrip, snapshotSendSeconds, snapshotReceiveSeconds *prometheus.HistogramVec
}

// peerMetrics are the metrics of one peer.
type peerMetrics struct {
	active, snapshotSending, snapshotReceiving             prometheus.Gauge
	disconnected                                           prometheus.Counter
	sentBytes, sentFailures                                prometheus.Counter
	receivedBytes, receivedFailures                        prometheus.Counter
	snapshotSent, snapshotSendFailures                     prometheus.Counter
	snapshotReceived, snapshotReceiveFailures              prometheus.Counter
	roundTrip, snapshotSendSeconds, snapshotReceiveSeconds prometheus.Observer
}

func newMetrics(local uint64) *metrics {
	m := &metrics{local: idString(local)}
	counter := func(name, label, help string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "etcd_network_" + name, Help: help}, labels(label))
		m.vectors = append(m.vectors, c)
		return c
	}
	gauge := func(name, label, help string) *prometheus.GaugeVec {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "etcd_network_" + name, Help: help}, labels(label))
		m.vectors = append(m.vectors, g)
		return g
	}
	seconds := func(name, label, help string, from float64, buckets int) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "etcd_network_" + name, Help: help, Buckets: prometheus.ExponentialBuckets(from, 2, buckets),
		}, labels(label))
		m.vectors = append(m.vectors, h)
		return h
	}
	m.ofMember = peerVectors{
		active:           gauge("active_peers", labelRemote, "1 for each peer that is connected."),
		disconnected:     counter("disconnected_peers_total", labelRemote, "Connections to peers that have ended."),
		sentBytes:        counter("peer_sent_bytes_total", labelTo, "Bytes sent to peers."),
		sentFailures:     counter("peer_sent_failures_total", labelTo, "Messages to peers that were dropped."),
		receivedBytes:    counter("peer_received_bytes_total", labelFrom, "Bytes received from peers."),
		receivedFailures: counter("peer_received_failures_total", labelFrom, "Streams from peers that have broken."),
		roundTrip:        seconds("peer_round_trip_time_seconds", labelTo, "Round trips to peers, in seconds.", 0.0001, 16),

		snapshotSent:            counter("snapshot_send_success", labelTo, "Snapshots that have arrived at peers."),
		snapshotSendFailures:    counter("snapshot_send_failures", labelTo, "Snapshots that have not arrived at peers."),
		snapshotSending:         gauge("snapshot_send_inflights_total", labelTo, "Snapshots on their way to peers."),
		snapshotSendSeconds:     seconds("snapshot_send_total_duration_seconds", labelTo, "How long snapshots took to arrive, in seconds.", 0.1, 10),
		snapshotReceived:        counter("snapshot_receive_success", labelFrom, "Snapshots received from peers."),
		snapshotReceiveFailures: counter("snapshot_receive_failures", labelFrom, "Snapshots from peers that were not taken."),
		snapshotReceiving:       gauge("snapshot_receive_inflights_total", labelFrom, "Snapshots that are coming in."),
		snapshotReceiveSeconds:  seconds("snapshot_receive_total_duration_seconds", labelFrom, "How long snapshots took to come in and be stored, in seconds.", 0.1, 10),
	}
	return m
}

// The label that names the peer. With Remote there is another, Local, for this member.
const (
	labelRemote = "Remote"
	labelTo     = "To"
	labelFrom   = "From"
)

func labels(peer string) []string {
	if peer == labelRemote {
		return []string{"Local", labelRemote}
	}
	return []string{peer}
}

// of returns the metrics of a peer.
func (m *metrics) of(id uint64) *peerMetrics {
	v, peer := m.ofMember, idString(id)
	return &peerMetrics{
		active:                  v.active.WithLabelValues(m.local, peer),
		disconnected:            v.disconnected.WithLabelValues(m.local, peer),
		sentBytes:               v.sentBytes.WithLabelValues(peer),
		sentFailures:            v.sentFailures.WithLabelValues(peer),
		receivedBytes:           v.receivedBytes.WithLabelValues(peer),
		receivedFailures:        v.receivedFailures.WithLabelValues(peer),
		roundTrip:               v.roundTrip.WithLabelValues(peer),
		snapshotSent:            v.snapshotSent.WithLabelValues(peer),
		snapshotSendFailures:    v.snapshotSendFailures.WithLabelValues(peer),
		snapshotSending:         v.snapshotSending.WithLabelValues(peer),
		snapshotSendSeconds:     v.snapshotSendSeconds.WithLabelValues(peer),
		snapshotReceived:        v.snapshotReceived.WithLabelValues(peer),
		snapshotReceiveFailures: v.snapshotReceiveFailures.WithLabelValues(peer),
		snapshotReceiving:       v.snapshotReceiving.WithLabelValues(peer),
		snapshotReceiveSeconds:  v.snapshotReceiveSeconds.WithLabelValues(peer),
	}
}

// connected notes that the connection to the peer has begun, or ended.
func (p *peerMetrics) connected(yes bool) {
	if yes {
		p.active.Set(1)
		return
	}
	p.active.Set(0)
	p.disconnected.Inc()
}

// forget drops what is known of a peer that is gone, so that peers that come and go leave nothing behind.
func (m *metrics) forget(id uint64) {
	for _, v := range m.vectors {
		for _, label := range []string{labelRemote, labelTo, labelFrom} {
			v.DeletePartialMatch(prometheus.Labels{label: idString(id)})
		}
	}
}

// Describe is part of prometheus.Collector.
func (t *Transport) Describe(ch chan<- *prometheus.Desc) {
	for _, v := range t.metrics.vectors {
		v.Describe(ch)
	}
}

// Collect is part of prometheus.Collector. It may be called at any time, also after Close.
func (t *Transport) Collect(ch chan<- prometheus.Metric) {
	for _, v := range t.metrics.vectors {
		v.Collect(ch)
	}
}
