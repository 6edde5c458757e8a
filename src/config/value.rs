//! Texts → values of one type, or what is wrong with them.

use std::collections::BTreeSet;
use std::net::SocketAddrV4;
use std::time::Duration;

use nix::unistd::{Gid, Group, Uid, User};
use redis::IntoConnectionInfo;

use super::check;
use super::cron;
use super::hook;
use super::keys::nearest;
use super::plugin::Uses;
use super::preset::{self, Preset};
use super::problem::code;
use super::socket::{self, Domain, Origin};
use super::socket_use;
use super::stream::{self, Class};
use super::words;
use crate::model::event::SIGNALS;
use crate::model::names::{ClusterName, Label, Labels, NodeName};
use crate::model::spec::{
    Check, Convention, HealthAction, HookSpec, LogLevel, LogOutput, Majority, OnFailure, Rollover, Seeds, Sentinels,
    SocketKind, SyslogAddress, UserSpec, ZmqAddress, Zone,
};

/// The types that values have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Any text; empty: not set.
    Text,
    /// A path; empty: not set.
    Path,
    /// Words for a command line.
    Command,
    /// `yes true on 1`, `no false off 0`.
    Bool,
    /// A whole number from 0 to 2³²−1.
    Count,
    /// The same from 1.
    Times,
    /// A number from 0, with fractions.
    Amount,
    /// Bytes, or with a unit: `64k`, `10M`, `1G`.
    Size,
    /// Per cent of the machine's memory, or bytes with a unit.
    Memory,
    /// A whole number of 32 bits.
    Number,
    /// A port.
    Port,
    /// A whole number from 0, or -1 for none.
    Retries,
    /// Seconds with fractions, or with a unit: `500ms`, `15s`, `5m`, `1h`.
    Seconds,
    /// The same above zero.
    Positive,
    /// A file mode mask, octal.
    Octal,
    /// A user by name or number.
    User,
    /// A group by name or number.
    Group,
    /// A signal by name or number.
    Signal,
    /// How much is logged.
    Level,
    /// Where it is logged to.
    LogOutput,
    /// A Redis URL.
    Url,
    /// A resource limit; empty: infinite.
    Limit,
    /// A stream's class.
    Class,
    /// When a file gives way to the next.
    Rollover,
    /// A colour of the terminal.
    Colour,
    /// A syslog server.
    Syslog,
    /// How a process shows that it is ready.
    Ready,
    /// How it shows that it is well.
    Health,
    /// What is done about one that is not.
    Action,
    /// A hook.
    Hook,
    /// Names of watchers, with commas.
    Names,
    /// The name of a watcher that another one is about.
    Sibling,
    /// A plugin's class.
    Use,
    /// A regular expression.
    Regex,
    /// An http:// or https:// URL.
    HttpUrl,
    /// A ZeroMQ endpoint.
    Endpoint,
    /// A group of hosts, and a port.
    MulticastGroup,
    /// A node's name.
    Node,
    /// A cluster's name.
    Cluster,
    /// Labels of a node, with commas.
    Labels,
    /// A host or an address to bind to; empty: all.
    Host,
    /// A family of addresses.
    Family,
    /// A type of socket.
    SocketType,
    /// An IP protocol.
    Protocol,
    /// A network interface.
    Interface,
    /// A Unix socket's path.
    SocketPath,
    /// A user, a group or both.
    Owner,
    /// Who opens a socket.
    From,
    /// The name of a socket.
    Socket,
    /// Names of sockets.
    Sockets,
    /// Ways to tell a program of its sockets.
    SocketEnv,
    /// A server whose stop signal is known.
    StopPreset,
    /// What a member of an election counts.
    Valor,
    /// How many members there must be.
    Quorum,
    /// What a legion does, an action on each line.
    Actions,
    /// The times of a schedule.
    Cron,
    /// A time zone.
    TimeZone,
    /// What follows a run that fails.
    OnFailure,
}

/// More than half of the members that there should be.
const MAJORITY: &str = "majority";

