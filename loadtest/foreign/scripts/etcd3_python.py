#!/usr/bin/python3
"""Does with python3-etcd3 what its users do, and prints what the server answered.

    etcd3_python.py HOST:PORT [CA_FILE]

The store must be empty. Nothing is printed that differs between two runs or two clusters, as ids, sizes
and times do, so that two servers that answer the same print the same. What is always true is asserted.
"""

import hashlib
import io
import queue
import sys

import etcd3
import etcd3.exceptions
import grpc
from etcd3 import etcdrpc

TIMEOUT = 10  # seconds for one answer or event, of which most come at once


def main():
    host, port = sys.argv[1].rsplit(":", 1)
    address = {"host": host, "port": int(port), "timeout": TIMEOUT}
    if len(sys.argv) > 2:
        address["ca_cert"] = sys.argv[2]
    with etcd3.client(**address) as client:
        for part in (keys, ranges, transactions, leases, watches, locks, compaction, maintenance, errors):
            print("#", part.__name__)
            part(client)
        print("# auth")
        auth(client, address)


def keys(client):
    first = client.put("key", "one")
    say("put", first.header.revision, first.HasField("prev_kv"))
    assert first.header.cluster_id and first.header.member_id and first.header.raft_term
    again = client.put("key", "two", prev_kv=True)
    say("put again", again.header.revision, again.prev_kv.value, again.prev_kv.version)
    say_pair("get", client.get("key"))
    say_pair("get serializable", client.get("key", serializable=True))
    say("get nothing", client.get("none"))
    client.put(b"\x00\xff", b"\xff\x00")
    say_pair("get bytes", client.get(b"\x00\xff"))
    client.put("large", "x" * 1000000)
    value, _ = client.get("large")
    say("get large", len(value))
    say("put if not exists", client.put_if_not_exists("key", "three"), client.put_if_not_exists("new", "three"))
    say("replace", client.replace("key", "one", "four"), client.replace("key", "two", "four"))
    say("delete", client.delete("key"), client.delete("key"))
    deleted = client.delete("new", prev_kv=True, return_response=True)
    say("delete with response", deleted.deleted, [kv.value for kv in deleted.prev_kvs], deleted.header.revision)


def ranges(client):
    for i, name in enumerate(["b", "c", "a"]):
        client.put("range/" + name, "%d" % (i % 2))
    client.put("range/c", "last")
    for target in ("key", "version", "create", "mod", "value"):
        for order in ("ascend", "descend"):
            pairs = client.get_prefix("range/", sort_order=order, sort_target=target)
            say("by", target, order, [meta.key for _, meta in pairs])
    say("range", [value for value, _ in client.get_range("range/a", "range/c")])
    say("keys only", [(meta.key, value) for value, meta in client.get_prefix("range/", keys_only=True)])
    say("all", [meta.key for _, meta in client.get_all()])
    say("delete prefix", client.delete_prefix("range/").deleted)


def transactions(client):
    txn = client.transactions
    client.put("txn", "value")
    for name, compare in {
        "value": txn.value("txn") == "value",
        "value differs": txn.value("txn") != "value",
        "version": txn.version("txn") > 0,
        "create": txn.create("txn") == 0,
        "mod": txn.mod("txn") < 1000000,
        "missing": txn.version("none") == 0,
    }.items():
        ok, answers = client.transaction(
            compare=[compare],
            success=[txn.put("txn/" + name, "yes"), txn.get("txn")],
            failure=[txn.get("none")],
        )
        say("compare", name, ok, [value for value, _ in answers[-1]])
    ok, answers = client.transaction(
        compare=[],
        success=[txn.put("nested/a", "1"),
                 txn.txn(compare=[txn.version("txn") == 1], success=[txn.get("txn"), txn.delete("txn")], failure=[]),
                 txn.get("txn")],
        failure=[],
    )
    inner = answers[1].response_txn
    say("nested", ok, answers[0].response_put.header.revision, inner.succeeded, inner.responses[0].response_range.kvs[0].value,
        inner.responses[1].response_delete_range.deleted, answers[2])
    say("empty", client.transaction(compare=[], success=[], failure=[]))


