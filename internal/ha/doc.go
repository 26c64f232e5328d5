// Ha shows what Soniq does when PostgreSQL fails over. It makes a cluster on loopback: Patroni
// with etcd and three PostgreSQL nodes, HAProxy and PgBouncer before them; three workers,
// producers, a hook and followers of dead letters, each by other ways to the cluster; and
// breaks it, again and again. Then it counts.
//
//	clients --- PgBouncer -- HAProxy --+-- link -- node 1 -- link -- etcd
//	        \                          +-- link -- node 2 -- link -- etcd
//	         \-- all hosts in the URL -+-- link -- node 3 -- link -- etcd
//
// All that a node says and hears goes through its links, proxies of this program. A
// partition freezes them: connections stay open, and nothing comes through.
//
// What counts is decided by a table that triggers write, ha.log: it has each step of each
// job, in the transaction of that step. What the old primary has in it and the promoted
// server has not is what replication has lost; whatever else is missing, or done twice,
// Soniq has lost or doubled. The log of an old primary is read before it rejoins: of a
// killed one from a copy of its files, of a cut-off one past its links.
//
// 'make ha' runs it; .ci/ha installs what it needs and ends what it leaves behind.
package main
