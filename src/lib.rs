//! circus-agent supervises processes and the sockets that they share, and keeps what must be alone in the cluster alone.
//!
//! This page is the map of the code. It is read from the top down, and so is the code.
//!
//! # The one idea
//!
//! **What is decided is kept apart from what is done.** One pure function decides,
//! [`Node::step`](model::node::Node::step); one loop feeds it, [`agent`]; adapters obey.
//!
//! ```text
//!   doors (control socket, Redis bus, ZeroMQ, signals)  kernel (exits, sockets)   Redis or file locks (grants)
//!                       \                                  |                         /
//!                        \______________ Event ___________ | _______________________/
//!                                                          v
//!                              Node::step(now, event, &mut actions)      pure; owns all policy state
//!                                                          |
//!                         _______________ Action _________ | _______________________
//!                        /                                 v                        \
//!          Reply, Relay, Publish, Show   Bind, Spawn, Signal, Kill, Guard, Check, Hook   AskLease
//! ```
//!
//! Six words carry the product: **Spec** (what should be), **Event** (what happened), **Command** (what someone asks;
//! it arrives as an Event), **Action** (what to do about it), **Snapshot** (what others may see), and the
//! **machines** that turn one into the other: Process ⊂ Watcher ⊂ Node, and Lease ⊂ Watcher.
//!
//! # Layers
//!
//! Imports point down only, and modules of one line do not know each other (`tests/tidy.rs` draws the arrows):
//!
//! ```text
//!   bin → cli → lord | plugins → agent, client → cluster | config | control | discovery | host | systemd | view | zmq
//!       → unix | wire → model
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`model`] | what is decided: pure, total, only std and regular expressions; time is an argument |
//! | [`wire`] | JSON promised to others ↔ the model's types |
//! | [`unix`] | a socket at a path: private, never two, gone with its owner |
//! | [`config`] | an ini file, or what `set` and `add` say → a Spec, or every problem with its line; files of other supervisors → one of ours |
//! | [`host`] | this machine: sockets opened; programs started, watched, checked, guarded, ended, measured; their output; hooks |
//! | [`cluster`] | the shared world: leases, the registry and the bus over Redis, or leases by file locks |
//! | [`control`] | the control socket: lines in, lines out, and streams of lines |
//! | [`zmq`] | the doors of Circus's own clients: its protocol, who asks, who listens |
//! | [`discovery`] | who looks for an agent over UDP is told where it is |
//! | [`systemd`] | what the service manager is told, and the sockets that it hands over |
//! | [`view`] | Replies and streams → tables and lines for people, and the screen of circus-top: pure |
//! | [`agent`] | wires it all: wait in one `select!`, decide in `step`, act in `perform`; tell followers what happens |
//! | [`client`] | what circusctl and circus-top do: find an agent, or Redis, and ask, follow, or hold a drill |
//! | [`plugins`] | Circus's plugins: policies that watch an agent from a process of their own, as its clients |
//! | [`lord`] | a legion's lord process: does what is to be done when this node comes to lead, and when it ceases to |
//! | [`cli`] | command lines, the shell, exit codes, the log |
//!
//! Beside them, `lua/` holds the scripts that alone write leases and the registry; each says its invariant in its head.
//!
//! # Reading order
//!
//! 1. [`model::spec`], [`model::event`], [`model::command`], [`model::plan`]: the vocabulary.
//! 2. [`model::restart`], [`model::checkup`], [`model::process`]: one process. [`model::lease`]: one promise to the
//!    cluster; [`model::election`] and [`model::attendance`]: who of several asks for it, and who is known to be there;
//!    [`model::vote`]: what several servers say of it; [`model::pause`]: that nobody is to have it; [`model::history`]: how it was kept; [`model::drill`]: how that is
//!    judged when it was put to the test; [`model::runs`]: what became of the times of a schedule.
//! 3. [`model::watcher`], with its `settle`, `roll`, `sockets`, `demand`, `cron`, `hooks`, `tenure`, `legion`, `follow`,
//!    `seen` and `explain`: a number of processes, kept true. [`model::explain`]: what is said to who asks why.
//! 4. [`model::roster`]: who is meant by a name, a pattern, a label; [`model::placement`]: who gets the next
//!    process; [`model::rollout`]: whose turn it is. [`model::node`], with its `order`, `changes`, `sockets`, `rename` and `pauses`:
//!    who comes after whom, what a changed file changes, and what a new name.
//! 5. `lua/take.lua`, `lua/refresh.lua`, `lua/release.lua`: who may have a lease.
//! 6. [`host`]: `process`, the life of one as a task; [`host::guard`], why a killed or frozen agent leaves no singleton
//!    behind; [`host::output`], why a full disk holds up nobody; `socket`, why a reload refuses no connection.
//! 7. [`agent`]: how the two sides meet; [`agent::drill`]: how an agent is harmed on purpose, and who tells of it.
//!
//! # Who owns what
//!
//! | state | owner | how others see it |
//! |---|---|---|
//! | what should be, as the file and commands have made it | [`model::node::Node`], on the agent's loop | `options`, a Plan |
//! | wanted and actual processes, leases, what is known of the store, open requests and hooks, deadlines | the same | a Snapshot |
//! | which sockets there are, who gets which, who sleeps | the same | `listsockets`, a Snapshot |
//! | pids, pidfds, cgroups, guards, checks that are under way | [`host::Host`] and its tasks | events |
//! | files that tell programs who leads | `agent::lordship`, on a thread of its own | the directory `CIRCUS_LEGIONS` |
//! | listeners, and the paths they are bound at | `host::socket` | events |
//! | output of processes | [`host::output`]: a reader for each pipe, one writer for each place | [`host::output::Hub`] |
//! | modules of Python hooks and streams | a helper process for each watcher | events |
//! | the latest events, and who follows them | [`agent::follow`] | streams |
//! | who has subscribed over ZeroMQ, and what waits for them | [`zmq::Publisher`] | messages |
//! | who watches, until when, and the last hour for them | [`model::node::Node`] | frames |
//! | of whom Circus's clients were told, and when | a task for each door of statistics | messages |
//! | the Redis connections and their time-outs | [`cluster::Redis`] and its tasks | events |
//! | a singleton's child and its deadline | its guard, a process of its own | events |
//! | what a drill's witness has seen | the witness, a process of its own that outlives the agent | the history of the lease |
//! | leases, what has been with them and with schedules under them, the registry | Redis, only through `lua/`; or the state directory | everybody |
//! | what became of a schedule without a lease | its watcher, on the agent's loop | `history` |
//! | whether a legion's `on_lord` has been done, and so its `on_unlord` is to be | its lord process |
//! | what a plugin has seen | its own process | – |
//!
//! # What is kept true
//!
//! - A singleton's child runs only under a lease that is valid now. Validity counts from when the lease was asked for,
//!   on `CLOCK_BOOTTIME`, less a margin; at its end the guard kills the child's whole tree, whatever the agent does.
//! - What `on_lord` has set up `on_unlord` undoes, once: after the followers are gone, before the lease is, whatever becomes of
//!   the agent.
//! - A lease is released only after nothing of the child's tree is left; the next holder may start at that moment.
//! - What follows a legion runs under its leader's lease, which is released only when nothing of it is left either. Who is
//!   a member decides who asks for a lease, never who has it.
//! - While a lease is paused nobody is granted it, and nobody killed for that: who has it gives it back in good order.
//! - An absent lease is never permission to start ([`cluster::scripts`]).
//! - Of several independent servers most decide, and one alone decides nothing ([`model::vote`]).
//! - A time of a schedule is claimed before its run begins, and of all tenures one gets it: at most once in the cluster. The
//!   claim leaves its trace in the same step; an end that nobody told is never made up.
//! - What is no singleton depends on neither Redis, nor another node, nor a neighbour's fault.
//! - Nothing waits inside the loop. Every queue has a bound, every wait an end.
//! - Each request has one reply, each spawn one end, each hook one end within its time. Only its own watcher waits for a
//!   hook; where a lease is being lost nobody does, it is called off, and no lease is given away before the last hook.
//! - Under a seal no message counts that a stranger wrote, that was meant for another node, or that was heard before.
//! - A drill harms nobody before its witness watches, and what nobody measured counts as not kept.
//! - While nobody watches nothing is measured, and nothing of it told; however many do, it is once a second.
//! - Output blocks neither the process nor the agent: what a place does not take in time is lost, counted and told.
//! - A file with an error changes nothing. A sound one is compared with what it said before, and only the difference is
//!   applied, so that what commands did stays.
//! - A process has a slot in its watcher (`wid`) from the first thought of it to the last of its tree, and no other has it
//!   meanwhile. A rolling reload gives new ones slots that no old one has, and asks an old one to stop only when
//!   all new ones are up; a singleton's never overlap.
//! - A socket is opened before whoever uses it starts, and stays open while processes come and go. A change of sockets is
//!   made when all that it needs is open, or not at all.
//! - The agent accepts no connection. Who sleeps until the first is frozen before it is decided that nobody wants it.
//! - "Active" is a fact: all that is wanted runs, and is ready.
//!
//! # How it is proven
//!
//! | part | test |
//! |---|---|
//! | each machine | plays: beside the code, and `tests/plays` |
//! | many nodes, faults | `tests/sim`: seeded simulation around the shipped Lua scripts, with planted bugs that it must see |
//! | scripts and link | `tests/cluster.rs`, `tests/cluster`: a real redis-server, Valkey, sentinels and a Redis Cluster, and the lease cases on the simulated one too; `tests/replication.rs`: real agents where Redis has replicas; `tests/majority.rs`: several servers of which most decide; `tests/sealed.rs`: a stranger on every channel |
//! | this machine | `tests/host.rs` with `tests/host`, `tests/sockets.rs`, `tests/output.rs`, `tests/hooks.rs`, `tests/local.rs`: real children, guards, output, hooks, locks |
//! | what a lord does | `tests/lord.rs`: the real process, and the manual's recipes for who asks whether its node leads; `tests/host/lords.rs`: under its guard; `tests/chaos/address.rs`: an address that moves between hosts; `tests/chaos/legions.rs`: what uWSGI's Legion was measured at |
//! | all of it | `tests/agent.rs`, `tests/nodes.rs`, `tests/roll.rs`, `tests/rename.rs`, `tests/pause.rs`, `tests/history.rs`, `tests/legion_ctl.rs`, `tests/drill.rs`, `tests/supervision`: real agents, also where pids, memory or a device give out; `tests/soak.rs`: one in random commands and kills; `tests/daemon.rs`: in the background; `tests/circus_cluster.rs`: in circusd-cluster's words; `tests/bad_input.rs`: among strangers, the dead and the endless; `tests/pid1.rs`: as PID 1; `tests/celery.rs`: a real Celery beat; `tests/cron.rs`: each time of a schedule once, also where the node that has it dies, and what is told of it; `tests/servers`: real web servers on sockets, under load; `tests/follow.rs` with `tests/follow`: streams, of one node and of all |
//! | BeatCop's file and its lock | `tests/beatcop.rs`: the original program and agents over one lock |
//! | Circus's users lose nothing | `tests/compatibility.rs`; `tests/defects.rs`: what was broken there; the table in `docs/circus-compatibility.md`; `tests/circus`: each answer and event beside those of a real circusd with the same file, and Circus's own clients and plugins, unchanged |
//! | every fault that the promise names | `tests/chaos`: agents and Redis on hosts of their own, a checker outside; `make chaos` plays all of it and prints the table |
//! | ZeroMQ | beside the code: every prefix and every corrupted byte of a conversation; `tests/zmq.rs` with `tests/zmq`: Circus's own clients, those that mean harm, and a real circusd; `tests/circus_stats.rs`: Circus's circus-top on a real terminal |
//! | discovery | `tests/discovery.rs`: real datagrams, in a network of their own |
//! | plugins | plays beside the code, and `tests/plugins.rs`: real agents; `tests/python_plugins.rs`: those of others, with the real package circus |
//! | circus-top | `tests/top.rs`: its pictures, its keys, and the real program on a real terminal, with a Redis that goes and comes back |
//! | words and bytes | `tests/config.rs`, `tests/wire.rs`, `tests/cli.rs`, `tests/shell.rs`, `tests/systemd.rs`, `tests/packaging.rs`; `tests/fuzz.rs`: messages of nobody |
//! | the manual | `tests/docs.rs`: its files are read, its commands and links exist; `tests/fencing`: its recipes are cut out of it and tried with a real Celery, SQLite, PostgreSQL and Redis |
//! | the architecture | `tests/tidy.rs` |
//! | how fast | `benches`: each figure beside a baseline; `benches/rivals`: the same faults for others that keep a process alone |

pub mod model;

pub mod unix;
pub mod wire;

pub mod cluster;
pub mod config;
pub mod control;
pub mod discovery;
pub mod host;
pub mod systemd;
pub mod view;
pub mod zmq;

pub mod agent;
pub mod client;

pub mod lord;
pub mod plugins;

pub mod cli;
