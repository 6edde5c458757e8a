//! Python as far as a supervisor needs it: an interpreter, virtual environments and the module path.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::build::Build;
use super::command::runs;
use super::problem::code;
use super::settings::{Set, Settings};

type Env = BTreeMap<String, String>;

/// The interpreter that is found without being told: the active virtual environment's, or that of `PATH`.
pub(super) fn find(env: &Env) -> Option<PathBuf> {
    let active = env.get("VIRTUAL_ENV").filter(|venv| !venv.is_empty()).map(|venv| Path::new(venv).join("bin/python"));
    active.filter(|python| runs(python)).or_else(|| on_path("python3", env)).or_else(|| on_path("python", env))
}

/// The program of this name on the agent's `PATH`.
fn on_path(name: &str, env: &Env) -> Option<PathBuf> {
    let directories = env.get("PATH")?.split(':').filter(|directory| directory.starts_with('/'));
    directories.map(|directory| Path::new(directory).join(name)).find(|path| runs(path))
}

/// How long an interpreter may take to name its module path.
const PATIENCE: Duration = Duration::from_secs(10);

/// The most that is read of its answer.
const LONGEST: usize = 1 << 20;

/// `sys.path` of an interpreter as it starts in the agent's environment, as a `PYTHONPATH`.
fn module_path(python: &Path, env: &Env) -> Result<String, String> {
    let program = "import sys; sys.stdout.write('\\n'.join(p for p in sys.path if p))";
    match said(python, &[program], env, None)?.as_str() {
        "" => Err(format!("{} names no module path", python.display())),
        lines => Ok(lines.replace('\n', ":")),
    }
}

/// What an interpreter writes to stdout when it runs a program (`-c`) with these arguments.
fn said(python: &Path, words: &[&str], env: &Env, directory: Option<&Path>) -> Result<String, String> {
    let name = python.display();
    let mut command = Command::new(python);
    command.arg("-c").args(words).env_clear().envs(env);
    if let Some(directory) = directory {
        command.current_dir(directory);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| format!("{name} does not start: {error}"))?;
    let answer = child.stdout.take().map(|mut pipe| read(&mut pipe)).unwrap_or(Ok(Vec::new()));
    // It has said all it is going to say: nothing more is waited for. It may be reaped already where we are init.
    let _ = child.kill();
    let _ = child.wait();
    let answer = answer.map_err(|why| format!("{name} {why}"))?;
    String::from_utf8(answer).map_err(|_| format!("{name} answers with what is no UTF-8 text"))
}

/// Loads a class as circusd does before it starts a plugin, and says how that went: `ok`, `class` and why it is not to be
/// had, or `circus` and why Circus itself is not. What modules print when they are loaded goes elsewhere.
const LOAD: &str = "\
import sys
out, sys.stdout = sys.stdout, sys.stderr
missing = 'circus'
try:
    from circus import plugins
    missing = 'class'
    plugins.resolve_name(sys.argv[1])
    out.write('ok')
except BaseException as error:
    # Circus's own error tells at length what may be wrong; the one within says what is.
    error = getattr(error, 'exception', error)
    out.write('%s %s: %s' % (missing, type(error).__name__, error))
";

/// An interpreter that has Circus and the class of a plugin: this one, or that of the `circus-plugin` on `PATH`, which is
/// where Circus is installed.
///
/// # Errors
/// Why the class cannot be had.
pub(super) fn plugin_interpreter(
    found: Option<&Path>,
    class: &str,
    env: &Env,
    directory: Option<&Path>,
) -> Result<PathBuf, String> {
    let installed = on_path("circus-plugin", env).and_then(|script| shebang(&script));
    let mut why = "there is no python3 in its PATH, and no circus-plugin".to_owned();
    for python in found.map(Path::to_owned).into_iter().chain(installed) {
        let answer = said(&python, &[LOAD, class], env, directory)?;
        let in_python = |reason: &str| format!("{reason} ({})", python.display());
        match answer.split_once(' ') {
            None if answer == "ok" => return Ok(python),
            Some(("class", reason)) => return Err(in_python(reason)),
            Some((_, reason)) => why = in_python(reason),
            None => why = in_python("it ended while it loaded the class"),
        }
    }
    Err(why)
}

/// The interpreter that the first line of a script names.
fn shebang(script: &Path) -> Option<PathBuf> {
    let mut head = Vec::new();
    fs::File::open(script).ok()?.take(256).read_to_end(&mut head).ok()?;
    let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let interpreter = PathBuf::from(std::str::from_utf8(line).ok()?.trim());
    Some(interpreter).filter(|interpreter| runs(interpreter))
}

