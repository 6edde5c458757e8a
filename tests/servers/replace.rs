//! Processes that are replaced while clients ask all the time.

use std::time::Duration;

use super::agent::{send, wait_for};
use super::load::{Clients, Failure, Load, Tally};
use super::{Site, programs, times};

/// More than the servers can answer at once, so that there is always somebody in the queue, and requests under way.
const CLIENTS: Clients = Clients {
    number: 8,
    paths: &["/", "/slow?ms=20", "/", "/slow?ms=5"],
    pause: Duration::from_millis(5),
    keep_alive: false,
};

/// A listener that all share.
const TCP: &str = "host = 127.0.0.1\nport = 0";
/// A listener for each.
const TCP_EACH: &str = "host = 127.0.0.1\nport = 0\nso_reuseport = True";

/// Two processes of this server, on one socket of the name `web`.
fn two_of(cmd: &str, socket: &str, settings: &str) -> String {
    format!(
        "\n[socket:web]\n{socket}\n\n[watcher:web]\ncmd = {cmd}\nnumprocesses = 2\n\
         sockets = web\nworking_dir = {programs}\ngraceful_timeout = 20\n{settings}\n",
        programs = programs().display()
    )
}

const GUNICORN: &str = "{python}/gunicorn --bind fd://$(circus.sockets.web) wsgi";
const GUNICORN_SETTINGS: &str = "ready = notify\nstop_preset = gunicorn";

/// How many reloads are a proof.
fn reloads() -> usize {
    times("CIRCUS_RELOADS", 50)
}

/// Puts a site under load, does this, and says what the clients got.
#[track_caller]
fn under_load(site: &Site, clients: Clients, then: impl FnOnce(&Load)) -> Tally {
    site.agent.comes_to("web", "active");
    let load = Load::start(&site.address("web"), clients);
    wait_for("the first answers", || (load.answers() > 50).then_some(()));
    then(&load);
    let before = load.answers();
    wait_for("answers at the end", || (load.answers() > before + 50).then_some(()));
    let tally = load.stop();
    println!(
        "{} answers of {} processes, the slowest after {:?}; {} connections renewed; {:?}",
        tally.ok,
        tally.pids.len(),
        tally.longest,
        tally.renewed,
        tally.failures
    );
    tally
}

/// Rolling reloads under load: nobody may notice.
#[track_caller]
fn reloads_unnoticed(config: &str, reloads: usize) {
    let site = Site::start(config);
    let tally = under_load(&site, CLIENTS, |_| (0..reloads).for_each(|_| site.reload("web")));
    assert!(tally.failures.is_empty(), "{:?}", tally.failures);
    assert!(tally.pids.len() > reloads, "{reloads} reloads, and only {} processes answered", tally.pids.len());
    site.end();
}

#[test]
fn rolling_reloads_of_gunicorn_under_load_fail_no_request() {
    reloads_unnoticed(&two_of(GUNICORN, TCP, GUNICORN_SETTINGS), reloads());
}

#[test]
fn rolling_reloads_of_gunicorn_with_listeners_of_their_own_under_load_fail_no_request() {
    reloads_unnoticed(&two_of(GUNICORN, TCP_EACH, GUNICORN_SETTINGS), reloads());
}

/// It is told of it by LISTEN_FDS: with `--bind fd://3` it takes the path along when it stops, and who connects before the
/// agent has put that back is refused.
#[test]
fn rolling_reloads_of_gunicorn_on_a_unix_socket_under_load_fail_no_request() {
    let config = two_of("{python}/gunicorn wsgi", "path = {home}/web.unix", GUNICORN_SETTINGS);
    reloads_unnoticed(&config, reloads() / 5);
}

/// uvicorn cannot be exact, whoever reloads it: told to stop, it closes all connections whose requests it has not read
/// yet (`shutdown` in its server.py and its protocols), those included that it accepted a moment ago. Nothing else may be
/// lost: nobody is refused, no answer is cut, and it takes an unlucky moment of a process that ends.
#[test]
fn rolling_reloads_of_uvicorn_under_load_lose_no_more_than_what_it_closes_itself() {
    let uvicorn = "{python}/uvicorn --fd $(circus.sockets.web) --no-access-log asgi:application";
    let settings = "stop_preset = uvicorn\nready = log Uvicorn running\nstderr_stream.class = QueueStream";
    let site = Site::start(&two_of(uvicorn, TCP, settings));
    let reloads = reloads() / 5;
    for keep_alive in [false, true] {
        let clients = Clients { keep_alive, ..CLIENTS };
        let tally = under_load(&site, clients, |_| (0..reloads).for_each(|_| site.reload("web")));
        let closed = tally.count(|failure| matches!(failure, Failure::Dropped(_)));
        assert_eq!(closed, tally.failures.values().sum::<u64>(), "{:?}", tally.failures);
        assert!(closed <= 2 * reloads as u64, "{closed} closed in {reloads} reloads of two: {:?}", tally.failures);
    }
    site.end();
}

/// The load is able to see what the reloads above must not show.
#[test]
fn a_server_that_drops_what_it_has_accepted_is_noticed() {
    let site = Site::start(&two_of(GUNICORN, TCP, "ready = notify\nstop_signal = KILL"));
    let tally = under_load(&site, CLIENTS, |_| (0..5).for_each(|_| site.reload("web")));
    assert!(tally.count(|failure| matches!(failure, Failure::Dropped(_))) > 0, "{:?}", tally.failures);
    site.end();
}

/// SIGKILL for one of two, again and again. They take one connection at a time, so that one request is lost with each;
/// those who connect, or wait to be accepted, must not notice.
#[track_caller]
fn kills_refuse_nobody(socket: &str) {
    const KILLS: u64 = 10;
    let server = "{python}/chaussette --fd $(circus.sockets.web) wsgi.application";
    let site = Site::start(&two_of(server, socket, "max_retry = -1"));
    let tally = under_load(&site, CLIENTS, |load| {
        for kill in 0..KILLS {
            // In turn, as a slot whose processes keep dying has to wait longer and longer.
            let victim = site.agent.pids("web")[usize::from(kill % 2 == 1)];
            let before = load.answers();
            send(victim, libc::SIGKILL);
            wait_for("another process", || {
                let pids = site.agent.pids("web");
                (pids.len() == 2 && !pids.contains(&victim)).then_some(())
            });
            wait_for("answers meanwhile", || (load.answers() > before + 50).then_some(()));
        }
    });
    let lost = tally.count(|failure| matches!(failure, Failure::Dropped(_) | Failure::Cut(_)));
    assert_eq!(lost, tally.failures.values().sum::<u64>(), "{:?}", tally.failures);
    assert!(lost <= KILLS, "{lost} requests lost in {KILLS} kills: {:?}", tally.failures);
    site.end();
}

#[test]
fn a_killed_process_refuses_no_new_connection() {
    kills_refuse_nobody(TCP);
}

#[test]
fn a_killed_process_with_a_listener_of_its_own_refuses_no_new_connection() {
    kills_refuse_nobody(TCP_EACH);
}
