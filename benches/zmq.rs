//! What ZeroMQ costs: the same question over the control socket and over `endpoint`, one after another on one connection,
//! and of as many clients at once as Circus's tools hardly are.

#![allow(clippy::print_stdout)] // Its figures are what it is for.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use circus_agent::model::spec::ZmqAddress;
use circus_agent::zmq::Dealer;
use support::{Agent, median, print};

const QUESTIONS: usize = 2_000;
const CLIENTS: usize = 400;
const ROUNDS: usize = 25;
const REQUEST: &str = r#"{"command": "status", "properties": {"name": "web"}, "id": 1}"#;

fn main() {
    support::print_load();
    let dir = tempfile::tempdir().expect("a directory");
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
    let place = format!("tcp://127.0.0.1:{port}");
    let config = format!("endpoint = {place}\n[watcher:web]\ncmd = /bin/sleep 1000\n");
    let agent = Agent::start(dir.path(), "a", &config);

    let here = over_the_control_socket(agent.endpoint().trim_start_matches("unix://"));
    print("baseline: a question over the control socket", &here);
    let place = ZmqAddress::parse(&place).expect("an address");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let there = runtime.block_on(async {
        let mut dealer = Dealer::connect(&place).await.expect("the door");
        ask(&mut dealer, QUESTIONS).await
    });
    print("the same over ZeroMQ", &there);
    println!("{:<58} ratio of the medians {:.2}", "", median(&there).as_secs_f64() / median(&here).as_secs_f64());

    let all = runtime.block_on(async {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let place = place.clone();
                tokio::spawn(async move {
                    let mut dealer = Dealer::connect(&place).await.expect("the door");
                    ask(&mut dealer, ROUNDS).await
                })
            })
            .collect();
        let mut all = Vec::new();
        for client in clients {
            all.extend(client.await.expect("answers"));
        }
        all
    });
    print(&format!("{CLIENTS} clients at once over ZeroMQ"), &all);
}

fn over_the_control_socket(path: &str) -> Vec<Duration> {
    let mut stream = BufReader::new(UnixStream::connect(path).expect("a socket"));
    let mut once = || {
        let begun = Instant::now();
        writeln!(stream.get_mut(), "{REQUEST}").expect("a request");
        stream.read_line(&mut String::new()).expect("an answer");
        begun.elapsed()
    };
    (0..QUESTIONS).map(|_| once()).collect()
}

async fn ask(dealer: &mut Dealer, count: usize) -> Vec<Duration> {
    let mut times = Vec::new();
    for _ in 0..count {
        let begun = Instant::now();
        dealer.ask(REQUEST).expect("a request");
        dealer.next().await.expect("an answer");
        times.push(begun.elapsed());
    }
    times
}
