package core

import "testing"

// The ids are those that etcd 3.7 gives a single member with its default flags.
func TestIDsAreComputedAsEtcdDoes(t *testing.T) {
	m := newMember([]InitialMember{{"default", []string{"http://localhost:2380"}}}, []string{"http://localhost:2380"}, "etcd-cluster")
	if got := idString(m.ID); got != "8e9e05c52164694d" {
		t.Errorf("member id %s", got)
	}
	if got := idString(m.ClusterID); got != "cdf818194e3a8c32" {
		t.Errorf("cluster id %s", got)
	}
}

func TestMemberIdentityOfAnotherFormatIsRefused(t *testing.T) {
	if _, err := decodeMember([]byte(`{"format":2,"id":1}`)); err == nil {
		t.Fatal("accepted")
	}
}
