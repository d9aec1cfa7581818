// Does with the npm package etcd3 what programs do with it most: a transaction, a key under a lease, a lock, and a watch.
//
//     npm install etcd3
//     node example.js 127.0.0.1:2379                # the first three
//     node example.js 127.0.0.1:2379 watch jobs/    # prints what changes below jobs/, until it is ended
//
// Several servers are separated by commas. The package takes one at random each time, and leaves out for 5 s one that is away.

const { Etcd3, EtcdLockFailedError } = require("etcd3");

const [servers, command, prefix] = process.argv.slice(2);

async function main() {
  if (!servers || (command && (command !== "watch" || !prefix))) {
    throw new Error("usage: example.js HOST:PORT,... [watch PREFIX]");
  }
  const client = new Etcd3({ hosts: servers.split(",").map((server) => "http://" + server) });
  if (prefix) {
    await new Mirror(client, prefix).run();
  }
  for (const part of [count, live, exclude]) {
    await part(client);
  }
  client.close();
}

// count adds to one number three times at once. None overwrites what another has added: stm() does a transaction again
// if somebody has written meanwhile what it has read.
async function count(client) {
  await client.put("example/node/count").value(0);
  const add = () =>
    client.stm({ retries: 10 }).transact(async (tx) => {
      await tx.put("example/node/count").value((await tx.get("example/node/count").number()) + 1);
    });
  await Promise.all([add(), add(), add()]);
  console.log("count:", await client.get("example/node/count").number());
}

// live puts a key under a lease, which the package renews until it is revoked, or the program gone for 10 s.
async function live(client) {
  const lease = client.lease(10);
  // Whoever has lost his lease hears of it only here. Then somebody else may believe that this program is gone.
  lease.on("lost", (e) => console.log("the lease is lost:", e.message));
  await lease.put("example/node/live").value("here");
  await lease.revoke();
  console.log("keys after the lease:", await client.getAll().prefix("example/node/live").count());
}

// exclude takes a lock, and shows that it is not given twice. The package never waits for a lock.
async function exclude(client) {
  const lock = await client.lock("example/node/lock").ttl(10).acquire();
  // Whoever has lost his lock may not know it yet. With this in the transactions that he makes under it they fail then.
  const lease = await lock.leaseId();
  const written = await client
    .if("example/node/lock", "Lease", "==", lease)
    .then(client.put("example/node/locked").value("by the first"))
    .commit();
  console.log("written under the lock:", written.succeeded);
  let locked = false;
  try {
    await client.lock("example/node/lock").ttl(10).acquire();
  } catch (e) {
    locked = e instanceof EtcdLockFailedError;
  }
  console.log("for the second it is locked:", locked);
  await lock.release();
}

// Mirror has the keys below a prefix as they are in the store, and prints each change.
//
// The package resumes a watch by itself when a server goes away, behind the last answer that it has had. It counts as one
// that the watch was created, so what it has missed is lost if a server goes away again just then; and if the store was
// compacted meanwhile, the watch ends. So this reads the keys, too, whenever the watch is there again: what differs is what
// has changed.
class Mirror {
  constructor(client, prefix) {
    this.client = client;
    this.prefix = prefix;
    this.revisions = new Map(); // of each key
    this.read = 0; // the revision that was read
    this.seen = 0; // the revision of the last event
  }

  async run() {
    for (;;) {
      try {
        await this.watch();
      } catch (e) {
        console.log("again, because of:", e.message);
      }
      await new Promise((done) => setTimeout(done, 1000));
    }
  }

  // watch ends with an error.
  async watch() {
    const watcher = await this.client.watch().prefix(this.prefix).create();
    try {
      await new Promise((_, failed) => {
        const reread = () => this.reread().catch(failed);
        watcher.on("put", (kv) => this.event(kv, () => this.put(kv)));
        watcher.on("delete", (kv) => this.event(kv, () => this.remove(String(kv.key))));
        watcher.on("connected", reread);
        watcher.on("error", failed);
        reread();
      });
    } finally {
      watcher.removeAllListeners("put").removeAllListeners("delete").removeAllListeners("connected");
      watcher.cancel().catch(() => {});
    }
  }

  event(kv, apply) {
    const revision = Number(kv.mod_revision);
    if (revision > this.read) {
      this.seen = revision;
      apply();
    }
  }

  async reread() {
    const answer = await this.client.getAll().prefix(this.prefix).exec();
    const revision = Number(answer.header.revision);
    if (revision < this.seen) {
      return this.reread(); // an event has overtaken the answer
    }
    this.read = revision;
    answer.kvs.forEach((kv) => this.put(kv));
    const there = new Set(answer.kvs.map((kv) => String(kv.key)));
    [...this.revisions.keys()].filter((key) => !there.has(key)).forEach((key) => this.remove(key));
  }

  put(kv) {
    const key = String(kv.key);
    if (this.revisions.get(key) !== kv.mod_revision) {
      this.revisions.set(key, kv.mod_revision);
      console.log("PUT", key, String(kv.value));
    }
  }

  remove(key) {
    if (this.revisions.delete(key)) {
      console.log("DELETE", key);
    }
  }
}

main().then(
  () => process.exit(0), // the package leaves timers behind that would keep the process
  (e) => {
    console.error(e);
    process.exit(1);
  },
);
