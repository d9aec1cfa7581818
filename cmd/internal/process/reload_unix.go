//go:build unix

package process

import (
	"os"
	"os/signal"
	"syscall"
)

// orders are the signals that a Reloader obeys.
var orders = map[os.Signal]order{syscall.SIGHUP: reloadNow, syscall.SIGUSR1: logMore, syscall.SIGUSR2: logLess}

// SurviveSignals has the signals that a Reloader obeys do nothing until one runs, and after it, until stop is called. By themselves they would
// end the process: who reloads all servers of a machine does not know which of them is just starting.
func SurviveSignals() (stop func()) {
	nobody := make(chan os.Signal, 1)
	for s := range orders {
		signal.Notify(nobody, s)
	}
	return func() { signal.Stop(nobody) }
}

// notifySignals tells of signals until stop is called. Of several at the same time some may be lost, as they are between processes.
func notifySignals() (to <-chan order, stop func()) {
	signals, told, ended := make(chan os.Signal, len(orders)), make(chan order), make(chan struct{})
	for s := range orders {
		signal.Notify(signals, s)
	}
	forwarded := make(chan struct{})
	go func() {
		defer close(forwarded)
		for {
			select {
			case s := <-signals:
				select {
				case told <- orders[s]:
				case <-ended:
					return
				}
			case <-ended:
				return
			}
		}
	}()
	return told, func() {
		signal.Stop(signals)
		close(ended)
		<-forwarded
	}
}
