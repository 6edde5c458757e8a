//! Discovery over UDP: real agents in a network of their own are looked for with real datagrams.

#[path = "support/agent.rs"]
mod agent;

use std::fs;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use agent::{Agent, Home, PATIENCE};

/// The group of these tests, which no agent has unless it is told so.
const GROUP: &str = "239.219.251.97";
const PORT: u16 = 12_027;

/// Does this where there is no network but `lo`, on which nothing else is; what it starts is there, too.
fn in_a_network_of_its_own(work: fn()) {
    let there = thread::spawn(move || {
        // SAFETY: unshare takes a number.
        let made = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(made, 0, "this test needs root and network namespaces: {}", std::io::Error::last_os_error());
        ip("link set lo up");
        work();
    });
    if let Err(panic) = there.join() {
        std::panic::resume_unwind(panic);
    }
}

fn ip(words: &str) {
    let done = Command::new("ip").args(words.split(' ')).output().expect("ip, of iproute2");
    assert!(done.status.success(), "ip {words}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Somebody who looks for agents.
struct Seeker(UdpSocket);

impl Seeker {
    fn new() -> Seeker {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Seeker(socket)
    }

    fn ask(&self, host: &str, question: &[u8]) {
        self.0.send_to(question, (host, PORT)).expect("a datagram leaves");
    }

    fn hears(&self) -> String {
        let mut answer = [0; 1500];
        let (count, _) = self.0.recv_from(&mut answer).expect("an answer");
        String::from_utf8(answer[..count].to_vec()).expect("text")
    }

    /// How many answers wait.
    fn heard(&self) -> usize {
        self.0.set_nonblocking(true).expect("a socket");
        let count = std::iter::from_fn(|| match self.0.recv_from(&mut [0; 1500]) {
            Ok(_) => Some(()),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                None
            }
        })
        .count();
        self.0.set_nonblocking(false).expect("a socket");
        count
    }
}

fn agent(home: &Home, name: &str, port: u16) -> Agent {
    let discovered = format!("multicast_endpoint = udp://{GROUP}:{PORT}\nendpoint = tcp://127.0.0.1:{port}\n");
    home.agent(name, &discovered)
}

fn answer(port: u16) -> String {
    format!(r#"{{"endpoint": "tcp://127.0.0.1:{port}"}}"#)
}

#[test]
fn whoever_asks_is_told_where_commands_are_taken_once_there_is_a_network() {
    in_a_network_of_its_own(|| {
        let home = Home::new();
        let first = agent(&home, "first", 5555);
        // No way leads to any group.
        first.logs(&format!("multicast_endpoint udp://{GROUP}:{PORT}: cannot join the group: No such device"));
        first.logs("this agent is not discovered over UDP, trying again every 5 s");
        ip("route add multicast 239.0.0.0/8 dev lo");
        first.logs("who asks there is told of tcp://127.0.0.1:5555");

        let seeker = Seeker::new();
        // What circus-web sends is the first.
        for question in [&b"\"\""[..], b"", b"\xff\0", &[b'x'; 1400]] {
            for host in [GROUP, "127.0.0.1"] {
                seeker.ask(host, question);
                assert_eq!(seeker.hears(), answer(5555), "to {host}");
            }
        }

        let second = agent(&home, "second", 6555);
        second.logs("who asks there is told of tcp://127.0.0.1:6555");
        seeker.ask(GROUP, b"\"\"");
        let mut both = [seeker.hears(), seeker.hears()];
        both.sort();
        assert_eq!(both, [answer(5555), answer(6555)], "each of a group answers for itself");
    });
}

#[test]
fn an_answer_is_no_question_and_a_flood_of_them_is_answered_slowly() {
    in_a_network_of_its_own(|| {
        ip("route add multicast 239.0.0.0/8 dev lo");
        let home = Home::new();
        let agent = agent(&home, "first", 5555);
        agent.logs("who asks there is told of");
        let (other_agent, seeker) = (Seeker::new(), Seeker::new());
        other_agent.ask("127.0.0.1", answer(6555).as_bytes());
        seeker.ask("127.0.0.1", b"");
        seeker.hears();
        assert_eq!(other_agent.heard(), 0, "two agents would go on for ever");

        let began = Instant::now();
        (0..100).for_each(|_| seeker.ask("127.0.0.1", b""));
        (0..100).for_each(|_| drop(seeker.hears()));
        let least = Duration::from_millis(10) * 98;
        assert!(began.elapsed() >= least, "100 answers within {:?}", began.elapsed());
    });
}

#[test]
fn nobody_is_answered_unless_a_file_asks_for_it_and_has_an_endpoint() {
    in_a_network_of_its_own(|| {
        ip("route add multicast 239.0.0.0/8 dev lo");
        let home = Home::new();
        let quiet = home.agent("quiet", "endpoint = tcp://127.0.0.1:5555\n");
        let nowhere = home.agent("nowhere", &format!("multicast_endpoint = udp://{GROUP}:{PORT}\n"));
        nowhere.logs("`multicast_endpoint` has no effect without `endpoint`");
        for agent in [&quiet, &nowhere] {
            let table = fs::read_to_string(format!("/proc/{}/net/udp", agent.pid())).expect("its network's sockets");
            assert_eq!(table.lines().count(), 1, "{table}");
        }
    });
}
