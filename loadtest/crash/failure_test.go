package crash

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/loadtest/proc"
	"weir/loadtest/target"
)

// A member that can no longer write its log ends, and says so in its last line, instead of staying and answering that
// it has stopped.
func TestAMemberThatCannotWriteItsLogEnds(t *testing.T) {
	addr := freeAddr(t)
	for _, c := range []struct {
		program proc.Program
		args    func(data string) []string
	}{
		{proc.Core, func(data string) []string { return target.MemberArgs("m1", data, addr, freeAddr(t)) }},
		{proc.Proxy, func(data string) []string {
			return []string{"--embedded", "--data-dir=" + data, "--listen-addr=" + addr}
		}},
	} {
		path, err := bin.Build(t.Context(), c.program)
		if err != nil {
			t.Fatal(err)
		}
		data := filepath.Join(t.TempDir(), "data")
		p, err := proc.Start(string(c.program), path, c.args(data), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = p.Kill() }() // it has ended, if all is well
		if err := p.WaitReady(t.Context(), target.Serves(addr)); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(data, "member", "wal")); err != nil {
			t.Fatal(err)
		}
		conn, err := target.Dial(addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		kv := pb.NewKVClient(conn)
		// Until the log needs its next segment, whose directory is gone.
		for i := 0; err == nil && i < 200; i++ {
			_, err = kv.Put(t.Context(), &pb.PutRequest{Key: []byte("k"), Value: make([]byte, 1<<20)})
		}
		if err == nil {
			t.Fatal("200 MiB were written into a log that is not there")
		}
		<-p.Exited()
		lines := strings.Split(strings.TrimSpace(p.Log()), "\n")
		if last := lines[len(lines)-1]; !strings.Contains(last, "append to the log") || strings.HasPrefix(last, "{") {
			t.Errorf("%s ends with the line: %s", c.program, last)
		}
	}
}
