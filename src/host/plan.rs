//! From a `Launch` to what the kernel needs: environment, search path, groups, limits, files.
//!
//! All of this may block (names are looked up, files opened), so it is done on a spawner's thread.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::unistd::{Gid, getegid, geteuid, getgrouplist};

use super::output::{Intake, Pipe};
use super::socket::Sockets;
use super::spawn::{Limit, PidVariable, Plan, failure};
use super::tree;
use crate::model::event::{Handed, Launch, SpawnFailure, Whose};
use crate::model::spec::{Output, ProgramSpec, UserSpec};

/// Where a program is looked for when its environment does not say.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// What a child does not inherit from the agent even when it copies its environment. The agent's own settings hold
/// passwords; the rest is the talk of systemd, or of whoever else started the agent, with the agent: a child would
/// answer in its name, and take descriptors of its own for the agent's sockets. `INVOCATION_ID` and `JOURNAL_STREAM`
/// stay: they are as true for the child as for the agent.
fn is_private(name: &OsStr) -> bool {
    let name = name.as_bytes();
    PRIVATE_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || PRIVATE_NAMES.contains(&name)
}

const PRIVATE_PREFIXES: &[&[u8]] =
    &[b"CIRCUS_", b"WATCHDOG_", b"LISTEN_", b"EINHORN_", b"SERVER_STARTER_", b"PUMA_INHERIT_"];

/// Not all that begins with `GUNICORN_`: `GUNICORN_CMD_ARGS` is the operator's.
const PRIVATE_NAMES: &[&[u8]] = &[
    b"NOTIFY_SOCKET",
    b"CREDENTIALS_DIRECTORY",
    b"SYSTEMD_EXEC_PID",
    b"NGINX",
    b"UNICORN_FD",
    b"GUNICORN_FD",
    b"GUNICORN_PID",
];

/// What the agent knows and a launch does not.
#[derive(Debug, Clone, Default)]
pub(super) struct Surroundings {
    /// What marks the process and all it starts ([`tree::TAG`]).
    pub(super) tag: String,
    /// Variables of the agent's for all that it starts; those of the program win.
    pub(super) env: Arc<[(String, String)]>,
    /// The limit on open files that the agent itself was started with.
    pub(super) open_files: Option<Limit>,
}

impl Plan {
    /// How to start what `launch` names, so that it gets `death_signal` when its parent ends.
    pub(super) fn of(launch: &Launch, around: &Surroundings, death_signal: i32) -> Result<Plan, SpawnFailure> {
        let program = &*launch.program;
        let mut env = environment(launch, around);
        for (name, _) in &launch.pids {
            env.remove(OsStr::new(name));
        }
        let path = env.get(OsStr::new("PATH")).map_or(OsStr::new(DEFAULT_PATH), OsString::as_os_str);
        let name = launch.argv.first().map_or("", String::as_str);
        let found = program.executable.clone().map_or_else(|| candidates(name, path), |file| vec![file]);
        let candidates = found.into_iter().map(|at| c_string("exec", at.into_os_string()));
        let (uid, gid, groups) = credentials(program)?;
        Ok(Plan {
            argv: launch.argv.iter().map(|word| c_string("exec", word.into())).collect::<Result<_, _>>()?,
            candidates: candidates.collect::<Result<_, _>>()?,
            env: env.into_iter().map(|(name, value)| variable(name, value)).collect::<Result<_, _>>()?,
            pids: launch.pids.iter().map(|&(name, whose)| pid_variable(name, whose)).collect::<Result<_, _>>()?,
            limits: around.open_files.iter().cloned().chain(program.rlimits.iter().map(Limit::from)).collect(),
            umask: program.umask,
            groups,
            gid,
            uid,
            user: program.user.as_ref().map(user_name).unwrap_or_default(),
            dir: program.working_dir.as_ref().map(|dir| c_string("chdir", dir.into())).transpose()?,
            death_signal,
        })
    }
}

impl From<&crate::model::spec::Rlimit> for Limit {
    fn from(spec: &crate::model::spec::Rlimit) -> Limit {
        let value = spec.limit.unwrap_or(libc::RLIM_INFINITY);
        Limit { name: spec.name.clone(), resource: spec.resource, soft: value, hard: value }
    }
}