/// A value of its type.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// The key stands there with nothing in it, which is as good as absent.
    Unset,
    Text(String),
    Bool(bool),
    Number(i64),
    Seconds(Duration),
    User(UserSpec),
    Level(LogLevel),
    LogOutput(LogOutput),
    Limit(Option<u64>),
    Class(Class),
    Rollover(Rollover),
    Syslog(SyslogAddress, u8),
    Check(Check),
    OnFailure(OnFailure),
    Zone(Zone),
    Action(HealthAction),
    Hook(HookSpec),
    Use(Uses),
    Domain(Domain),
    SocketKind(SocketKind),
    Owner(Option<u32>, Option<u32>),
    Endpoint(ZmqAddress),
    Group(SocketAddrV4),
    Origin(Origin),
    /// Nothing: whatever suits the command.
    Conventions(Option<BTreeSet<Convention>>),
    Preset(&'static Preset),
    Labels(Labels),
}

/// What is wrong with a text. None of it quotes the text: it may be a secret in the wrong place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) code: &'static str,
    /// After "`key` ".
    pub(super) message: String,
    /// Beside the marked value.
    pub(super) label: String,
    pub(super) help: Option<String>,
}

/// Begins to say what is wrong.
pub(super) fn wrong(message: impl Into<String>) -> Wrong {
    Wrong { code: code::VALUE, message: message.into(), label: String::new(), help: None }
}

impl Wrong {
    pub(super) fn label(mut self, label: impl Into<String>) -> Wrong {
        self.label = label.into();
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Wrong {
        self.help = Some(help.into());
        self
    }

    pub(super) fn code(mut self, code: &'static str) -> Wrong {
        self.code = code;
        self
    }
}

impl Kind {
    /// The type in a few words, for the manual.
    pub(super) fn word(self) -> &'static str {
        match self {
            Kind::Text => "text",
            Kind::Path => "path",
            Kind::Command => "words, quoted as in a shell",
            Kind::Bool => "`yes true on 1` or `no false off 0`",
            Kind::Count => "whole number from 0",
            Kind::Number => "whole number",
            Kind::Port => "port",
            Kind::Times => "whole number from 1",
            Kind::Amount => "number from 0",
            Kind::Size => "bytes, or with k, M, G",
            Kind::Memory => "per cent, or bytes with k, M, G",
            Kind::Retries => "whole number from 0, or -1",
            Kind::Seconds => "time",
            Kind::Positive => "time above zero",
            Kind::Octal => "octal number",
            Kind::User => "user, by name or number",
            Kind::Group => "group, by name or number",
            Kind::Signal => "signal, by name or number",
            Kind::Level => "level",
            Kind::LogOutput => "`-`, path or syslog://…",
            Kind::Url => "Redis URL",
            Kind::Limit => "whole number; empty: infinite",
            Kind::Class => "class of streams",
            Kind::Rollover => "unit of time",
            Kind::Colour => "colour",
            Kind::Syslog => "syslog://…",
            Kind::Cron => "five fields of crontab(5)",
            Kind::TimeZone => "`local` or a name",
            Kind::OnFailure => "`report` or `stand_back TIME`",
            Kind::Ready => "check",
            Kind::Health => "check but timer",
            Kind::Action => "action",
            Kind::Hook => "command or Python function, `,true`",
            Kind::Names => "names of watchers",
            Kind::Sibling => "name of a watcher",
            Kind::Use => "class of plugins",
            Kind::Regex => "regular expression",
            Kind::HttpUrl => "URL",
            Kind::Endpoint => "`tcp://HOST:PORT` or `ipc://PATH`",
            Kind::MulticastGroup => "`udp://ADDRESS:PORT`",
            Kind::Node => "name of a node",
            Kind::Cluster => "name of a cluster",
            Kind::Labels => "`KEY=VALUE`, with commas",
            Kind::Host => "host or address",
            Kind::Family => "family of addresses",
            Kind::SocketType => "type of socket",
            Kind::Protocol => "IP protocol, by name or number",
            Kind::Interface => "network interface",
            Kind::SocketPath => "absolute path",
            Kind::Owner => "`USER`, `USER:GROUP` or `:GROUP`",
            Kind::From => "`bind` or `systemd`",
            Kind::Socket => "name of a socket",
            Kind::Sockets => "names of sockets",
            Kind::SocketEnv => "`auto`, `none` or a list",
            Kind::StopPreset => "server",
            Kind::Valor => "whole number from 0 to 65535",
            Kind::Quorum => "whole number from 1, or `majority`",
            Kind::Actions => "action",
        }
    }