/// All that comes out of a pipe within [`PATIENCE`].
fn read(pipe: &mut (impl Read + AsFd)) -> Result<Vec<u8>, String> {
    let end = Instant::now() + PATIENCE;
    let mut answer = Vec::new();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], timeout) {
            Err(nix::errno::Errno::EINTR) => continue,
            Err(errno) => return Err(format!("cannot be asked: {errno}")),
            Ok(0) => return Err(format!("does not answer within {} s", PATIENCE.as_secs())),
            Ok(_) => {}
        }
        let mut chunk = [0; 4096];
        match pipe.read(&mut chunk) {
            Ok(0) => return Ok(answer),
            Ok(_) if answer.len() > LONGEST => return Err("says too much".into()),
            Ok(n) => answer.extend_from_slice(&chunk[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("cannot be asked: {error}")),
        }
    }
}

/// A virtual environment, as far as it changes a process's own.
#[derive(Debug, PartialEq, Eq)]
struct VirtualEnv {
    /// Its programs, where it has any.
    bin: Option<PathBuf>,
    /// Its modules.
    site: PathBuf,
    /// What its `.pth` files add to them.
    more: Vec<PathBuf>,
}

impl VirtualEnv {
    /// The one in this directory, for this version of Python where it has several.
    fn read(directory: &Path, version: Option<&str>) -> Result<VirtualEnv, String> {
        let site = site_packages(directory, version)?;
        let mut files: Vec<PathBuf> = fs::read_dir(&site)
            .map_err(|error| format!("{} cannot be read: {error}", site.display()))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "pth"))
            .collect();
        files.sort();
        let mut more: Vec<PathBuf> = Vec::new();
        for file in files {
            let text = fs::read(&file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
            // Python runs lines that begin with `import`; here they are passed over, as in Circus.
            let lines = text.lines().map(str::trim_end).filter(|line| !line.is_empty());
            let named = lines.filter(|line| !line.starts_with('#') && !line.starts_with("import"));
            for path in named.filter_map(|line| site.join(line).canonicalize().ok()) {
                if !more.contains(&path) {
                    more.push(path);
                }
            }
        }
        let bin = Some(directory.join("bin")).filter(|bin| bin.is_dir());
        Ok(VirtualEnv { bin, site, more })
    }

    /// Puts its programs first in `PATH`, and its modules around what `PYTHONPATH` has, as Circus does.
    fn enter(&self, env: &mut Env, agent: &Env) {
        let before = |name: &str| env.get(name).or_else(|| agent.get(name)).filter(|value| !value.is_empty()).cloned();
        let path = before("PATH").into_iter();
        let python_path: Vec<String> = before("PYTHONPATH").into_iter().collect();
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        if let Some(bin) = &self.bin {
            let path: Vec<String> = std::iter::once(text(bin)).chain(path).collect();
            env.insert("PATH".into(), path.join(":"));
        }
        let mut modules: Vec<String> = self.more.iter().map(text).chain(python_path).collect();
        let site = text(&self.site);
        if !modules.iter().flat_map(|modules| modules.split(':')).any(|module| module == site) {
            modules.push(site);
        }
        env.insert("PYTHONPATH".into(), modules.join(":"));
    }
}

/// `lib/python3.12/site-packages` of a virtual environment.
fn site_packages(directory: &Path, version: Option<&str>) -> Result<PathBuf, String> {
    let lib = directory.join("lib");
    let sites = |names: Vec<String>| -> Vec<PathBuf> {
        names.iter().map(|name| lib.join(name).join("site-packages")).filter(|site| site.is_dir()).collect()
    };
    if let Some(version) = version {
        let named = sites(vec![format!("python{version}"), format!("pypy{version}")]);
        let missing = || format!("there is no {}/python{version}/site-packages", lib.display());
        return named.into_iter().next().ok_or_else(missing);
    }
    let entries =
        fs::read_dir(&lib).map_err(|_| format!("there is no virtual environment in {}", directory.display()))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let found = sites(names.filter(|name| name.starts_with("python") || name.starts_with("pypy")).collect());
    match found.as_slice() {
        [site] => Ok(site.clone()),
        [] => Err(format!("there is no {}/pythonX.Y/site-packages", lib.display())),
        _ => Err(format!("{} has several versions of Python; `virtualenv_py_ver` says which", lib.display())),
    }
}