impl Surroundings {
    /// The same for another process.
    pub(super) fn with_tag(&self, tag: String) -> Surroundings {
        Surroundings { tag, ..self.clone() }
    }
}

/// The agent's own variables where they are wanted, below the program's, below ours.
fn environment(launch: &Launch, around: &Surroundings) -> BTreeMap<OsString, OsString> {
    let mut env = BTreeMap::new();
    if launch.program.copy_env {
        env.extend(env::vars_os().filter(|(name, _)| !is_private(name)));
    }
    env.extend(around.env.iter().map(|(name, value)| (name.into(), value.into())));
    env.extend(launch.program.env.iter().map(|(name, value)| (name.into(), value.into())));
    let ours = launch.env.iter().chain(&launch.socket_env);
    env.extend(ours.map(|(name, value)| (name.into(), value.into())));
    env.insert(tree::TAG.into(), (&around.tag).into());
    env
}

/// Where the program `name` may be: a name without a slash is looked for along `path`, as a shell does.
fn candidates(name: &str, path: &OsStr) -> Vec<PathBuf> {
    if name.is_empty() || name.contains('/') {
        return vec![name.into()];
    }
    // An empty entry is the current directory: joined to it, the name stands alone.
    path.as_bytes().split(|&byte| byte == b':').map(|dir| Path::new(OsStr::from_bytes(dir)).join(name)).collect()
}

/// User, group and supplementary groups to take on; nothing each where they stay as they are.
type Credentials = (Option<u32>, Option<u32>, Option<Vec<u32>>);

fn credentials(program: &ProgramSpec) -> Result<Credentials, SpawnFailure> {
    let Some(user) = &program.user else { return Ok((None, program.gid, None)) };
    let gid = program.gid.unwrap_or(user.gid);
    // Without privileges one can only become who one is already, and not even that by setgroups.
    if !geteuid().is_root() && (user.uid, gid) == (geteuid().as_raw(), getegid().as_raw()) {
        return Ok((None, None, None));
    }
    let groups = match &user.name {
        None => vec![gid],
        Some(name) => getgrouplist(&c_string("initgroups", name.into())?, Gid::from_raw(gid))
            .map_err(|errno| failure(format!("initgroups({name:?})"), &errno.into()))?
            .into_iter()
            .map(Gid::as_raw)
            .collect(),
    };
    Ok((Some(user.uid), Some(gid), Some(groups)))
}

fn user_name(user: &UserSpec) -> String {
    user.name.clone().unwrap_or_else(|| user.uid.to_string())
}

fn variable(mut name: OsString, value: OsString) -> Result<CString, SpawnFailure> {
    name.push("=");
    name.push(value);
    CString::new(name.into_vec()).map_err(|nul| {
        // The value may be a secret.
        let text = nul.into_vec();
        let name = text.split(|&byte| byte == b'=').next().unwrap_or_default();
        let stage = format!("env({:?})", String::from_utf8_lossy(name));
        SpawnFailure { stage, error: "EINVAL: a variable cannot hold a NUL byte".into() }
    })
}

fn pid_variable(name: &str, whose: Whose) -> Result<PidVariable, SpawnFailure> {
    Ok(PidVariable { name: variable(name.into(), OsString::new())?, whose })
}

fn c_string(stage: &str, text: OsString) -> Result<CString, SpawnFailure> {
    CString::new(text.into_vec()).map_err(|nul| SpawnFailure {
        stage: format!("{stage}({:?})", String::from_utf8_lossy(&nul.into_vec())),
        error: "EINVAL: a text for the system cannot hold a NUL byte".into(),
    })
}

/// A program's descriptors.
#[derive(Debug)]
pub(super) struct Descriptors {
    standard: [Stream; 3],
    further: Vec<OwnedFd>,
}

#[derive(Debug)]
enum Stream {
    Inherited,
    Opened(OwnedFd),
}