    /// The value that `text` stands for.
    pub(super) fn parse(self, text: &str) -> Result<Value, Wrong> {
        let text = text.trim();
        let whole = |min: i64, max: i64, must: &str| whole_number(text, min, max, must).map(Value::Number);
        if text.is_empty() {
            return match self {
                Kind::Bool
                | Kind::Count
                | Kind::Times
                | Kind::Amount
                | Kind::Size
                | Kind::Memory
                | Kind::Number
                | Kind::Port
                | Kind::Retries
                | Kind::Seconds
                | Kind::Positive
                | Kind::Valor
                | Kind::Quorum => Err(wrong("has no value").help("write one, or take the line out")),
                Kind::Limit => Ok(Value::Limit(None)),
                Kind::Host => socket::host(text).map(Value::Text),
                _ => Ok(Value::Unset),
            };
        }
        match self {
            Kind::Text
            | Kind::Path
            | Kind::Command
            | Kind::Names
            | Kind::Sibling
            | Kind::Socket
            | Kind::Sockets
            | Kind::Actions => Ok(Value::Text(text.to_owned())),
            Kind::Bool => boolean(text).map(Value::Bool),
            Kind::Count => whole(0, u32::MAX.into(), "must be a whole number from 0"),
            Kind::Times => whole(1, u32::MAX.into(), "must be a whole number from 1"),
            Kind::Amount => amount(text).map(|()| Value::Text(text.to_owned())),
            Kind::Size => size(text).map(Value::Number),
            Kind::Memory => amount(text).or_else(|_| memory(text)).map(|()| Value::Text(text.to_owned())),
            Kind::Number => whole(i32::MIN.into(), i32::MAX.into(), "must be a whole number"),
            Kind::Port => whole(0, 65535, "must be a port from 0 to 65535"),
            Kind::Retries => whole(-1, u32::MAX.into(), "must be a whole number from 0, or -1 for no end"),
            Kind::Seconds => seconds(text).map(Value::Seconds),
            Kind::Positive => match seconds(text)? {
                Duration::ZERO => Err(wrong("must be a time above zero").label("this is none")),
                time => Ok(Value::Seconds(time)),
            },
            Kind::Octal => octal(text).map(Value::Number),
            Kind::User => user(text).map(Value::User),
            Kind::Group => group(text).map(Value::Number),
            Kind::Signal => signal(text).map(Value::Number),
            Kind::Level => level(text).map(Value::Level),
            Kind::LogOutput => stream::log_output(text).map(Value::LogOutput),
            Kind::Url => url(text).map(|()| Value::Text(text.to_owned())),
            Kind::Limit => limit(text).map(Value::Limit),
            Kind::Class => Class::parse(text).map(Value::Class),
            Kind::Rollover => stream::rollover(text).map(Value::Rollover),
            Kind::Colour => stream::colour(text).map(|colour| Value::Number(colour.into())),
            Kind::Syslog => stream::syslog(text).map(|(address, facility)| Value::Syslog(address, facility)),
            Kind::Cron => cron::schedule(text).map(Value::Text),
            Kind::TimeZone => cron::zone(text).map(Value::Zone),
            Kind::OnFailure => cron::on_failure(text).map(Value::OnFailure),
            Kind::Ready => check::ready(text).map(Value::Check),
            Kind::Health => check::health(text).map(Value::Check),
            Kind::Action => check::action(text).map(Value::Action),
            Kind::Hook => hook::parse(text).map(Value::Hook),
            Kind::Use => Uses::parse(text).map(Value::Use),
            Kind::Regex => regex(text).map(|()| Value::Text(text.to_owned())),
            Kind::HttpUrl => http_url(text).map(|()| Value::Text(text.to_owned())),
            Kind::Endpoint => endpoint(text).map(Value::Endpoint),
            Kind::MulticastGroup => multicast_group(text).map(Value::Group),
            Kind::Node => {
                NodeName::parse(text).map(|name| Value::Text(name.to_string())).map_err(|why| wrong_name(&why.0))
            }
            Kind::Cluster => {
                ClusterName::parse(text).map(|name| Value::Text(name.to_string())).map_err(|why| wrong_name(&why.0))
            }
            Kind::Labels => labels(text).map(Value::Labels),
            Kind::Host => socket::host(text).map(Value::Text),
            Kind::Family => socket::domain(text).map(Value::Domain),
            Kind::SocketType => socket::kind(text).map(Value::SocketKind),
            Kind::Protocol => socket::protocol(text).map(|number| Value::Number(number.into())),
            Kind::Interface => socket::interface(text).map(Value::Text),
            Kind::SocketPath => socket::path(text).map(Value::Text),
            Kind::Owner => socket::owner(text).map(|(user, group)| Value::Owner(user, group)),
            Kind::From => socket::origin(text).map(Value::Origin),
            Kind::SocketEnv => socket_use::conventions(text).map(Value::Conventions),
            Kind::StopPreset => preset::parse(text).map(Value::Preset),
            Kind::Valor => whole(0, 65535, "must be a whole number from 0 to 65535"),
            Kind::Quorum if text.eq_ignore_ascii_case(MAJORITY) => Ok(Value::Text(MAJORITY.to_owned())),
            Kind::Quorum => whole(1, u32::MAX.into(), "must be a whole number from 1, or majority"),
        }
    }
}

