// Does with the npm package etcd3 what its users do, and prints what the server answered.
//
//     node etcd3_node.js HOST:PORT [CA_FILE]
//
// The store must be empty. Nothing is printed that differs between two runs or two clusters, as ids, sizes and times do, so
// that two servers that answer the same print the same. What is always true is asserted.

const assert = require("node:assert");
const fs = require("node:fs");
const { once } = require("node:events");
const { noop } = require("cockatiel"); // the package's own fault handling
const { Etcd3 } = require("etcd3");

const [address, ca] = process.argv.slice(2);

function connect(auth) {
  // Its retries stay: it closes a connection with the last watch, under other requests. But several refusals in a row are
  // wanted here, and do not say that the host is down.
  const faultHandling = { host: () => noop };
  if (!ca) {
    return new Etcd3({ hosts: "http://" + address, auth, faultHandling });
  }
  const credentials = { rootCertificate: fs.readFileSync(ca) };
  return new Etcd3({ hosts: "https://" + address, credentials, auth, faultHandling });
}

async function main() {
  const client = connect();
  for (const part of [keys, ranges, transactions, leases, watches, locks, elections, namespaces, maintenance, errors, auth]) {
    console.log("#", part.name);
    await part(client);
  }
  client.close();
}

async function keys(client) {
  const first = await client.put("key").value("one");
  say("put", first.header.revision, first.prev_kv);
  assert(first.header.cluster_id !== "0" && first.header.member_id !== "0" && first.header.raft_term !== "0");
  say("put again", pair(await client.put("key").value("two").getPrevious()));
  const got = await client.get("key").exec();
  say("get", got.kvs.map(pair), got.count, got.more, got.header.revision);
  say("get serializable", await client.get("key").serializable().string());
  say("get an old revision", await client.get("key").revision(first.header.revision).string());
  say("get nothing", await client.get("none"));
  await client.put(Buffer.from([0, 255])).value(Buffer.from([255, 0]));
  say("get bytes", await client.get(Buffer.from([0, 255])).buffer());
  await client.put("large").value("x".repeat(1000000));
  say("get large", (await client.get("large").string()).length);
  say("touch", (await client.put("key").touch()).header.revision, await client.get("key").string());
  say("delete", (await client.delete().key("key")).deleted, (await client.delete().key("key")).deleted);
  say("delete with pairs", (await client.delete().key("large").getPrevious()).map((kv) => kv.value.length));
}

async function ranges(client) {
  for (const [i, name] of ["b", "c", "a"].entries()) {
    await client.put("range/" + name).value(i % 2);
  }
  await client.put("range/c").value("last");
  for (const target of ["Key", "Version", "Create", "Mod", "Value"]) {
    for (const order of ["Ascend", "Descend"]) {
      say("by", target, order, await client.getAll().prefix("range/").sort(target, order).keys());
    }
  }
  say("strings", await client.getAll().prefix("range/").strings());
  say("numbers", await client.getAll().inRange({ start: "range/a", end: "range/c" }).numbers());
  say("count", await client.getAll().prefix("range/").count());
  const some = await client.getAll().prefix("range/").limit(2).exec();
  say("limit", some.kvs.map(pair), some.more, some.count);
  const mod = some.kvs[0].mod_revision;
  say("newest", await client.getAll().prefix("range/").minModRevision(mod).keys());
  say("oldest", await client.getAll().prefix("range/").maxCreateRevision(mod).keys());
  say("delete prefix", (await client.delete().prefix("range/")).deleted);
}

async function transactions(client) {
  await client.put("txn").value("value");
  for (const [column, operator, value] of [
    ["Value", "==", "value"],
    ["Value", "!=", "value"],
    ["Version", ">", 0],
    ["Create", "==", 0],
    ["Mod", "<", 1000000],
  ]) {
    const r = await client
      .if("txn", column, operator, value)
      .then(client.put("txn/" + column).value("yes"), client.get("txn"))
      .else(client.delete().key("none"))
      .commit();
    say("compare", column, operator, r.succeeded, r.responses.map((one) => one.response), r.header.revision);
  }
  await client.put("account").value(1);
  const add = () => client.stm().transact(async (tx) => tx.put("account").value((await tx.get("account").number()) + 1));
  await Promise.all([add(), add(), add()]);
  say("software transactions", await client.get("account").number());
}