def leases(client):
    lease = client.lease(60, lease_id=12345)
    say("grant", lease.id, lease.ttl)
    client.put("lease/b", "", lease=lease)
    client.put("lease/a", "", lease=12345)
    say("keys", sorted(lease.keys), lease.granted_ttl)
    assert 50 < lease.remaining_ttl <= 60
    _, meta = client.get("lease/a")
    say("lease of a key", meta.lease_id)
    say("refresh", [answer.TTL for answer in lease.refresh()])
    lease.revoke()
    say("revoked", [value for value, _ in client.get_prefix("lease/")], lease.remaining_ttl)
    say("refresh revoked", [answer.TTL for answer in lease.refresh()])
    say_error("revoke again", lease.revoke)
    say_error("grant again", lambda: (client.lease(60, lease_id=7), client.lease(60, lease_id=7)))
    client.revoke_lease(7)
    chosen = client.lease(60)
    assert chosen.id > 0
    chosen.revoke()

    events = Events(client, "short")
    client.put("short", "lived", lease=client.lease(2))
    say("put with a short lease", events.next())
    say("it expires", events.next())
    events.cancel()


def watches(client):
    start = client.put("watch/a", "1").header.revision
    client.put("watch/a", "2")
    client.delete("watch/a")

    past = Events(client, "watch/a", start_revision=start, prev_kv=True)
    for _ in range(3):
        say("from the past", past.next())
    prefix = Events(client, "watch/", range_end="watch0")
    client.put("watch/b", "3")
    client.delete("watch/b")
    client.put("other", "4")
    say("prefix", prefix.next(), prefix.next())
    prefix.cancel()
    client.put("watch/a", "5")
    say("other watches go on", past.next())
    past.cancel()

    iterator, cancel = client.watch_prefix("many/")
    client.transaction(compare=[], success=[client.transactions.put("many/%d" % i, "") for i in range(100)], failure=[])
    say("one revision", [next(iterator).key for _ in range(100)][-1])
    cancel()
    try:
        client.watch_once("quiet", timeout=0.1)
    except etcd3.exceptions.WatchTimedOut:
        say("quiet")


def locks(client):
    # To wait for a lock that is held fails in the library itself, which does not know Debian's version of tenacity.
    one, two = client.lock("name", ttl=60), client.lock("name", ttl=60)
    say("acquire", one.acquire(), one.is_acquired(), two.is_acquired())
    say("refresh", [answer.TTL for answer in one.refresh()])
    say("release", one.release(), two.acquire(), one.is_acquired(), two.is_acquired(), one.release(), two.release())
    with client.lock("context", ttl=60) as lock:
        say("context", lock.is_acquired())


def compaction(client):
    revision = client.put("compact", "1").header.revision
    client.put("compact", "2")
    last = client.put("compact", "3").header.revision
    client.compact(last, physical=True)
    try:
        Events(client, "compact", start_revision=revision).next()
    except etcd3.exceptions.RevisionCompactedError as e:
        say("watch compacted", e.compacted_revision == last)
    say_error("compact again", lambda: client.compact(last))
    say_error("compact future", lambda: client.compact(last + 100))


def maintenance(client):
    status = client.status()
    say("status", status.version, status.leader is not None)
    assert status.db_size > 0 and status.raft_index > 0 and status.raft_term > 0
    members = list(client.members)
    say("members", len(members), [member.name for member in members])
    assert members[0].id and members[0].peer_urls and members[0].client_urls
    assert client.hash() > 0
    client.defragment()
    file = io.BytesIO()
    client.snapshot(file)
    data = file.getvalue()
    say("snapshot", hashlib.sha256(data[:-32]).digest() == data[-32:], len(data) % 4096)
    say("alarms", len(client.create_alarm()), [alarm.alarm_type for alarm in client.list_alarms()])
    say_error("put without space", lambda: client.put("alarm", ""))
    say("disarm", len(list(client.disarm_alarm())), list(client.list_alarms()))
    client.put("alarm", "")


def errors(client):
    say_error("empty key", lambda: client.put("", ""))
    say_error("no lease", lambda: client.put("key", "", lease=404))
    say_error("too large", lambda: client.put("key", "x" * (1536 * 1024 + 1000)))
    put = client.transactions.put
    say_error("same key twice", lambda: client.transaction(compare=[], success=[put("a", "1"), put("a", "2")], failure=[]))
    say_error("too many operations", lambda: client.transaction(
        compare=[], success=[put("%d" % i, "") for i in range(129)], failure=[]))
    say_error("no such member", lambda: client.remove_member(404))
    say_error("no such user", lambda: etcdrpc.AuthStub(client.channel).UserGet(etcdrpc.AuthUserGetRequest(name="none")))


