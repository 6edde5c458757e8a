//! Which server of a Redis Cluster has which keys, by what one of them says. Pure: answers in, addresses out.
//!
//! Invariant: an address is that of a server, `HOST:PORT`; one that the cluster itself does not know is left out.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use redis::cluster_routing::Slot;
use redis::{RedisError, Value};

/// Who has which slot, and who is there.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Slots {
    masters: HashMap<Slot, Arc<str>>,
    /// All servers, masters and replicas.
    servers: BTreeSet<Arc<str>>,
}

/// Where a question should have gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Redirect {
    /// There, as all later ones about this slot.
    Moved(Arc<str>),
    /// There, this one alone, and with `ASKING` before it: the slot is on its way.
    Ask(Arc<str>),
}

impl Slots {
    /// What `CLUSTER SLOTS` says, asked of the server at `asked`. Nothing where that is no such answer.
    pub(super) fn parse(answer: &Value, asked: &str) -> Option<Slots> {
        let mut slots = Slots::default();
        for range in array(answer)? {
            let [first, last, servers @ ..] = array(range)? else { return None };
            let mut addresses = servers.iter().map(|server| server_address(server, asked));
            let master = addresses.next().flatten();
            for slot in number(first)?..=number(last)? {
                if let Some(master) = &master {
                    slots.masters.insert(Slot::new(slot)?, Arc::clone(master));
                }
            }
            slots.servers.extend(master.into_iter().chain(addresses.flatten()));
        }
        Some(slots)
    }

    /// The server that decides about the keys of `slot`.
    pub(super) fn master(&self, slot: Slot) -> Option<&Arc<str>> {
        self.masters.get(&slot)
    }

    /// `slot` has a new master.
    pub(super) fn moved(&mut self, slot: Slot, to: &Arc<str>) {
        self.masters.insert(slot, Arc::clone(to));
        self.servers.insert(Arc::clone(to));
    }

    /// The servers that have slots.
    pub(super) fn masters(&self) -> BTreeSet<&Arc<str>> {
        self.masters.values().collect()
    }

    /// All servers.
    pub(super) fn servers(&self) -> &BTreeSet<Arc<str>> {
        &self.servers
    }
}

impl Redirect {
    /// What `error` says, where it came from the server at `asked`.
    pub(super) fn of(error: &RedisError, asked: &str) -> Option<Redirect> {
        let (to, _) = error.redirect_node()?;
        let (host, port) = to.rsplit_once(':')?;
        let to = address(Some(host), port.parse().ok()?, asked)?;
        match error.code() {
            Some("ASK") => Some(Redirect::Ask(to)),
            _ => Some(Redirect::Moved(to)),
        }
    }
}

fn array(value: &Value) -> Option<&[Value]> {
    if let Value::Array(items) = value { Some(items) } else { None }
}

fn number(value: &Value) -> Option<u16> {
    if let Value::Int(number) = value { u16::try_from(*number).ok() } else { None }
}

/// `[host, port, id, …]`.
fn server_address(server: &Value, asked: &str) -> Option<Arc<str>> {
    let [host, port, ..] = array(server)? else { return None };
    let host = match host {
        Value::BulkString(host) => Some(std::str::from_utf8(host).ok()?),
        _ => None,
    };
    address(host, number(port)?, asked)
}

/// A server without a host is where the one was that told of it; `?` is one that the cluster has not met yet.
fn address(host: Option<&str>, port: u16, asked: &str) -> Option<Arc<str>> {
    match host {
        Some("?") => None,
        None | Some("") => Some(format!("{}:{port}", asked.rsplit_once(':')?.0).into()),
        Some(host) if host.contains(':') && !host.starts_with('[') => Some(format!("[{host}]:{port}").into()),
        Some(host) => Some(format!("{host}:{port}").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(host: Option<&str>, port: i64) -> Value {
        let host = host.map_or(Value::Nil, |host| Value::BulkString(host.into()));
        Value::Array(vec![host, Value::Int(port), Value::BulkString("id".into()), Value::Array(vec![])])
    }

    fn range(first: i64, last: i64, servers: &[Value]) -> Value {
        Value::Array([&[Value::Int(first), Value::Int(last)], servers].concat())
    }

    fn slot(number: u16) -> Slot {
        Slot::new(number).unwrap()
    }

    #[test]
    fn masters_come_first_and_all_servers_are_known() {
        let answer = Value::Array(vec![
            range(0, 8000, &[server(Some("10.0.0.1"), 7000), server(Some("10.0.0.2"), 7001)]),
            range(8001, 16383, &[server(Some("::1"), 7002), server(Some(""), 7003), server(Some("?"), 7004)]),
        ]);
        let mut slots = Slots::parse(&answer, "db:6379").unwrap();
        assert_eq!(slots.master(slot(8000)).map(|at| &**at), Some("10.0.0.1:7000"));
        assert_eq!(slots.master(slot(8001)).map(|at| &**at), Some("[::1]:7002"));
        let all: Vec<&str> = slots.servers().iter().map(|at| &**at).collect();
        assert_eq!(all, ["10.0.0.1:7000", "10.0.0.2:7001", "[::1]:7002", "db:7003"]);
        slots.moved(slot(5), &"new:1".into());
        assert_eq!(slots.master(slot(5)).map(|at| &**at), Some("new:1"));
        assert_eq!(slots.masters().len(), 3);
    }

    #[test]
    fn a_server_without_a_host_is_where_it_was_told_of() {
        let slots = Slots::parse(&Value::Array(vec![range(0, 0, &[server(None, 7000)])]), "[::1]:6379").unwrap();
        assert_eq!(slots.master(slot(0)).map(|at| &**at), Some("[::1]:7000"));
    }

    #[test]
    fn what_is_no_answer_is_none() {
        for nonsense in [
            Value::Okay,
            Value::Array(vec![Value::Int(1)]),
            Value::Array(vec![range(0, 16384, &[server(Some("h"), 1)])]),
            Value::Array(vec![range(-1, 5, &[server(Some("h"), 1)])]),
        ] {
            assert_eq!(Slots::parse(&nonsense, "h:1"), None, "{nonsense:?}");
        }
        assert_eq!(Slots::parse(&Value::Array(vec![]), "h:1"), Some(Slots::default()));
    }

    #[test]
    fn a_redirect_says_where_to() {
        let error = |line: &str| redis::parse_redis_value(line.as_bytes()).unwrap().extract_error().unwrap_err();
        let of = |line| Redirect::of(&error(line), "db:6379");
        assert_eq!(of("-MOVED 42 10.0.0.1:7000\r\n"), Some(Redirect::Moved("10.0.0.1:7000".into())));
        assert_eq!(of("-ASK 42 ::1:7000\r\n"), Some(Redirect::Ask("[::1]:7000".into())));
        assert_eq!(of("-MOVED 42 :7000\r\n"), Some(Redirect::Moved("db:7000".into())));
        assert_eq!(of("-MOVED 42 ?:7000\r\n"), None);
        assert_eq!(of("-CLUSTERDOWN down\r\n"), None);
    }
}