impl Build<'_> {
    /// What `virtualenv` and `copy_path` make of a process's environment.
    pub(super) fn python_paths(&mut self, settings: &Settings<'_>, env: &mut Env) {
        let venv = settings.get("virtualenv").zip(settings.path("virtualenv"));
        let copies = settings.get("copy_path").filter(|_| settings.bool("copy_path"));
        if venv.is_none() {
            self.no_effect(settings, &["virtualenv_py_ver"], "there is no `virtualenv`");
        }
        for set in venv.iter().map(|(set, _)| *set).chain(copies) {
            if !settings.bool("copy_env") {
                let message = format!("`{}` needs `copy_env = True`", set.entry.key);
                self.problems
                    .error(code::CONFLICT, set.entry.key_spot(), message)
                    .label("it adds to the agent's environment, and the process gets none of that");
                return;
            }
        }
        // [env] wins over the agent's module path, as in Circus.
        if let (Some(set), false) = (copies, env.contains_key("PYTHONPATH"))
            && let Some(path) = self.module_path(set)
        {
            env.insert("PYTHONPATH".into(), path);
        }
        if let Some((set, directory)) = venv {
            match VirtualEnv::read(&directory, settings.text("virtualenv_py_ver").as_deref()) {
                Ok(venv) => venv.enter(env, &self.around.env),
                Err(why) => {
                    self.problems.error(code::DIRECTORY, set.entry.spot(), "`virtualenv` cannot be used").label(why);
                }
            }
        }
    }

    /// The interpreter's module path, asked for once.
    fn module_path(&mut self, set: &Set<'_>) -> Option<String> {
        let Some(python) = self.python.clone() else {
            self.need_python(set, "`copy_path`");
            return None;
        };
        let env = &self.around.env;
        match self.module_path.get_or_insert_with(|| module_path(&python, env)) {
            Ok(path) => Some(path.clone()),
            Err(why) => {
                self.problems
                    .error(code::PROGRAM, set.entry.spot(), "Python's module path cannot be learnt")
                    .label(why.clone())
                    .help("set `python` in [circus], or write PYTHONPATH into an [env] section");
                None
            }
        }
    }

    /// Refuses what needs an interpreter where there is none.
    pub(super) fn need_python(&mut self, set: &Set<'_>, what: &str) {
        if self.python.is_none() {
            self.problems
                .error(code::PROGRAM, set.entry.spot(), format!("{what} needs Python, and none is found"))
                .label("no python3 in the agent's PATH")
                .help("install one, or set `python` in [circus] to it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Env {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_virtual_environment_surrounds_the_paths_that_are_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let venv = dir.path();
        let site = venv.join("lib/python3.12/site-packages");
        for directory in [&site, &venv.join("bin"), &venv.join("src")] {
            fs::create_dir_all(directory).expect("a directory");
        }
        fs::write(site.join("a.pth"), "# comment\nimport this\n../../../src\nno/such\n\n").expect("a file");
        let at = |rest: &str| format!("{}/{rest}", venv.display());
        let read = VirtualEnv::read(venv, None).expect("a virtual environment");
        assert_eq!(VirtualEnv::read(venv, Some("3.12")), Ok(VirtualEnv::read(venv, None).expect("the same")));

        let mut own = env(&[("PYTHONPATH", "/own")]);
        read.enter(&mut own, &env(&[("PATH", "/bin"), ("PYTHONPATH", "/agent")]));
        assert_eq!(own["PATH"], format!("{}:/bin", at("bin")));
        let src = venv.join("src").canonicalize().expect("the directory").display().to_string();
        assert_eq!(own["PYTHONPATH"], format!("{src}:/own:{}", at("lib/python3.12/site-packages")));

        let missing = VirtualEnv::read(venv, Some("2.7")).unwrap_err();
        assert!(missing.ends_with("lib/python2.7/site-packages"), "{missing}");
        fs::create_dir_all(venv.join("lib/pypy3.10/site-packages")).expect("a directory");
        assert!(VirtualEnv::read(venv, None).unwrap_err().contains("virtualenv_py_ver"));
        assert!(VirtualEnv::read(&venv.join("bin"), None).unwrap_err().contains("no virtual environment"));
    }

    #[test]
    fn the_active_virtual_environment_comes_before_the_path() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("bin")).expect("a directory");
        let python = dir.path().join("bin/python");
        std::os::unix::fs::symlink("/bin/sh", &python).expect("a link");
        let path = dir.path().join("bin").display().to_string();
        assert_eq!(find(&env(&[("PATH", &path)])), Some(python.clone()));
        assert_eq!(find(&env(&[("VIRTUAL_ENV", &dir.path().display().to_string())])), Some(python));
        assert_eq!(find(&env(&[("PATH", "bin:"), ("VIRTUAL_ENV", "/no/such")])), None);
    }

    #[test]
    fn an_interpreter_that_says_nothing_is_an_error_and_not_a_wait() {
        assert!(module_path(Path::new("/bin/true"), &Env::new()).unwrap_err().ends_with("names no module path"));
        assert!(module_path(Path::new("/no/such"), &Env::new()).unwrap_err().contains("does not start"));
    }
}
