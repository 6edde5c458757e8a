//! A network of a test's own: hosts, each a network namespace, around one router that can cut, lose and delay.
//!
//! ```text
//!   web-1 10.9.1.2 ──┐
//!   web-2 10.9.2.2 ──┤── router ── (the test itself)
//!   redis 10.9.3.2 ──┘
//! ```
//!
//! What goes from host to host is forwarded by the router, and every fault is a rule there: packets vanish in the
//! middle, and neither side hears a word of it. The test's own thread stands in the router, beyond the reach of these
//! rules, so that it can always look at all.
//!
//! Namespaces have no names: they are held open by this process and what runs in them, so nothing is left behind even
//! where a test is killed.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The routing table of packets that are to be late.
const LATE: &str = "100";

/// One host of the network.
#[derive(Clone)]
pub struct Host {
    pub address: Ipv4Addr,
    namespace: Arc<Namespace>,
    /// The router's end of its cable.
    cable: String,
}

impl Host {
    /// Does this on the host: what is connected, bound or started in it has the host's network, and no other.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        let _there = self.namespace.enter();
        work()
    }
}

/// Hosts and the router between them.
pub struct Net {
    router: Arc<Namespace>,
    hosts: Vec<Host>,
    delay: Option<Delay>,
    _here: Inside,
}

impl Net {
    /// A router without hosts; from now on the calling thread stands in it.
    pub fn new() -> Net {
        let router = Arc::new(Namespace::new());
        let here = router.enter();
        ip(&["link set lo up"]);
        sysctl("ip_forward", "1");
        // Packets that were delayed come from elsewhere than the way back to their sender.
        sysctl("conf/all/rp_filter", "0");
        sysctl("conf/default/rp_filter", "0");
        Net { router, hosts: Vec::new(), delay: None, _here: here }
    }

    /// One host more.
    pub fn host(&mut self) -> Host {
        let number = self.hosts.len() + 1;
        let namespace = Arc::new(Namespace::new());
        let cable = format!("host{number}");
        let there = format!("/proc/{}/fd/{}", std::process::id(), namespace.0.as_raw_fd());
        ip(&[
            &format!("link add {cable} type veth peer name eth0 netns {there}"),
            &format!("addr add 10.9.{number}.1/24 dev {cable}"),
            &format!("link set {cable} up"),
        ]);
        let host = Host { address: Ipv4Addr::new(10, 9, number as u8, 2), namespace, cable };
        host.run(|| {
            ip(&[
                "link set lo up",
                &format!("addr add {}/24 dev eth0", host.address),
                "link set eth0 up",
                &format!("route add default via 10.9.{number}.1"),
            ]);
        });
        self.hosts.push(host.clone());
        host
    }

    /// Has these hear each other on a cable that no rule reaches, too: as `lan0`, with 10.8.0.1, 10.8.0.2 and so on.
    pub fn lan(&self, hosts: &[Host]) {
        ip(&["link add lan type bridge forward_delay 0", "link set lan up"]);
        for (number, host) in (1..).zip(hosts) {
            let there = format!("/proc/{}/fd/{}", std::process::id(), host.namespace.0.as_raw_fd());
            ip(&[
                &format!("link add lan{number} type veth peer name lan0 netns {there}"),
                &format!("link set lan{number} master lan up"),
            ]);
            host.run(|| ip(&[&format!("addr add 10.8.0.{number}/24 dev lan0"), "link set lan0 up"]));
        }
    }

    /// All hosts so far.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// From now on no packet passes between one of these and one of those.
    pub fn cut(&self, these: &[Host], those: &[Host]) {
        for (this, that) in these.iter().flat_map(|this| those.iter().map(move |that| (this, that))) {
            self.cut_one_way(this, that);
            self.cut_one_way(that, this);
        }
    }

    /// From now on no packet passes from this one to that one; the other way they do.
    pub fn cut_one_way(&self, this: &Host, that: &Host) {
        let (from, to) = (this.address.to_string(), that.address.to_string());
        iptables(&["-A", "FORWARD", "-s", &from, "-d", &to, "-j", "DROP"]);
    }

    /// Cuts this host off from all others.
    pub fn isolate(&self, host: &Host) {
        let address = host.address.to_string();
        iptables(&["-A", "FORWARD", "-s", &address, "-j", "DROP"]);
        iptables(&["-A", "FORWARD", "-d", &address, "-j", "DROP"]);
    }

    /// From now on this fraction of all packets is lost.
    pub fn lose(&self, fraction: f64) {
        let fraction = fraction.to_string();
        iptables(&["-A", "FORWARD", "-m", "statistic", "--mode", "random", "--probability", &fraction, "-j", "DROP"]);
    }

    /// From now on every packet is that much later.
    pub fn delay(&mut self, by: Duration) {
        self.delay = Some(Delay::start(by));
        ip(&["link set late up", &format!("route add default dev late table {LATE}")]);
        for host in &self.hosts {
            ip(&[&format!("rule add iif {} lookup {LATE}", host.cable)]);
        }
    }

    /// All is well again.
    pub fn mend(&mut self) {
        iptables(&["-F", "FORWARD"]);
        if self.delay.is_some() {
            for host in &self.hosts {
                ip(&[&format!("rule del iif {} lookup {LATE}", host.cable)]);
            }
            self.delay = None;
        }
    }

    /// The number of packets that rules have taken away so far.
    pub fn dropped(&self) -> u64 {
        let listed = self.router.run(|| command("iptables", &["-w", "-nvxL", "FORWARD"]));
        let of_rule = |line: &str| match line.contains("DROP") {
            true => line.split_whitespace().next()?.parse::<u64>().ok(),
            false => None,
        };
        listed.lines().filter_map(of_rule).sum()
    }
}