def auth(client, address):
    # The library authenticates, and leaves it to others to set up whom.
    stub = etcdrpc.AuthStub(client.channel)
    stub.UserAdd(etcdrpc.AuthUserAddRequest(name="root", password="pass"))
    stub.RoleAdd(etcdrpc.AuthRoleAddRequest(name="root"))
    stub.UserGrantRole(etcdrpc.AuthUserGrantRoleRequest(user="root", role="root"))
    stub.UserAdd(etcdrpc.AuthUserAddRequest(name="reader", password="word"))
    stub.RoleAdd(etcdrpc.AuthRoleAddRequest(name="readers"))
    permission = {"permType": 0, "key": b"open/", "range_end": b"open0"}
    stub.RoleGrantPermission(etcdrpc.AuthRoleGrantPermissionRequest(name="readers", perm=permission))
    stub.UserGrantRole(etcdrpc.AuthUserGrantRoleRequest(user="reader", role="readers"))
    client.put("open/key", "to all")
    client.put("shut/key", "to root")
    stub.AuthEnable(etcdrpc.AuthEnableRequest())

    say_error("nobody reads", lambda: client.get("open/key"))
    say_error("nobody writes", lambda: client.put("open/key", ""))
    say_error("wrong password", lambda: login(address, "root", "word"))
    say_error("wrong user", lambda: login(address, "none", "word"))
    with login(address, "root", "pass") as root:
        with login(address, "reader", "word") as reader:
            say("reader reads", reader.get("open/key")[0])
            say("reader ranges", [value for value, _ in reader.get_prefix("open/")])
            say_error("reader reads too much", lambda: reader.get("shut/key"))
            say_error("reader ranges too much", lambda: list(reader.get_all()))
            say_error("reader writes", lambda: reader.put("open/key", ""))
            say_error("reader administers", reader.defragment)
            txn = reader.transactions
            say_error("reader hides a write", lambda: reader.transaction(compare=[], success=[], failure=[
                txn.txn(compare=[], success=[txn.put("open/key", "")], failure=[])]))
            events = Events(reader, "open/", range_end="open0")
            root.put("open/key", "new")
            say("reader watches", events.next())
            lease = root.lease(60)
            root.put("shut/lease", "", lease=lease)
            say_error("reader revokes", lambda: reader.revoke_lease(lease.id))
        with root.lock("auth", ttl=60) as lock:
            say("root locks", lock.is_acquired(), [answer.TTL for answer in lock.refresh()])
        say("root deletes", root.delete_prefix("shut/").deleted)
        root.auth_stub.AuthDisable(etcdrpc.AuthDisableRequest(), metadata=root.metadata)
    for name in ("root", "reader"):
        stub.UserDelete(etcdrpc.AuthUserDeleteRequest(name=name))
    for name in ("root", "readers"):
        stub.RoleDelete(etcdrpc.AuthRoleDeleteRequest(role=name))
    say("nobody reads again", client.get("open/key")[0])


def login(address, user, password):
    client = etcd3.client(user=user, password=password, **address)
    if "ca_cert" not in address:
        # The library sends the token twice, and gRPC refuses the second way without TLS.
        client.call_credentials = client.watcher._credentials = None
    return client


class Events:
    """The events of one watch, which has begun."""

    def __init__(self, client, key, **options):
        self._client = client
        self._responses = queue.Queue()
        self._events = []
        self._id = client.add_watch_callback(key, self._responses.put, **options)

    def next(self):
        while not self._events:
            response = self._responses.get(timeout=TIMEOUT)
            if isinstance(response, Exception):
                raise response
            self._events = list(response.events)
        event = self._events.pop(0)
        return (type(event).__name__, event.key, event.value, event.mod_revision, event.version, event.prev_value)

    def cancel(self):
        self._client.cancel_watch(self._id)


def say(*what):
    print(*what)


def say_pair(name, pair):
    value, meta = pair
    say(name, value, meta.key, meta.create_revision, meta.mod_revision, meta.version, meta.lease_id,
        meta.response_header.revision)


def say_error(name, call):
    """Prints how call fails. The library replaces some errors of gRPC by its own, whose cause they are."""
    try:
        say(name, "went well:", call())
    except Exception as e:  # whatever it is, it is printed
        cause = e if isinstance(e, grpc.RpcError) else e.__context__
        said = (cause.code(), cause.details()) if isinstance(cause, grpc.RpcError) else (e,)
        say(name, type(e).__name__ if e is not cause else "RpcError", *said)


if __name__ == "__main__":
    main()
