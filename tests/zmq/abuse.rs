//! What clients do to a door that is open, and what becomes of the others: nothing.

use std::io::{ErrorKind, Write};
use std::time::Duration;

use circus_agent::zmq::zmtp::{self, Kind};

use super::Stage;
use crate::agent::{Home, wait_for};
use crate::peer::{Peer, free_port};

/// How much an agent may have grown under what it withstands, in bytes: far less than was announced or sent.
const GROWTH: u64 = 64 << 20;

/// As many descriptors as there may be: a test has clients by the thousand.
fn may_open_many() {
    // SAFETY: both calls get a structure of their own.
    unsafe {
        let mut limit = std::mem::zeroed::<libc::rlimit>();
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        limit.rlim_cur = limit.rlim_max;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
    }
}

#[test]
fn a_thousand_clients_at_once_are_served() {
    may_open_many();
    let stage = Stage::new("");
    let mut peers: Vec<Peer> = (0..1000).map(|_| Peer::connect(stage.port)).collect();
    for (number, peer) in peers.iter_mut().enumerate() {
        peer.says(&zmtp::opening(Kind::Dealer));
        peer.asks(&format!(r#"{{"command":"numwatchers","id":{number}}}"#));
    }
    for (number, peer) in peers.iter_mut().enumerate() {
        assert_eq!(peer.hears(), Some(zmtp::Said::Ready));
        assert_eq!(peer.answer()["id"], number);
    }
    // And what they had is given back.
    let most = stage.agent.open_files();
    drop(peers);
    wait_for("their descriptors to be closed", || (stage.agent.open_files() + 1000 <= most).then_some(()));
}

#[test]
fn who_announces_more_than_may_be_is_closed_at_once() {
    let stage = Stage::new("");
    let memory = stage.agent.memory();
    let sizes = [1 << 20 | 1, 4 << 30, 1 << 40, 1 << 62, u64::MAX];
    for flags in [0x02, 0x03, 0x06] {
        for size in sizes.map(u64::to_be_bytes) {
            let mut peer = Peer::dealer(stage.port);
            peer.says(&[&[flags][..], &size].concat());
            peer.ends_closed();
        }
    }
    // Before the handshake, too.
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], &[0xff; 64]] {
        let mut peer = Peer::connect(stage.port);
        peer.says(bytes);
        peer.ends_closed();
    }
    assert!(
        stage.agent.log().contains("is closed: a message of 1048577 bytes: there may be 1048576"),
        "{}",
        stage.agent.log()
    );
    stage.answers();
    assert!(stage.agent.memory() < memory + GROWTH);
}

#[test]
fn the_silent_are_closed_and_hold_up_nobody() {
    let stage = Stage::new("");
    let silent: Vec<Peer> = (0..100)
        .map(|number| {
            let mut peer = Peer::connect(stage.port);
            // From those that say nothing to those that say almost enough.
            peer.says(&zmtp::opening(Kind::Dealer)[..number % 90]);
            peer
        })
        .collect();
    stage.answers();
    silent.into_iter().for_each(Peer::ends_closed);
    assert!(stage.agent.log().contains("did not introduce itself within 5 s"), "{}", stage.agent.log());
}

#[test]
fn who_does_not_read_its_answers_costs_a_bounded_amount_and_nobody_else() {
    let stage = Stage::new("");
    let memory = stage.agent.memory();
    let asked = zmtp::message(&[br#"{"command":"options","properties":{"name":"web"}}"#]);
    let greedy: Vec<Peer> = (0..8)
        .map(|_| {
            let mut peer = Peer::dealer(stage.port);
            peer.stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
            let many = asked.repeat(1000);
            let mut taken = 0;
            // Until nothing is taken any more.
            loop {
                match peer.stream.write(&many) {
                    Ok(count) => {
                        taken += count;
                        assert!(taken < 32 << 20, "{taken} bytes are taken of one who reads nothing");
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::WouldBlock);
                        break peer;
                    }
                }
            }
        })
        .collect();
    stage.answers();
    let grown = stage.agent.memory().saturating_sub(memory);
    assert!(grown < GROWTH, "{grown} bytes for {} who do not read", greedy.len());
}

#[test]
fn half_messages_of_many_are_bounded_together() {
    let stage = Stage::new("");
    let memory = stage.agent.memory();
    let half = [&[0x02][..], &(1_u64 << 20).to_be_bytes(), &vec![b'x'; 1 << 20 | 1][2..]].concat();
    let mut closed = 0;
    let mut peers = Vec::new();
    for _ in 0..80 {
        let mut peer = Peer::dealer(stage.port);
        // A door that has had enough hangs up on such a client.
        match peer.stream.write_all(&half) {
            Ok(()) => peers.push(peer),
            Err(_) => closed += 1,
        }
    }
    wait_for("the door to say so", || stage.agent.log().contains("is more than 33554432 bytes").then_some(()));
    stage.answers();
    let grown = stage.agent.memory().saturating_sub(memory);
    assert!(grown < 2 * GROWTH, "{grown} bytes, with {closed} cut off");
}

#[test]
fn out_of_descriptors_it_waits_and_goes_on_when_there_are_some() {
    let (home, ports) = (Home::new(), [free_port(), free_port(), free_port()]);
    let config = format!(
        "endpoint = tcp://127.0.0.1:{}\npubsub_endpoint = tcp://127.0.0.1:{}\nstats_endpoint = tcp://127.0.0.1:{}\n\
         [watcher:web]\ncmd = sleep 1000\n",
        ports[0], ports[1], ports[2]
    );
    home.configure("a", &config);
    let mut agent = home.launch_by("a", &["sh", "-c", "ulimit -n 60; exec \"$@\"", "sh"]);
    agent.answers();
    agent.comes_to("web", "active");
    let peers: Vec<Peer> = ports.iter().flat_map(|port| (0..16).map(|_| Peer::connect(*port))).collect();
    agent.logs("accept failed: Too many open files");
    let (used, log) = (agent.cpu(), agent.log().matches("accept failed").count());
    std::thread::sleep(Duration::from_secs(1));
    let busy = agent.cpu() - used;
    assert!(busy < Duration::from_millis(500), "busy for {busy:?} of a second");
    assert!(agent.log().matches("accept failed").count() <= log + 3, "{}", agent.log());
    drop(peers);
    let mut peer = Peer::dealer(ports[0]);
    peer.asks(r#"{"command":"numwatchers","id":1}"#);
    assert_eq!(peer.answer()["numwatchers"], 1);
}

#[test]
fn clients_that_are_cut_off_leave_nothing_behind() {
    let stage = Stage::new("");
    let before = stage.agent.open_files();
    for _ in 0..200 {
        let mut peer = Peer::dealer(stage.port);
        peer.asks(r#"{"command":"options","properties":{"name":"web"}}"#);
        let linger = socket2::SockRef::from(&peer.stream).set_linger(Some(Duration::ZERO));
        linger.expect("an end by RST");
    }
    wait_for("all descriptors to be closed", || (stage.agent.open_files() <= before).then_some(()));
    stage.answers();
}