// ------------------------------------------------------------------------------------------------- namespaces

/// A network namespace, for as long as anybody has it open.
struct Namespace(File);

impl Namespace {
    fn new() -> Namespace {
        // A thread of its own enters it by making it, so that this one stays where it is.
        let made = thread::spawn(|| {
            // SAFETY: unshare takes a number.
            match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
                0 => File::open("/proc/thread-self/ns/net"),
                _ => Err(io::Error::last_os_error()),
            }
        });
        let made = made.join().expect("a thread");
        Namespace(made.unwrap_or_else(|error| {
            panic!("these tests need root and network namespaces, and may make none here: {error}")
        }))
    }

    fn enter(&self) -> Inside {
        let before = File::open("/proc/thread-self/ns/net").expect("the namespace of this thread");
        go(&self.0);
        Inside(before)
    }

    fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        let _there = self.enter();
        work()
    }
}

/// Goes back at its end.
struct Inside(File);

impl Drop for Inside {
    fn drop(&mut self) {
        go(&self.0);
    }
}

fn go(to: &File) {
    // SAFETY: setns takes a descriptor, which is open, and a number.
    let gone = unsafe { libc::setns(to.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(gone, 0, "setns: {}", io::Error::last_os_error());
}

// ------------------------------------------------------------------------------------------------- the delay

/// A way through user space on which each packet waits.
struct Delay {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Delay {
    /// Makes the device `late`: what is routed to it comes out of it again, that much later.
    fn start(by: Duration) -> Delay {
        let mut device = tun("late")
            .unwrap_or_else(|error| panic!("a delay needs /dev/net/tun, which cannot be used here: {error}"));
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        let thread = thread::spawn(move || {
            let mut waiting: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
            let mut packet = [0; 65536];
            while !ends.load(Ordering::Relaxed) {
                let longest = Duration::from_millis(20);
                let next = waiting.front().map_or(longest, |(due, _)| due.saturating_duration_since(Instant::now()));
                if readable(&device, next.min(longest)) {
                    let length = device.read(&mut packet).expect("a packet");
                    waiting.push_back((Instant::now() + by, packet[..length].to_vec()));
                }
                while waiting.front().is_some_and(|(due, _)| *due <= Instant::now()) {
                    let (_, packet) = waiting.pop_front().expect("a packet");
                    // One that nobody wants any more is lost, as on any network.
                    let _ = device.write(&packet);
                }
            }
        });
        Delay { over, thread: Some(thread) }
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A device that gives the packets which are routed to it to its reader, and takes others from its writer.
fn tun(name: &str) -> io::Result<File> {
    let device = File::options().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: all zeroes are a request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the descriptor is open, and the request lives longer than the call.
    match unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &request) } {
        0 => Ok(device),
        _ => Err(io::Error::last_os_error()),
    }
}

fn readable(file: &File, within: Duration) -> bool {
    let mut poll = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, which lives longer than the call.
    unsafe { libc::poll(&mut poll, 1, within.as_millis() as libc::c_int + 1) == 1 }
}

// ------------------------------------------------------------------------------------------------- tools

fn ip(lines: &[&str]) {
    for line in lines {
        command("ip", &line.split(' ').collect::<Vec<_>>());
    }
}

fn iptables(words: &[&str]) {
    command("iptables", &[&["-w"], words].concat());
}

fn command(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output();
    let output =
        output.unwrap_or_else(|error| panic!("these tests need {program} (`make setup` installs it): {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {errors}", words.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A setting of the namespace in which this thread is.
fn sysctl(name: &str, value: &str) {
    let path = format!("/proc/sys/net/ipv4/{name}");
    std::fs::write(&path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    /// Whether one host reaches the other, and how long that took.
    fn reaches(from: &Host, to: &Host) -> Option<Duration> {
        let listener = to.run(|| TcpListener::bind((to.address, 7000)).expect("a listener"));
        let begun = Instant::now();
        let connected = from.run(|| TcpStream::connect_timeout(&(to.address, 7000).into(), Duration::from_millis(700)));
        drop(listener);
        connected.ok().map(|_| begun.elapsed())
    }

    #[test]
    fn hosts_reach_each_other_until_they_are_cut_off_or_all_packets_are_lost() {
        let mut net = Net::new();
        let (a, b, c) = (net.host(), net.host(), net.host());
        assert!(reaches(&a, &b).is_some() && reaches(&b, &c).is_some());
        net.cut(std::slice::from_ref(&a), std::slice::from_ref(&b));
        // Nothing refuses: the packets are gone.
        assert!(reaches(&a, &b).is_none() && reaches(&b, &a).is_none());
        assert!(reaches(&a, &c).is_some() && reaches(&b, &c).is_some());
        assert!(net.dropped() >= 2);
        net.mend();
        assert!(reaches(&a, &b).is_some());
        net.isolate(&b);
        assert!(reaches(&a, &b).is_none() && reaches(&c, &b).is_none() && reaches(&a, &c).is_some());
        net.mend();
        net.lose(1.0);
        assert!(reaches(&a, &b).is_none());
        net.mend();
        assert!(reaches(&a, &b).is_some());
    }

    #[test]
    #[ignore = "needs /dev/net/tun, as `make chaos` does"]
    fn packets_are_as_late_as_is_said_and_no_longer_when_all_is_mended() {
        let mut net = Net::new();
        let (a, b) = (net.host(), net.host());
        net.delay(Duration::from_millis(150));
        let time = reaches(&a, &b).expect("a way");
        assert!(time >= Duration::from_millis(300), "{time:?}");
        net.mend();
        assert!(reaches(&a, &b).expect("a way") < Duration::from_millis(300));
    }
}
