//! The ZeroMQ doors: Circus's own clients are served, nobody harms anybody else, and circusctl comes to a circusd.

#[path = "zmq/abuse.rs"]
mod abuse;
#[path = "support/agent.rs"]
mod agent;
#[path = "zmq/circusd.rs"]
mod circusd;
#[path = "zmq/peer.rs"]
mod peer;
#[path = "zmq/publisher.rs"]
mod publisher;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;

use serde_json::json;

use agent::{Agent, Home, wait_for};
use peer::{Peer, Python, free_port};

/// An agent with a watcher `web` and an `endpoint` at a port of its own.
struct Stage {
    home: Home,
    agent: Agent,
    port: u16,
}

impl Stage {
    fn new(circus: &str) -> Stage {
        let (home, port) = (Home::new(), free_port());
        let config = format!("{circus}\nendpoint = tcp://127.0.0.1:{port}\n[watcher:web]\ncmd = sleep 1000\n");
        let agent = home.agent("a", &config);
        agent.comes_to("web", "active");
        Stage { home, agent, port }
    }

    fn endpoint(&self) -> String {
        format!("tcp://127.0.0.1:{}", self.port)
    }

    /// Asks something that always has an answer.
    #[track_caller]
    fn answers(&self) {
        let mut peer = Peer::dealer(self.port);
        peer.asks(r#"{"command":"numwatchers","id":"n"}"#);
        assert_eq!(peer.answer()["numwatchers"], 1);
    }
}

#[test]
fn circuss_own_client_and_circusctl_are_answered() {
    let stage = Stage::new("");
    let script = r#"
client = CircusClient(endpoint=sys.argv[1], timeout=20)
say(client.send_message('list')['watchers'])
say(client.send_message('restart', name='web', waiting=True)['status'])
"#;
    assert_eq!(Python::start(script, &[&stage.endpoint()]).said(), "['web']\nok\n");
    let script = "from circus.circusctl import main\nsys.argv = ['circusctl', '--endpoint', *sys.argv[1:]]\nmain()\n";
    assert_eq!(Python::start(script, &[&stage.endpoint(), "status"]).said(), "web: active\n");
}

#[test]
fn a_cast_has_no_answer_and_answers_come_with_their_ids() {
    let stage = Stage::new("");
    let mut peer = Peer::dealer(stage.port);
    peer.asks(r#"{"command":"incr","properties":{"name":"web"},"msg_type":"cast","id":1}"#);
    peer.asks(r#"{"command":"numwatchers","id":["two",2]}"#);
    peer.asks("no JSON");
    peer.asks("");
    peer.asks(r#"{"command":"numwatchers"}"#);
    assert_eq!(peer.answer()["id"], json!(["two", 2]));
    for _ in 0..2 {
        let wrong = peer.answer();
        assert_eq!((&wrong["status"], &wrong["errno"]), (&json!("error"), &json!(1)), "{wrong}");
    }
    assert_eq!(peer.answer()["id"], json!(null));
    wait_for("the cast to be done", || (stage.agent.pids("web").len() == 2).then_some(()));
}

#[test]
fn bytes_that_are_no_text_are_no_json() {
    let stage = Stage::new("");
    let mut peer = Peer::dealer(stage.port);
    peer.says(&circus_agent::zmq::zmtp::message(&[b"{\"command\":\"\xff\"}"]));
    assert_eq!(peer.answer()["errno"], 1);
}

#[test]
fn the_request_of_a_req_is_logged_once_and_not_answered() {
    let stage = Stage::new("");
    let mut peer = Peer::dealer(stage.port);
    for _ in 0..3 {
        peer.says(&circus_agent::zmq::zmtp::message(&[b"", br#"{"command":"numwatchers"}"#]));
    }
    peer.asks(r#"{"command":"numwatchers","id":"mine"}"#);
    assert_eq!(peer.answer()["id"], "mine");
    assert_eq!(stage.agent.log().matches("unexpected message of 2 frames").count(), 1);
    let script = r#"
socket = context.socket(zmq.REQ)
socket.connect(sys.argv[1])
socket.send(b'{"command":"numwatchers"}')
input()
say(socket.poll(0))
"#;
    let mut python = Python::start(script, &[&stage.endpoint()]);
    wait_for("its request to be read", || {
        (stage.agent.log().matches("unexpected message of 2 frames").count() == 2).then_some(())
    });
    python.go_on();
    assert_eq!(python.said(), "0\n");
}

#[test]
fn a_stream_is_refused_and_the_connection_stays() {
    let stage = Stage::new("");
    let mut peer = Peer::dealer(stage.port);
    peer.asks(r#"{"command":"events","id":1}"#);
    let refused = peer.answer();
    assert!(refused["reason"].as_str().unwrap().contains("from a control socket only"), "{refused}");
    peer.asks(r#"{"command":"numwatchers","id":2}"#);
    assert_eq!(peer.answer()["numwatchers"], 1);
}

#[test]
fn two_clients_of_one_identity_are_both_served() {
    let stage = Stage::new("");
    let script = r#"
def connected():
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.IDENTITY, b'the same')
    socket.connect(sys.argv[1])
    socket.RCVTIMEO = 20000
    return socket
def ask(socket, id):
    socket.send(json.dumps({'command': 'numwatchers', 'id': id}).encode())
    say(json.loads(socket.recv())['id'])
first = connected()
ask(first, 1)
second = connected()
ask(second, 2)
ask(first, 3)
"#;
    assert_eq!(Python::start(script, &[&stage.endpoint()]).said(), "1\n2\n3\n");
}

#[test]
fn a_client_that_wants_signs_of_life_gets_them() {
    let stage = Stage::new("");
    let mut peer = Peer::dealer(stage.port);
    peer.says(b"\x04\x0e\x04PING\x00\x0acontext");
    let mut frame = [0; 14];
    std::io::Read::read_exact(&mut peer.stream, &mut frame).unwrap();
    assert_eq!(&frame, b"\x04\x0c\x04PONGcontext");
    // libzmq hangs up, and connects again, where its PINGs are not answered.
    let script = r#"
from zmq.utils.monitor import recv_monitor_message
socket = context.socket(zmq.DEALER)
socket.HEARTBEAT_IVL, socket.HEARTBEAT_TIMEOUT = 50, 250
monitor = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
socket.connect(sys.argv[1])
say('cut off' if monitor.poll(1500) else 'connected')
"#;
    assert_eq!(Python::start(script, &[&stage.endpoint()]).said(), "connected\n");
}

#[test]
fn who_subscribes_is_told_what_it_wants_and_nothing_else() {
    let stage = Stage::new(&format!("pubsub_endpoint = tcp://127.0.0.1:{}", free_port()));
    let script = r#"
client = CircusClient(endpoint=sys.argv[1], timeout=20)
place = client.send_message('globaloptions', option='pubsub_endpoint')['options']['pubsub_endpoint']
def subscriber(kind, *topics):
    socket = context.socket(kind)
    socket.RCVTIMEO = 20000
    socket.connect(place)
    for topic in topics:
        if kind == zmq.SUB: socket.setsockopt(zmq.SUBSCRIBE, topic)
        else: socket.send(b'\x01' + topic)
    return socket
def until(socket, last):
    words = []
    while not words or words[-1] != last:
        topic, body = socket.recv_multipart()
        assert json.loads(body)['time'] > 1e9
        words.append(topic.decode())
    return words
def restart(): client.send_message('restart', name='web', waiting=True)
everything, starts = subscriber(zmq.SUB, b'watcher.'), subscriber(zmq.SUB, b'watcher.web.start', b'watcher.web.spawn')
old = subscriber(zmq.XSUB, b'watcher.web.stop', b'watcher.web.start')
# Until all of them are heard.
poller = zmq.Poller()
for socket in (everything, starts, old): poller.register(socket, zmq.POLLIN)
while len(poller.poll(200)) < 3: restart()
for socket in (everything, starts, old):
    while socket.poll(200): socket.recv_multipart()
restart()
last = 'watcher.web.start'
say(*until(everything, last))
say(*until(starts, last))
say(*until(old, last))
starts.setsockopt(zmq.UNSUBSCRIBE, b'watcher.web.spawn')
old.send(b'\x00watcher.web.stop')
# What is asked later is known earlier only where it is the same connection: until it is seen to be known.
while 'watcher.web.spawn' in (restart(), until(starts, last))[1]: pass
for socket in (everything, starts, old):
    while socket.poll(200): socket.recv_multipart()
restart()
say(*until(starts, last))
say(*until(old, last))
"#;
    let said = Python::start(script, &[&stage.endpoint()]).said();
    let words = |words: &[&str]| words.iter().map(|word| format!("watcher.web.{word}")).collect::<Vec<_>>().join(" ");
    let expected = [
        words(&["kill", "reap", "stop", "spawn", "start"]),
        words(&["spawn", "start"]),
        words(&["stop", "start"]),
        words(&["start"]),
        words(&["start"]),
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn a_socket_file_is_private_replaces_a_stale_one_and_goes_with_the_agent() {
    let home = Home::new();
    let (endpoint, events) = (home.file("endpoint"), home.file("events"));
    drop(UnixListener::bind(&endpoint).unwrap());
    assert!(endpoint.exists());
    // As root, somebody else's; as anybody else, his own.
    // SAFETY: it reads a number.
    let root = unsafe { libc::getuid() } == 0;
    let uid = if root { 65534 } else { fs::metadata(&endpoint).unwrap().uid() };
    let config = format!(
        "endpoint = ipc://{}\npubsub_endpoint = ipc://{}\nendpoint_owner = {uid}\n[watcher:web]\ncmd = sleep 1000\n",
        endpoint.display(),
        events.display(),
    );
    let mut agent = home.agent("a", &config);
    for path in [&endpoint, &events] {
        let file = fs::metadata(path).unwrap();
        assert_eq!((file.permissions().mode() & 0o777, file.uid()), (0o600, uid));
    }
    let script = "say(CircusClient(endpoint=sys.argv[1], timeout=20).send_message('numwatchers')['numwatchers'])\n";
    assert_eq!(Python::start(script, &[&format!("ipc://{}", endpoint.display())]).said(), "1\n");

    // Another agent does not take it away.
    home.configure("b", &format!("endpoint = ipc://{}\n", endpoint.display()));
    let mut other = home.launch("b", &[]);
    other.exits(69);
    let why = format!("[circus] endpoint ipc://{}: another process listens there", endpoint.display());
    assert!(other.log().contains(&why), "{}", other.log());
    assert!(endpoint.exists());

    agent.ctl(&home, &["quit"]).expect(0);
    agent.exits(0);
    assert!(!endpoint.exists() && !events.exists());
}

#[test]
fn a_taken_port_is_told_with_its_key() {
    let (home, taken) = (Home::new(), std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let address = format!("tcp://{}", taken.local_addr().unwrap());
    home.configure("a", &format!("stats_endpoint = {address}\n"));
    let mut agent = home.launch("a", &[]);
    agent.exits(69);
    let why = format!("[circus] stats_endpoint {address}: another process listens there");
    assert!(agent.log().contains(&why), "{}", agent.log());
}

#[test]
fn quit_is_answered_and_its_events_are_told_before_the_doors_close() {
    let mut stage = Stage::new(&format!("pubsub_endpoint = tcp://127.0.0.1:{}", free_port()));
    let script = r#"
client = CircusClient(endpoint=sys.argv[1], timeout=20)
socket = context.socket(zmq.SUB)
socket.RCVTIMEO = 20000
socket.setsockopt(zmq.SUBSCRIBE, b'watcher.web.')
socket.connect(client.send_message('globaloptions', option='pubsub_endpoint')['options']['pubsub_endpoint'])
while not socket.poll(100): client.send_message('restart', name='web', waiting=True)
say(client.send_message('quit', waiting=True)['status'])
words = []
while words[-3:] != ['kill', 'reap', 'stop']: words.append(socket.recv_multipart()[0].decode().rsplit('.')[-1])
"#;
    assert_eq!(Python::start(script, &[&stage.endpoint()]).said(), "ok\n");
    stage.agent.exits(0);
}

#[test]
fn all_that_was_answered_is_told_before_the_doors_close() {
    let mut stage = Stage::new("");
    let mut peer = Peer::dealer(stage.port);
    // More than a connection holds while nobody reads.
    for id in 0..60 {
        peer.asks(&format!(r#"{{"command":"options","properties":{{"name":"{}"}},"id":{id}}}"#, "x".repeat(60 << 10)));
    }
    peer.asks(r#"{"command":"quit","id":60,"properties":{"waiting":true}}"#);
    for id in 0..=60 {
        assert_eq!(peer.answer()["id"], id);
    }
    stage.agent.exits(0);
}

#[test]
fn a_changed_endpoint_waits_for_a_restart_and_is_told() {
    let stage = Stage::new("");
    let port = free_port();
    stage.home.configure("a", &format!("endpoint = tcp://127.0.0.1:{port}\n[watcher:web]\ncmd = sleep 1000\n"));
    let said = stage.agent.ctl(&stage.home, &["reloadconfig"]).expect(0);
    assert!(said.out.contains("[circus] endpoint"), "{}", said.out);
    stage.answers();
}