fn labels(text: &str) -> Result<Labels, Wrong> {
    let mut labels = Labels::new();
    for part in text.split(',').filter(|part| !part.trim().is_empty()) {
        let bad = |why: String| Err(wrong("must be labels such as zone=a,role=web").label(why));
        match Label::parse(part) {
            Err(why) => return bad(why.to_string()),
            Ok(Label { value: None, key }) => return bad(format!("{key} has no value")),
            Ok(Label { value: Some(_), key }) if labels.contains_key(&key) => {
                return bad(format!("{key} stands here twice"));
            }
            Ok(Label { value: Some(value), key }) => labels.insert(key, value),
        };
    }
    Ok(labels)
}

fn wrong_name(why: &str) -> Wrong {
    wrong("is no name that keys and channels can hold").label(why)
}

pub(super) fn boolean(text: &str) -> Result<bool, Wrong> {
    match text.to_lowercase().as_str() {
        "yes" | "true" | "on" | "1" => Ok(true),
        "no" | "false" | "off" | "0" => Ok(false),
        _ => Err(wrong("must be true or false").label("neither yes, true, on, 1 nor no, false, off, 0")),
    }
}

fn whole_number(text: &str, min: i64, max: i64, must: &str) -> Result<i64, Wrong> {
    let number = text.parse::<i64>().ok().filter(|number| (min..=max).contains(number));
    number.ok_or_else(|| {
        let label = match text.parse::<f64>() {
            Ok(number) if number.fract() != 0.0 => "this has a fraction",
            Ok(number) if number < min as f64 => "this is too small",
            Ok(number) if number > max as f64 => "this is too large",
            _ => "this is no whole number",
        };
        wrong(must).label(label)
    })
}

fn amount(text: &str) -> Result<(), Wrong> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok(()),
        _ => Err(wrong("must be a number from 0").label("this is none")),
    }
}

fn size(text: &str) -> Result<i64, Wrong> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit.trim().to_lowercase().trim_end_matches('b') {
        "" => Some(1),
        "k" => Some(1 << 10),
        "m" => Some(1 << 20),
        "g" => Some(1 << 30),
        _ => None,
    };
    let bytes = unit.and_then(|unit| number.parse::<i64>().ok()?.checked_mul(unit));
    bytes.ok_or_else(|| wrong("must be a number of bytes, or one with k, M or G").label("this is none"))
}

