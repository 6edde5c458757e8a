//! `[redis]`: where Redis is, and how to be let in.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use redis::{IntoConnectionInfo, RedisConnectionInfo};

use super::build::Build;
use super::problem::code;
use super::settings::{Set, Settings};
use crate::model::spec::{RedisSpec, Secret};

impl Build<'_> {
    /// Where Redis is; nothing without a URL.
    pub(super) fn redis(&mut self, redis: &Settings<'_>) -> Option<RedisSpec> {
        let url = redis.text("url");
        let wrong = self.doc.get("redis", "url").is_some_and(|entry| !entry.value.is_empty());
        // Timings alone may come from the environment; a section in a file means Redis.
        if let (None, false, Some(head)) = (&url, wrong, self.doc.head("redis")) {
            self.problems
                .error(code::MISSING, head.clone(), "[redis] has no `url`")
                .help("write `url = redis://localhost:6379/0`, or set CIRCUS_REDIS_URL")
                .help("without this section, agents of one machine share leases and need no Redis");
        }
        let url = url?;
        let login = url.as_str().into_connection_info().ok().map(|info| info.redis_settings().clone());
        let said = |what: fn(&RedisConnectionInfo) -> Option<&str>| login.as_ref().is_some_and(|at| what(at).is_some());
        if let Some(set) = redis.get("username").filter(|_| said(RedisConnectionInfo::username)) {
            self.said_twice("user", set);
        }
        let password_file = redis.path("password_file");
        if let (Some(set), Some(file)) = (redis.get("password_file"), &password_file) {
            if said(RedisConnectionInfo::password) {
                self.said_twice("password", set);
            }
            self.check_secret_file(file, set);
        }
        Some(RedisSpec { url: Secret::new(url), username: redis.text("username"), password_file })
    }

    fn said_twice(&mut self, what: &str, set: &Set<'_>) {
        self.problems
            .error(code::CONFLICT, set.entry.spot(), format!("the {what} stands in the URL, too"))
            .help(format_args!("take it out of `url`, or leave `{}` away", set.entry.key));
    }

    /// Warns of a file that cannot be read, or that everybody can. It may come yet, and what is no singleton runs
    /// without it: so neither keeps the agent from starting.
    fn check_secret_file(&mut self, file: &Path, set: &Set<'_>) {
        let shown = file.display();
        match File::open(file).and_then(|file| file.metadata()) {
            Ok(about) if about.permissions().mode() & 0o004 != 0 => {
                self.problems
                    .warn(code::SECRET, set.entry.spot(), format!("everybody on this machine can read {shown}"))
                    .help(format_args!("chmod 600 {shown}"));
            }
            Ok(_) => {}
            Err(error) => {
                self.problems
                    .warn(code::SECRET, set.entry.spot(), format!("{shown} cannot be read: {error}"))
                    .note("Redis cannot be used before it can; it is tried again at each connection");
            }
        }
    }
}