async function leases(client) {
  const lease = client.lease(60, { autoKeepAlive: false });
  const id = await lease.grant();
  await lease.put("lease/b").value("");
  await lease.put("lease/a").value("");
  const { kvs } = await client.get("lease/a").exec();
  assert.strictEqual(kvs[0].lease, id);
  const left = await client.leaseClient.leaseTimeToLive({ ID: id, keys: true });
  say("keys", left.keys.map(String).sort(), left.grantedTTL, left.TTL > 50 && left.TTL <= 60);
  say("keep alive once", (await lease.keepaliveOnce()).TTL);
  say("leases", (await client.leaseClient.leaseLeases()).leases.length);
  await lease.revoke();
  say("revoked", await client.getAll().prefix("lease/").count());
  await fails("keep alive revoked", lease.keepaliveOnce());

  const kept = client.lease(3);
  await kept.put("kept").value("alive");
  for (let i = 0; i < 4; i++) {
    await once(kept, "keepaliveSucceeded"); // every second: longer than it lives without
  }
  say("kept", await client.get("kept").string());
  const watcher = await client.watch().key("kept").create();
  const [deleted, lost] = [once(watcher, "delete"), once(kept, "lost")];
  await client.leaseClient.leaseRevoke({ ID: await kept.grant() });
  const [kv] = await deleted;
  say("revoked by another", pair(kv), (await lost)[0].name);

  const short = client.lease(2, { autoKeepAlive: false });
  await short.put("kept").value("short");
  const [expired] = await once(watcher, "delete");
  say("expired", pair(expired));
  await watcher.cancel();
}

async function watches(client) {
  const start = (await client.put("watch/a").value("1")).header.revision;
  await client.put("watch/a").value("2");
  await client.delete().key("watch/a");

  const all = [];
  const past = client.watch().key("watch/a").startRevision(start).withPreviousKV().watcher();
  past.on("put", (kv, previous) => all.push(["put", pair(kv), previous && pair(previous)]));
  past.on("delete", (kv, previous) => all.push(["delete", pair(kv), previous && pair(previous)]));
  while (all.length < 3) {
    await once(past, "data");
  }
  say("from the past", all);

  const prefix = await client.watch().prefix("watch/").only("delete").create();
  const deleted = once(prefix, "delete");
  await client.put("watch/b").value("3");
  await client.delete().key("watch/b");
  say("only deletes", pair((await deleted)[0]));
  await prefix.cancel();

  const again = once(past, "put");
  await client.put("watch/a").value("5");
  say("other watches go on", pair((await again)[0]));
  await past.cancel();

  const last = (await client.put("watch/a").value("6")).header.revision;
  await client.kv.compact({ revision: last, physical: true });
  const compacted = client.watch().key("watch/a").startRevision(start).watcher();
  const [error] = await once(compacted, "error");
  say("compacted", error.name, error.message);
  await fails("compact again", client.kv.compact({ revision: last }));
}

async function locks(client) {
  const lock = await client.lock("lock").acquire();
  await fails("held", client.lock("lock").acquire());
  await lock.release();
  say("with a lock", await client.lock("lock").do(() => client.get("lock").string()), await client.get("lock"));
}

async function elections(client) {
  const election = client.election("election");
  const first = election.campaign("first");
  await first.wait();
  const observer = await election.observe();
  say("elected", observer.leader(), await election.leader());
  const proclaimed = once(observer, "change");
  await first.proclaim("still first");
  say("proclaimed", (await proclaimed)[0]);
  const second = election.campaign("second");
  const waits = once(second, "_isWaiting");
  const elected = second.wait();
  await waits;
  const changed = once(observer, "change");
  await first.resign();
  await elected;
  say("resigned", (await changed)[0], await election.leader());
  await observer.cancel();
  await second.resign();
  say("nobody", await election.leader());
}

async function namespaces(client) {
  const ns = client.namespace("ns/");
  await ns.put("key").value("value");
  say("namespace", await ns.getAll().strings(), await client.get("ns/key").string());
  say("delete all in it", (await ns.delete().all()).deleted);
}

async function maintenance(client) {
  const status = await client.maintenance.status();
  say("status", status.version, status.leader === status.header.member_id);
  const { members } = await client.cluster.memberList({});
  say("members", members.map((m) => [m.name, m.peerURLs.length, m.clientURLs.length]));
  await client.maintenance.defragment();
  assert((await client.maintenance.hash()).hash > 0);
  const snapshot = await client.maintenance.snapshot();
  let size = 0;
  snapshot.on("data", (part) => (size += part.blob.length));
  await once(snapshot, "end");
  say("snapshot", size % 4096);
  const raised = await client.maintenance.alarm({ action: "Activate", alarm: "Nospace", memberID: status.header.member_id });
  say("alarm", raised.alarms.map((a) => a.alarm));
  await fails("put without space", client.put("key").value(""));
  const disarmed = await client.maintenance.alarm({ action: "Deactivate", alarm: "Nospace", memberID: status.header.member_id });
  say("disarm", disarmed.alarms.map((a) => a.alarm));
  await client.put("key").value("");
}