impl Descriptors {
    /// Opens what the program is to read from and write to, and our ends of what it writes to us; takes its sockets from
    /// among those that are open, and puts `line` behind them. They are to be kept until it runs: its own ends go with
    /// the value.
    pub(super) fn open(
        launch: &Launch,
        sockets: &Sockets,
        line: Option<OwnedFd>,
    ) -> Result<(Descriptors, Intake), SpawnFailure> {
        let program = &*launch.program;
        let stdin = match hand(sockets, launch.stdin.as_slice())?.pop() {
            Some(socket) => Stream::Opened(socket),
            None if program.close_stdin => null(File::options().read(true))?,
            None => Stream::Inherited,
        };
        let (stdout, out) = output(&program.stdout)?;
        let (stderr, err) = output(&program.stderr)?;
        let mut further = hand(sockets, &launch.sockets)?;
        further.extend(line);
        Ok((Descriptors { standard: [stdin, stdout, stderr], further }, Intake::new(launch, [out, err])?))
    }

    /// The first three.
    pub(super) fn standard(&self) -> [BorrowedFd<'_>; 3] {
        let inherited = inherited();
        std::array::from_fn(|number| match &self.standard[number] {
            Stream::Inherited => inherited[number],
            Stream::Opened(end) => end.as_fd(),
        })
    }

    /// Those from [`FIRST_FD`](crate::model::spec::FIRST_FD) on.
    pub(super) fn further(&self) -> impl ExactSizeIterator<Item = BorrowedFd<'_>> {
        self.further.iter().map(AsFd::as_fd)
    }
}

/// As many descriptors as there are sockets.
fn hand(sockets: &Sockets, handed: &[Handed]) -> Result<Vec<OwnedFd>, SpawnFailure> {
    // Most programs have none, and need not ask.
    if handed.is_empty() { Ok(Vec::new()) } else { sockets.hand(handed) }
}

/// The first three descriptors of this process itself. They are always open: std sees to that at the start.
pub(super) fn inherited() -> [BorrowedFd<'static>; 3] {
    // SAFETY: nobody here ever closes these three; a guard replaces what is behind them, not the numbers.
    unsafe { [BorrowedFd::borrow_raw(0), BorrowedFd::borrow_raw(1), BorrowedFd::borrow_raw(2)] }
}

/// The program's end of an output, and ours where it leads to us.
fn output(output: &Output) -> Result<(Stream, Option<Pipe>), SpawnFailure> {
    match output {
        Output::Inherit => Ok((Stream::Inherited, None)),
        Output::Null => Ok((null(File::options().write(true))?, None)),
        Output::Stream(spec) => Pipe::open(spec).map(|(theirs, ours)| (Stream::Opened(theirs), Some(ours))),
    }
}

fn null(options: &std::fs::OpenOptions) -> Result<Stream, SpawnFailure> {
    let opened: io::Result<File> = options.open("/dev/null");
    opened.map(|file| Stream::Opened(file.into())).map_err(|error| failure("open(\"/dev/null\")", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_for_along_the_path_and_a_path_is_taken_as_it_is() {
        let found = candidates("beat", OsStr::new("/opt/bin::/bin"));
        assert_eq!(found, [Path::new("/opt/bin/beat"), Path::new("beat"), Path::new("/bin/beat")]);
        assert_eq!(candidates("./beat", OsStr::new("/bin")), [Path::new("./beat")]);
    }

    #[test]
    fn what_concerns_the_agent_alone_is_private() {
        for name in ["CIRCUS_REDIS_URL", "NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS", "CREDENTIALS_DIRECTORY"] {
            assert!(is_private(OsStr::new(name)), "{name}");
        }
        for name in ["EINHORN_FD_0", "SERVER_STARTER_PORT", "NGINX", "UNICORN_FD", "PUMA_INHERIT_0", "GUNICORN_FD"] {
            assert!(is_private(OsStr::new(name)), "{name}");
        }
        for name in ["PATH", "INVOCATION_ID", "JOURNAL_STREAM", "HOME", "GUNICORN_CMD_ARGS", "NGINX_CONF", "UNICORN"] {
            assert!(!is_private(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn a_bad_variable_is_named_without_its_value() {
        let failed = variable("PASSWORD".into(), "se\0cret".into()).unwrap_err();
        assert_eq!(failed.stage, "env(\"PASSWORD\")");
        assert!(!failed.error.contains("cret"));
    }
}
