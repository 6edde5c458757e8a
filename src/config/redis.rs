//! `[redis]`: where Redis is, and how to be let in.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use redis::{IntoConnectionInfo, RedisConnectionInfo};

use super::beatcop::BEATCOP;
use super::build::Build;
use super::problem::code;
use super::settings::{Set, Settings};
use super::value::Value;
use crate::model::spec::{self, RedisSpec, Secret, Seeds, Sentinels, TlsFiles};

/// Whether others may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Secrecy {
    Public,
    Secret,
}

/// The keys that name files.
const FILES: [(&str, Secrecy); 5] = [
    ("sentinel_password_file", Secrecy::Secret),
    ("password_file", Secrecy::Secret),
    ("tls_ca", Secrecy::Public),
    ("tls_cert", Secrecy::Public),
    ("tls_key", Secrecy::Secret),
];

impl Build<'_> {
    /// Where Redis is; nothing without a URL.
    pub(super) fn redis(&mut self, redis: &Settings<'_>, circus: &Settings<'_>) -> Option<RedisSpec> {
        let url = redis.text("url");
        let wrong = self.doc.get("redis", "url").is_some_and(|entry| !entry.value.is_empty());
        // Timings alone may come from the environment; a section in a file means Redis. What BeatCop's lacks is told.
        let beatcops = self.doc.head(BEATCOP).is_some();
        if let (None, false, Some(head)) = (&url, wrong || beatcops, self.doc.head("redis")) {
            self.problems
                .error(code::MISSING, head.clone(), "[redis] has no `url`")
                .help("write `url = redis://localhost:6379/0`, or set CIRCUS_REDIS_URL")
                .help("without this section, agents of one machine share leases and need no Redis");
        }
        let url = url?;
        let sentinels = Sentinels::parse(&url).ok().flatten();
        let seeds = Seeds::parse(&url).ok().flatten();
        let server = match (&sentinels, &seeds) {
            (Some(sentinels), _) => sentinels.server("host", "1"),
            (None, Some(seeds)) => seeds.server("host:1"),
            (None, None) => RedisSpec::at(Secret::new(url.clone())).servers()[0].url.reveal().to_owned(),
        };
        let login = server.into_connection_info().ok().map(|info| info.redis_settings().clone());
        let said = |what: fn(&RedisConnectionInfo) -> Option<&str>| login.as_ref().is_some_and(|at| what(at).is_some());
        let username = redis.get("username").filter(|set| set.value != Value::Unset);
        if let Some(set) = username.filter(|_| said(RedisConnectionInfo::username)) {
            self.said_twice("user", set);
        }
        let password_file = redis.get("password_file").filter(|set| set.value != Value::Unset);
        if let Some(set) = password_file.filter(|_| said(RedisConnectionInfo::password)) {
            self.said_twice("password", set);
        }
        let tls = TlsFiles { ca: redis.path("tls_ca"), cert: redis.path("tls_cert"), key: redis.path("tls_key") };
        self.check_tls(&url, &tls, redis);
        for key in ["sentinel_username", "sentinel_password_file"] {
            if let Some(set) = redis.get(key).filter(|set| sentinels.is_none() && set.value != Value::Unset) {
                self.problems
                    .error(code::CONFLICT, set.entry.spot(), format!("`{key}` is for sentinels, and `url` names none"))
                    .help("write `url = redis+sentinel://HOST,HOST,HOST/MASTER/0`");
            }
        }
        for (key, secrecy) in FILES {
            if let (Some(set), Some(file)) = (redis.get(key), redis.path(key)) {
                self.check_file(&file, secrecy, set);
            }
        }
        Some(RedisSpec {
            url: Secret::new(url),
            username: redis.text("username"),
            password_file: redis.path("password_file"),
            tls,
            sentinel_username: redis.text("sentinel_username"),
            sentinel_password_file: redis.path("sentinel_password_file"),
            require_replica_ack: redis.number("require_replica_ack").unwrap_or_default(),
            secret_file: self.secret_file(circus),
        })
    }

    /// Files that would not be used, and a certificate without its key or the other way round.
    fn check_tls(&mut self, url: &str, tls: &TlsFiles, redis: &Settings<'_>) {
        if url.starts_with("rediss") {
            let alone = match (&tls.cert, &tls.key) {
                (Some(_), None) => Some(("tls_cert", "tls_key")),
                (None, Some(_)) => Some(("tls_key", "tls_cert")),
                _ => None,
            };
            if let Some((set, (has, lacks))) = alone.and_then(|keys| Some((redis.get(keys.0)?, keys))) {
                self.problems
                    .error(code::MISSING, set.entry.spot(), format!("`{has}` has no `{lacks}`"))
                    .help(format_args!("write `{lacks} = FILE`; it may be the same file"));
            }
            return;
        }
        for key in ["tls_ca", "tls_cert", "tls_key"] {
            if let Some(set) = redis.get(key).filter(|_| redis.path(key).is_some()) {
                self.problems
                    .error(
                        code::CONFLICT,
                        set.entry.spot(),
                        format!("`{key}` says something of TLS, and `url` has none"),
                    )
                    .help("write `url = rediss://…`");
            }
        }
    }

    /// The file whose secrets seal messages. It may come yet, but one with a secret that is none stops the start: it would
    /// be found out by who wants to send something at night.
    fn secret_file(&mut self, circus: &Settings<'_>) -> Option<PathBuf> {
        let file = circus.path("secret_file")?;
        let set = circus.get("secret_file")?;
        self.check_file(&file, Secrecy::Secret, set);
        if let Ok(text) = fs::read_to_string(&file)
            && let Err(why) = spec::secrets(&text)
        {
            self.problems
                .error(code::LOGIN, set.entry.spot(), format!("{} seals nothing: {why}", file.display()))
                .help("write a line made by `openssl rand -hex 32`, the same on all nodes");
        }
        Some(file)
    }

    fn said_twice(&mut self, what: &str, set: &Set<'_>) {
        self.problems
            .error(code::CONFLICT, set.entry.spot(), format!("the {what} stands in the URL, too"))
            .help(format_args!("take it out of `url`, or leave `{}` away", set.entry.key));
    }

    /// Warns of a file that cannot be read, and of a secret one that everybody can. It may come yet, and what is no singleton runs
    /// without it: so neither keeps the agent from starting.
    fn check_file(&mut self, file: &Path, secrecy: Secrecy, set: &Set<'_>) {
        let shown = file.display();
        match File::open(file).and_then(|file| file.metadata()) {
            Ok(about) if secrecy == Secrecy::Secret && about.permissions().mode() & 0o004 != 0 => {
                self.problems
                    .warn(code::LOGIN, set.entry.spot(), format!("everybody on this machine can read {shown}"))
                    .help(format_args!("chmod 600 {shown}"));
            }
            Ok(_) => {}
            Err(error) => {
                self.problems
                    .warn(code::LOGIN, set.entry.spot(), format!("{shown} cannot be read: {error}"))
                    .note("what needs it waits until it can be, and it is tried again");
            }
        }
    }
}
