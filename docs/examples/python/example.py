#!/usr/bin/python3
"""Does with python3-etcd3 what programs do with it most: a transaction, a key under a lease, a lock, and a watch.

    example.py 127.0.0.1:2379                # the first three
    example.py 127.0.0.1:2379 watch jobs/    # prints what changes below jobs/, until it is ended

The library knows one server, so that should be a proxy next to the program. It is Debian's package python3-etcd3.
"""

import sys
import threading
import time

import etcd3
import grpc

TIMEOUT = 10  # seconds for one answer; without it the library waits for ever


def main():
    if len(sys.argv) not in (2, 4) or len(sys.argv) == 4 and sys.argv[2] != "watch":
        sys.exit("usage: example.py HOST:PORT [watch PREFIX]")
    if len(sys.argv) == 4:
        Mirror(sys.argv[1], sys.argv[3]).run()
    with connect(sys.argv[1]) as client:
        count(client)
        live(client)
        exclude(client)


def connect(address):
    host, port = address.rsplit(":", 1)
    return etcd3.client(host=host, port=int(port), timeout=TIMEOUT)


def count(client):
    """Three threads add to one number at the same time. None overwrites what another has added."""
    client.put("example/python/count", "0")
    threads = [threading.Thread(target=increment, args=(client, "example/python/count")) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("count:", client.get("example/python/count")[0].decode())


def increment(client, key):
    """Writes what it has computed only if nobody has written since it read; else it reads again."""
    done = False
    while not done:
        value, meta = client.get(key)
        done, _ = client.transaction(
            compare=[client.transactions.mod(key) == meta.mod_revision],
            success=[client.transactions.put(key, str(int(value) + 1))],
            failure=[],
        )


def live(client):
    """The library renews no lease: whoever has one calls refresh() well before its time is over."""
    lease = client.lease(10)
    client.put("example/python/live", "here", lease=lease)
    lease.refresh()
    lease.revoke()
    print("keys after the lease:", len(list(client.get_prefix("example/python/live"))))


def exclude(client):
    """A lock that is not refreshed ends by itself after its ttl."""
    with client.lock("example/python/lock", ttl=10) as lock:
        # Whoever has lost his lock may not know it yet. With this in the transactions that he makes under it they fail then.
        written, _ = client.transaction(
            compare=[client.transactions.value(lock.key) == lock.uuid],
            success=[client.transactions.put("example/python/locked", "by the first")],
            failure=[],
        )
        print("written under the lock:", written)
        print("for the second it is locked:", not try_lock(client, lock.key))


def try_lock(client, key):
    # Lock.acquire() would wait, which it cannot with Debian's version of tenacity: it raises a TypeError.
    taken, _ = client.transaction(
        compare=[client.transactions.create(key) == 0],
        success=[client.transactions.put(key, "second", lease=client.lease(10))],
        failure=[],
    )
    return taken


class Mirror:
    """The keys below a prefix as they are in the store, each change printed.

    The library does not resume a watch: when the server goes away the watch ends with an error. So this reads the keys
    anew, and what differs is what has changed; of a key that changed several times meanwhile the last is seen.
    """

    def __init__(self, address, prefix):
        self.address, self.prefix = address, prefix
        self.revisions = {}  # of each key

    def run(self):
        while True:
            # A new client each time: while no server answers, an old one's watching thread tries again without a pause.
            with connect(self.address) as client:
                try:
                    self.watch(client, self.read(client) + 1)
                except (etcd3.exceptions.Etcd3Exception, grpc.RpcError) as e:
                    print("again, because of:", type(e).__name__, flush=True)
            time.sleep(1)

    def read(self, client):
        answer = client.get_prefix_response(self.prefix)
        for kv in answer.kvs:
            self.put(kv.key, kv.value, kv.mod_revision)
        for key in set(self.revisions) - {kv.key for kv in answer.kvs}:
            self.remove(key)
        return answer.header.revision

    def watch(self, client, revision):
        events, _ = client.watch_prefix(self.prefix, start_revision=revision)
        for event in events:
            if isinstance(event, etcd3.events.DeleteEvent):
                self.remove(event.key)
            else:
                self.put(event.key, event.value, event.mod_revision)

    def put(self, key, value, revision):
        if self.revisions.get(key) != revision:
            self.revisions[key] = revision
            print("PUT", key.decode(), value.decode(), flush=True)

    def remove(self, key):
        if self.revisions.pop(key, None):
            print("DELETE", key.decode(), flush=True)


if __name__ == "__main__":
    main()