async function errors(client) {
  await fails("empty key", client.put("").value(""));
  await fails("no lease", client.put("key").value("").lease("404"));
  await fails("too large", client.put("key").value("x".repeat(1536 * 1024 + 1000)));
  await fails("future", client.get("key").revision(1000000).exec());
  await fails("compacted", client.get("key").revision(1).exec());
  await fails("same key twice", client.if("a", "Create", "==", 0).then(client.put("a").value(""), client.put("a").value("")).commit());
  await fails("no such member", client.cluster.memberRemove({ ID: "404" }));
}

async function auth(client) {
  const root = client.role("root");
  await root.create();
  await client.user("root").create("pass");
  await root.addUser("root");
  const readers = await client.role("readers").create();
  await readers.grant({ permission: "Read", range: client.range({ prefix: "open/" }) });
  const reader = await client.user("reader").create("word");
  await reader.addRole(readers);
  await fails("user again", client.user("reader").create("word"));
  await fails("role again", client.role("readers").create());
  await fails("no such user", client.user("none").addRole("readers"));
  await fails("no such role", reader.addRole("none"));
  say("permissions", (await readers.permissions()).map((p) => [p.permission, String(p.range.start), String(p.range.end)]));
  say("users", (await client.getUsers()).map((u) => u.name), (await reader.roles()).map((r) => r.name));
  await client.put("open/key").value("to all");
  await client.put("shut/key").value("to root");
  await client.auth.authEnable();

  await fails("nobody reads", client.get("open/key").string());
  for (const [username, password] of [["root", "word"], ["none", "word"]]) {
    const wrong = connect({ username, password });
    await fails("wrong " + username, wrong.get("open/key").string());
    wrong.close();
  }
  const [asRoot, asReader] = [connect({ username: "root", password: "pass" }), connect({ username: "reader", password: "word" })];
  say("reader reads", await asReader.get("open/key").string(), await asReader.getAll().prefix("open/").strings());
  await fails("reader reads too much", asReader.get("shut/key").string());
  await fails("reader ranges too much", asReader.getAll().keys());
  await fails("reader writes", asReader.put("open/key").value(""));
  await fails("reader compares", asReader.if("shut/key", "Version", ">", 0).then(asReader.get("open/key")).commit());
  await fails("reader administers", asReader.getRoles());
  const another = connect({ username: "reader", password: "word" }); // which the library cannot watch with again
  await fails("reader watches too much", another.watch().prefix("shut/").create());
  another.close();
  const watcher = await asReader.watch().prefix("open/").create();
  const put = once(watcher, "put");
  await asRoot.put("open/key").value("new");
  say("reader watches", (await put)[0].value.toString());
  await watcher.cancel();
  const lease = asRoot.lease(60);
  await lease.put("shut/lease").value("");
  say("root keeps alive", (await lease.keepaliveOnce()).TTL);
  await fails("reader revokes", asReader.leaseClient.leaseRevoke({ ID: await lease.grant() }));
  await lease.revoke();
  say("root locks", await asRoot.lock("lock").do(() => asRoot.getAll().prefix("shut/").keys()));
  await asRoot.user("reader").setPassword("other");
  await fails("reader with an old token", asReader.get("open/key").string());
  await asRoot.auth.authDisable();
  asRoot.close();
  asReader.close();
  await reader.delete();
  await readers.delete();
  say("nobody reads again", await client.get("open/key").string());
}

const say = (...what) => console.log(...what.map((w) => (typeof w === "string" ? w : JSON.stringify(w))));

const pair = (kv) => [String(kv.key), String(kv.value), kv.create_revision, kv.mod_revision, kv.version, kv.lease === "0"];

// fails prints how a promise is rejected.
async function fails(name, promise) {
  try {
    say(name, "went well:", await promise);
  } catch (e) {
    say(name, e.constructor.name, e.message.replace(/\d{6,}/g, "ID"));
  }
}

// The package leaves timers behind that would keep the process.
main().then(
  () => process.exit(0),
  (e) => {
    console.error(e);
    process.exit(1);
  },
);
