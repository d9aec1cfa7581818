package core

import (
	"log/slog"
	"testing"
)

func TestADiskWithRoomAgainIsNotLowForAnotherMoment(t *testing.T) {
	free := int64(1 << 40)
	g := diskGuard{
		free:    func(string) (int64, error) { return free, nil },
		pending: func() int { return 0 },
		logger:  slog.New(slog.DiscardHandler),
	}
	if g.isLow(diskCheckBytes) {
		t.Fatal("an empty disk is low")
	}
	free = diskReserve
	if !g.isLow(diskCheckBytes) {
		t.Fatal("a disk with nothing but the reserve is not low")
	}
	free = 1 << 40
	if g.isLow(1) {
		t.Error("a write is refused for want of room that is there again")
	}
}
