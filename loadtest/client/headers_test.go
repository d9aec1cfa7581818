package client

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"
)

// Tokens and tables are such that everything fits, and that something is evicted all the time.
func TestHeadersAreThoseThatWereMeantInAnyOrderOfMethods(t *testing.T) {
	methods := []Method{KVRange, KVPut, KVTxn, KVDeleteRange, Watch, LeaseGrant, LeaseRevoke, LeaseKeepAlive, Authenticate, Status}
	for _, token := range []int{0, 20, 3500, 3900, 5000} {
		for _, table := range []uint32{1 << 20, 4096, 500, 0} {
			t.Run(fmt.Sprintf("token of %d, table of %d", token, table), func(t *testing.T) {
				random := rand.New(rand.NewPCG(1, uint64(token)))
				h := newHeaders("127.0.0.1:2379", Config{Token: strings.Repeat("t", token)})
				d := hpack.NewDecoder(4096, nil)
				d.SetAllowedMaxDynamicTableSize(max(table, 4096))
				for i := range 300 {
					if i == 150 {
						h.limit(table)
					}
					m := methods[random.IntN(1+i/30)] // each begins some time
					block, err := h.of(m)
					if err != nil {
						t.Fatal(err)
					}
					if i == 150 && table < 4096 && block[0]&0xe0 != 0x20 { // RFC 7541, 6.3
						t.Fatalf("headers %d do not begin with the size of the table, but with %#x", i, block[0])
					}
					got, err := d.DecodeFull(block)
					if err != nil {
						t.Fatalf("headers %d: %v", i, err)
					}
					if want := append([]hpack.HeaderField{{Name: ":path", Value: string(m)}}, h.fields...); !slices.Equal(got, want) {
						t.Fatalf("headers %d are %v, want %v", i, got, want)
					}
				}
			})
		}
	}
}

func TestHeadersOfAMethodThatWasUsedBeforeAreReferences(t *testing.T) {
	h := newHeaders("127.0.0.1:2379", Config{Token: strings.Repeat("t", 1000)})
	for i := range 6 {
		for _, m := range []Method{KVRange, KVPut, Watch} {
			block, err := h.of(m)
			if err != nil {
				t.Fatal(err)
			}
			if i > 0 && len(block) != 1+len(h.fields) {
				t.Errorf("%d bytes for %d fields", len(block), 1+len(h.fields))
			}
		}
	}
}