fn memory(text: &str) -> Result<(), Wrong> {
    let must = || wrong("must be per cent of the memory, or bytes with k, M or G").label("this is neither");
    size(text).map(drop).map_err(|_| must())
}

/// The words of a command line that names a program.
pub(super) fn program(line: &str) -> Result<Vec<String>, Wrong> {
    match words::split(line) {
        Ok(words) if words.first().is_some_and(|program| !program.is_empty()) => Ok(words),
        Ok(_) => Err(wrong("names nothing to run")),
        Err(unclosed) => Err(wrong("has quotes that do not close")
            .label(format!("no second {} follows", unclosed.quote))
            .code(code::QUOTES)),
    }
}

/// Refuses what is no regular expression, with the reason in one line.
pub(super) fn regex(text: &str) -> Result<(), Wrong> {
    regex::Regex::new(text).map(drop).map_err(|error| {
        let text = error.to_string();
        let why = text.lines().last().unwrap_or_default();
        wrong("is no regular expression").label(why.strip_prefix("error: ").unwrap_or(why))
    })
}

fn http_url(text: &str) -> Result<(), Wrong> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    match rest {
        Some(rest) if !rest.is_empty() && !rest.starts_with(['/', ':', '?']) => Ok(()),
        _ => Err(wrong("must be an http:// or https:// URL").label("this is none")),
    }
}

fn endpoint(text: &str) -> Result<ZmqAddress, Wrong> {
    ZmqAddress::parse(text).map_err(|why| wrong(why).label("this is not how an endpoint is written"))
}

fn multicast_group(text: &str) -> Result<SocketAddrV4, Wrong> {
    let must = wrong("must be udp://ADDRESS:PORT, as in udp://237.219.251.97:12027");
    let group = text.strip_prefix("udp://").and_then(|group| group.parse::<SocketAddrV4>().ok());
    match group {
        None => Err(must.label("this is not")),
        Some(group) if !group.ip().is_multicast() => {
            Err(must.label("groups have addresses from 224.0.0.0 to 239.255.255.255"))
        }
        Some(group) if group.port() == 0 => Err(must.label("a port is from 1 to 65535")),
        Some(group) => Ok(group),
    }
}

/// The longest time that can be asked for: a hundred years are for ever, and every sum of them fits.
const LONGEST: f64 = 100.0 * 365.0 * 86_400.0;

fn seconds(text: &str) -> Result<Duration, Wrong> {
    let message = "must be a time: seconds, or a number with ms, s, m or h";
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-' || c == '+')).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit.trim() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong(message).label("this is none")),
    };
    match number.parse::<f64>().map(|number| number * unit) {
        Err(_) => Err(wrong(message).label("this is none")),
        Ok(seconds) if seconds < 0.0 => Err(wrong(message).label("this is less than nothing")),
        Ok(seconds) if seconds > LONGEST => Err(wrong(message).label("this is more than a hundred years")),
        // Rounded to microseconds, so that 0.1 s and 100 ms are one time.
        Ok(seconds) => Ok(Duration::from_micros((seconds * 1e6).round() as u64)),
    }
}

fn octal(text: &str) -> Result<i64, Wrong> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let plain = digits.bytes().all(|digit| digit.is_ascii_digit());
    match i64::from_str_radix(digits, 8) {
        Ok(mask) if plain && mask <= 0o777 => Ok(mask),
        _ => Err(wrong("must be an octal file mode mask").label("not between 000 and 777, octal")),
    }
}

