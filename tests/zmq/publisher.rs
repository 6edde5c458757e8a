//! A publisher, and subscribers of pyzmq: who keeps up hears all of it, and who does not costs a bounded amount.

use std::fs;
use std::time::Duration;

use circus_agent::model::spec::ZmqAddress;
use circus_agent::zmq::{Listener, Publisher};

use crate::peer::{Python, free_port};

/// How many messages of half a kilobyte are told.
const MESSAGES: usize = 200_000;

/// This process's memory in bytes: the publisher lives in it.
fn memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("this process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(100), test).await.expect("the test hangs") });
}

fn publisher() -> (Publisher, String) {
    let place = format!("tcp://127.0.0.1:{}", free_port());
    let listener = Listener::bind("[circus] pubsub_endpoint", &ZmqAddress::parse(&place).unwrap(), false, None);
    (Publisher::new(listener.unwrap()), place)
}

/// Runs what waits for a child beside the publisher.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("no panic")
}

const SUBSCRIBER: &str = r#"
socket = context.socket(zmq.SUB)
socket.RCVHWM = 0 if sys.argv[2] == 'fast' else 1
socket.setsockopt(zmq.SUBSCRIBE, b'count.')
socket.connect(sys.argv[1])
say(socket.recv_multipart()[0].decode())
if sys.argv[2] == 'fast':
    count = 0
    while True:
        topic, body = socket.recv_multipart()
        if topic == b'count.end': break
        count += topic == b'count.one'
    say(count)
else:
    input()
"#;

#[test]
fn a_stopped_subscriber_loses_messages_and_delays_nobody() {
    run(async {
        let (publisher, place) = publisher();
        let start = |kind: &'static str| {
            let place = place.clone();
            beside(move || Python::start(SUBSCRIBER, &[&place, kind]))
        };
        let mut ready = Vec::new();
        for kind in ["slow", "fast", "fast"] {
            let mut python = start(kind).await;
            let mut joined = tokio::task::spawn_blocking(move || {
                assert_eq!(python.line(), "count.begin");
                python
            });
            // Until it is heard to have subscribed.
            let python = loop {
                publisher.publish("count.begin", "{}");
                if let Ok(python) = tokio::time::timeout(Duration::from_millis(20), &mut joined).await {
                    break python.expect("a subscriber");
                }
            };
            ready.push(python);
        }
        ready[0].signal(libc::SIGSTOP);
        let before = memory();
        let body = "x".repeat(480);
        for number in 0..MESSAGES {
            publisher.publish("count.one", &body);
            // As often as an agent's loop comes round.
            if number % 100 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        let grown = memory().saturating_sub(before);
        publisher.publish("count.end", "{}");
        for mut python in ready.split_off(1) {
            assert_eq!(beside(move || python.line()).await, MESSAGES.to_string());
        }
        // Most of a hundred megabytes was for somebody who does not read.
        assert!(grown < 32 << 20, "it has grown by {grown} bytes");
        ready[0].signal(libc::SIGCONT);
    });
}

#[test]
fn it_is_known_whether_anybody_has_subscribed() {
    run(async {
        let (publisher, place) = publisher();
        let mut heard = publisher.is_heard();
        assert!(!*heard.borrow());
        let mut python = beside(move || Python::start(SUBSCRIBER, &[&place, "slow"])).await;
        heard.wait_for(|heard| *heard).await.unwrap();
        publisher.publish("count.other", "{}");
        publisher.publish("other", "{}");
        let mut python = beside(move || {
            assert_eq!(python.line(), "count.other");
            python
        })
        .await;
        beside(move || {
            python.go_on();
            python.ends();
        })
        .await;
        heard.wait_for(|heard| !*heard).await.unwrap();
    });
}