fn number(text: &str) -> Option<u32> {
    text.bytes().all(|digit| digit.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn user(text: &str) -> Result<UserSpec, Wrong> {
    let by_number = number(text);
    let found = match by_number {
        Some(uid) => User::from_uid(Uid::from_raw(uid)),
        None => User::from_name(text),
    };
    match (found, by_number) {
        (Ok(Some(user)), _) => Ok(UserSpec { uid: user.uid.as_raw(), gid: user.gid.as_raw(), name: Some(user.name) }),
        // A number needs no passwd entry; its group then does not follow from it, and is the same number.
        (Ok(None), Some(uid)) => Ok(UserSpec { uid, gid: uid, name: None }),
        (Ok(None), None) => Err(wrong("names a user that this machine does not have")
            .label("not in the user database")
            .code(code::USER)),
        (Err(errno), _) => Err(wrong(format!("cannot be looked up: {errno}")).code(code::USER)),
    }
}

fn group(text: &str) -> Result<i64, Wrong> {
    match (number(text), Group::from_name(text)) {
        (Some(gid), _) => Ok(Gid::from_raw(gid).as_raw().into()),
        (None, Ok(Some(group))) => Ok(group.gid.as_raw().into()),
        (None, Ok(None)) => Err(wrong("names a group that this machine does not have")
            .label("not in the group database")
            .code(code::USER)),
        (None, Err(errno)) => Err(wrong(format!("cannot be looked up: {errno}")).code(code::USER)),
    }
}

fn signal(text: &str) -> Result<i64, Wrong> {
    let max = libc::SIGRTMAX();
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |name: &str| {
        let offset = |rest: &str| if rest.is_empty() { Some(0) } else { rest.parse::<i32>().ok() };
        match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
            (Some(rest), _) => libc::SIGRTMIN().checked_add(offset(rest)?),
            (_, Some(rest)) => max.checked_add(offset(rest)?),
            _ => None,
        }
        .filter(|number| (libc::SIGRTMIN()..=max).contains(number))
    };
    let named = SIGNALS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    let numbered = name.parse::<i32>().ok().filter(|number| (1..=max).contains(number));
    named.or(numbered).or_else(|| real_time(name)).map(i64::from).ok_or_else(|| {
        let wrong = wrong("must be a signal, by name or number");
        match nearest(name, SIGNALS.iter().map(|(known, _)| *known)) {
            Some(known) => wrong.label(format!("did you mean `{known}`?")),
            None => wrong.label("no signal has this name or number").help("TERM, SIGINT, 2 and SIGRTMIN+1 are signals"),
        }
    })
}

pub(super) fn level(text: &str) -> Result<LogLevel, Wrong> {
    match text.to_lowercase().as_str() {
        "critical" | "error" => Ok(LogLevel::Error),
        "warning" => Ok(LogLevel::Warning),
        "info" => Ok(LogLevel::Info),
        "debug" => Ok(LogLevel::Debug),
        _ => Err(wrong("must be critical, error, warning, info or debug").label("this is none of them")),
    }
}

fn limit(text: &str) -> Result<Option<u64>, Wrong> {
    match text.to_lowercase().as_str() {
        "unlimited" | "infinity" | "-1" => Ok(None),
        _ => text
            .parse()
            .map(Some)
            .map_err(|_| wrong("must be a whole number, or empty for no limit").label("this is no whole number")),
    }
}

fn url(text: &str) -> Result<(), Wrong> {
    let Some((scheme, _)) = text.split_once("://") else {
        return Err(wrong("must be a URL")
            .label("this has no `redis://` or `unix://`")
            .help("redis://:PASSWORD@HOST:PORT/DB"));
    };
    match scheme {
        "rediss" if text.ends_with("#insecure") => Err(wrong("cannot leave a server's certificate unchecked")
            .label("without `#insecure`")
            .help("name the certificate that signed the server's with `tls_ca`")),
        "redis" | "rediss" | "unix" | "redis+unix" => match redis::parse_redis_url(text) {
            Some(url) if url.clone().into_connection_info().is_ok() => Ok(()),
            _ => Err(wrong("cannot be read as a Redis URL")
                .label("not of the form redis://:PASSWORD@HOST:PORT/DB or unix:///PATH")
                .help("in a password, write `%40` for @, `%3A` for :, `%2F` for / and `%23` for #")),
        },
        "redis+sentinel" | "rediss+sentinel" => match Sentinels::parse(text) {
            Ok(Some(sentinels)) => url(&sentinels.server("host", "6379")),
            Ok(None) => Err(wrong("cannot be read as a URL of sentinels")),
            Err(why) => Err(wrong("cannot be read as a URL of sentinels")
                .label(why)
                .help("redis+sentinel://:PASSWORD@HOST:26379,HOST:26379/MASTER/DB; the password is the master's")),
        },
        "redis+majority" | "rediss+majority" => match Majority::parse(text) {
            Ok(Some(Majority { urls })) => urls.iter().try_for_each(|one| url(one)),
            Ok(None) => Err(wrong("cannot be read as a URL of several servers")),
            Err(why) => Err(wrong("cannot be read as a URL of several servers")
                .label(why)
                .help("redis+majority://:PASSWORD@HOST:6379,HOST:6379,HOST:6379/DB, each a server of its own")),
        },
        "redis+cluster" | "rediss+cluster" => match Seeds::parse(text) {
            Ok(Some(seeds)) => url(&seeds.server("host:6379")),
            Ok(None) => Err(wrong("cannot be read as a URL of a cluster")),
            Err(why) => Err(wrong("cannot be read as a URL of a cluster")
                .label(why)
                .help("redis+cluster://:PASSWORD@HOST:6379,HOST:6379; a few of its servers are enough")),
        },
        _ => Err(wrong("must be a redis://, rediss:// or unix:// URL").label("this has another scheme")),
    }
}

/// The resource limits of Linux, by their names in `RLIMIT_<NAME>`.
pub(super) const RLIMITS: &[(&str, u32)] = &[
    ("as", libc::RLIMIT_AS),
    ("core", libc::RLIMIT_CORE),
    ("cpu", libc::RLIMIT_CPU),
    ("data", libc::RLIMIT_DATA),
    ("fsize", libc::RLIMIT_FSIZE),
    ("locks", libc::RLIMIT_LOCKS),
    ("memlock", libc::RLIMIT_MEMLOCK),
    ("msgqueue", libc::RLIMIT_MSGQUEUE),
    ("nice", libc::RLIMIT_NICE),
    ("nofile", libc::RLIMIT_NOFILE),
    ("nproc", libc::RLIMIT_NPROC),
    ("rss", libc::RLIMIT_RSS),
    ("rtprio", libc::RLIMIT_RTPRIO),
    ("rttime", libc::RLIMIT_RTTIME),
    ("sigpending", libc::RLIMIT_SIGPENDING),
    ("stack", libc::RLIMIT_STACK),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_in_every_unit() {
        let table = [
            ("15", 15_000),
            ("1.5", 1_500),
            (".5", 500),
            ("500ms", 500),
            ("15s", 15_000),
            ("15 s", 15_000),
            ("5m", 300_000),
            ("1.5h", 5_400_000),
            ("0", 0),
        ];
        for (text, ms) in table {
            assert_eq!(Kind::Seconds.parse(text), Ok(Value::Seconds(Duration::from_millis(ms))), "{text}");
        }
        for text in ["", "s", "5 days", "-1", "1e9", "inf", "nan", "1.2.3", "99999999999", "5ss"] {
            assert!(Kind::Seconds.parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_group_has_an_address_of_groups_and_a_port() {
        let group = "udp://237.219.251.97:12027";
        let address = SocketAddrV4::new([237, 219, 251, 97].into(), 12027);
        assert_eq!(Kind::MulticastGroup.parse(group), Ok(Value::Group(address)));
        assert_eq!(Kind::MulticastGroup.parse(""), Ok(Value::Unset), "as circusd takes it");
        for text in
            ["237.219.251.97:12027", "udp://237.219.251.97", "udp://223.1.1.1:1", "udp://240.0.0.1:1", "udp://h:1"]
        {
            assert!(Kind::MulticastGroup.parse(text).is_err(), "{text}");
        }
        assert!(Kind::MulticastGroup.parse("udp://237.219.251.97:0").is_err());
    }

    #[test]
    fn signals_have_names_numbers_and_distances() {
        let rt = i64::from(libc::SIGRTMIN());
        let table = [("TERM", 15), ("sigint", 2), ("9", 9), ("SIGRTMIN+1", rt + 1), ("RTMIN", rt), ("SIGRTMAX-1", 63)];
        for (text, number) in table {
            assert_eq!(Kind::Signal.parse(text), Ok(Value::Number(number)), "{text}");
        }
        for text in ["0", "65", "SIGRTMIN-1", "SIGRTMAX+1", "RTMIN+", "RTMIN+99999999999", "SIG"] {
            assert!(Kind::Signal.parse(text).is_err(), "{text}");
        }
        assert_eq!(Kind::Signal.parse("SIGTREM").unwrap_err().label, "did you mean `TERM`?");
    }

    #[test]
    fn numbers_say_what_is_wrong_with_them() {
        let label = |text| Kind::Count.parse(text).unwrap_err().label;
        assert_eq!(label("1.5"), "this has a fraction");
        assert_eq!(label("-3"), "this is too small");
        assert_eq!(label("99999999999"), "this is too large");
        assert_eq!(label("two"), "this is no whole number");
        assert_eq!(Kind::Retries.parse("-1"), Ok(Value::Number(-1)));
    }

    #[test]
    fn bytes_come_in_every_unit() {
        for (text, bytes) in [("0", 0), ("1000", 1000), ("64k", 65_536), ("10M", 10 << 20), ("1 GB", 1 << 30)] {
            assert_eq!(Kind::Size.parse(text), Ok(Value::Number(bytes)), "{text}");
        }
        for text in ["", "M", "1.5M", "-1", "1T", "99999999999999999999", "9999999999999G"] {
            assert!(Kind::Size.parse(text).is_err(), "{text}");
        }
        for text in ["90", "12.5", "250M"] {
            assert_eq!(Kind::Memory.parse(text), Ok(Value::Text(text.into())), "{text}");
        }
        assert!(Kind::Memory.parse("-1").is_err() && Kind::Amount.parse("nan").is_err());
    }

    #[test]
    fn masks_are_octal() {
        assert_eq!(Kind::Octal.parse("022"), Ok(Value::Number(0o22)));
        assert_eq!(Kind::Octal.parse("0o77"), Ok(Value::Number(0o77)));
        for text in ["8", "+7", "1000", "-1", "x"] {
            assert!(Kind::Octal.parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_urls_that_can_be_reached_are_taken() {
        for text in [
            "redis://h",
            "rediss://h",
            "redis://:p%40w@h:6380/3",
            "unix:///run/redis.sock?db=2",
            "redis+unix:///run/r.sock",
            "redis+sentinel://:pw@a,b:26380/m/0",
            "rediss+sentinel://a/m",
            "redis+majority://me:pw@a,b:6380,[::1]/2",
            "rediss+majority://a,b,c",
            "redis+cluster://:pw@a,b:7000",
            "rediss+cluster://a/0",
        ] {
            assert!(Kind::Url.parse(text).is_ok(), "{text}");
        }
        for text in [
            "redis+sentinel://a,b",
            "redis+sentinel://:p#w@a/m",
            "redis+majority://a,b",
            "redis+majority://:p#w@a,b,c",
            "rediss://h#insecure",
            "h:6379",
            "http://h",
            "redis://",
            "redis://h/x",
            "redis://h:p",
            "redis://:p#w@h",
            "unix://",
        ] {
            let wrong = Kind::Url.parse(text).unwrap_err();
            assert_eq!(wrong.code, code::VALUE, "{text}");
        }
    }

    #[test]
    fn users_and_groups_are_looked_up() {
        let root = UserSpec { uid: 0, gid: 0, name: Some("root".into()) };
        assert_eq!(Kind::User.parse("root"), Ok(Value::User(root.clone())));
        assert_eq!(Kind::User.parse("0"), Ok(Value::User(root)));
        assert_eq!(Kind::User.parse("no such user").unwrap_err().code, code::USER);
        assert_eq!(Kind::Group.parse("root"), Ok(Value::Number(0)));
        assert_eq!(Kind::Group.parse("12345678"), Ok(Value::Number(12_345_678)));
    }
}
