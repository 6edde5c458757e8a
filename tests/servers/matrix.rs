//! Each server, on each kind of socket, by each way in which it can be told of one.

use std::fs;
use std::path::PathBuf;
use std::thread;

use super::agent::wait_for;
use super::load::{Address, get};
use super::{Site, installed, programs};

/// A server, and one way to tell it of its socket.
struct Server {
    /// Its name, and the way.
    name: &'static str,
    /// Its command line: `{fd}` is the descriptor as Circus writes it, `{file}` the server's own configuration.
    cmd: &'static str,
    /// More of its watcher's configuration.
    settings: &'static str,
    /// The server's own configuration, where it has to say where it listens: at `{address}`, as `{url}`.
    file: Option<&'static str>,
}

const fn server(name: &'static str, cmd: &'static str, settings: &'static str, file: Option<&'static str>) -> Server {
    Server { name, cmd, settings, file }
}

/// What nginx says of itself it says of its worker, which is the one that answers.
const NGINX: &str = "daemon off;\npid {file}.pid;\nerror_log stderr;\nevents {}\nhttp {\n    access_log off;\n    \
                     client_body_temp_path {file}.1;\n    proxy_temp_path {file}.2;\n    fastcgi_temp_path {file}.3;\n    \
                     uwsgi_temp_path {file}.4;\n    scgi_temp_path {file}.5;\n    \
                     server { listen {address}; return 200 \"$pid\\n\"; }\n}\n";

/// As their users would write them.
const SERVERS: &[Server] = &[
    // By number.
    server("gunicorn-fd", "{python}/gunicorn --bind fd://{fd} wsgi", "stop_preset = gunicorn\nready = notify", None),
    server("uvicorn-fd", "{python}/uvicorn --fd {fd} asgi:application", "stop_preset = uvicorn", None),
    server("hypercorn-fd", "{python}/hypercorn --bind fd://{fd} asgi:application", "", None),
    // Circus's own way: all sockets, of which the command line uses one.
    server("chaussette-fd", "{python}/chaussette --fd {fd} wsgi.application", "use_sockets = True", None),
    server("waitress-fd", "{python}/python serve_waitress.py {fd}", "stop_preset = waitress", None),
    server(
        "uwsgi-fd",
        "{python}/uwsgi --http-socket fd://{fd} --wsgi-file wsgi.py --master \
         --hook-master-start \"unix_signal:15 gracefully_kill_them_all\"",
        "stop_preset = uwsgi",
        None,
    ),
    server("node-fd", "{node} server.js {fd}", "", None),
    // As stdin.
    server(
        "gunicorn-stdin",
        "{python}/gunicorn --bind fd://0 wsgi",
        "stdin_socket = {socket}\nstop_preset = gunicorn",
        None,
    ),
    // By the environment, in which systemd's way is there by itself.
    server("gunicorn-listen", "{python}/gunicorn wsgi", "stop_preset = gunicorn\nready = notify", None),
    server(
        "uwsgi-listen",
        "{python}/uwsgi --protocol http --wsgi-file wsgi.py --master \
         --hook-master-start \"unix_signal:15 gracefully_kill_them_all\"",
        "stop_preset = uwsgi",
        None,
    ),
    server("node-listen", "{node} server.js", "", None),
    server("puma-listen", "{debian}/puma --bind-to-activated-sockets=only", "", None),
    server("unicorn-listen", "{debian}/unicorn", "stop_preset = unicorn", None),
    // By conventions of their own.
    server("nginx", "{debian}/nginx -e stderr -c {file}", "socket_env = nginx\nstop_preset = nginx", Some(NGINX)),
    server("puma-inherit", "{debian}/puma --config {file}", "socket_env = puma", Some("bind '{url}'\n")),
    server("unicorn-fd", "{debian}/unicorn", "socket_env = unicorn\nstop_preset = unicorn", None),
    server("einhorn-path", "{python}/python worker.py einhorn path", "socket_env = einhorn\nready = ack", None),
    server("einhorn-fd", "{python}/python worker.py einhorn fd", "ready = ack", None),
    server("server-starter", "{python}/python worker.py server-starter", "socket_env = server-starter", None),
    server("circus", "{python}/python worker.py circus", "", None),
];

/// What a row of the table becomes: a socket of this kind, and a watcher that has it.
const PLACES: &[(&str, &str)] = &[
    ("tcp4", "host = 127.0.0.1\nport = 0"),
    ("tcp6", "host = ::1\nport = 0\nfamily = AF_INET6"),
    ("unix", "path = {home}/{socket}.unix"),
];

#[test]
fn each_server_answers_on_each_kind_of_socket_and_after_a_reload_it_is_another_process_that_does() {
    let servers: Vec<&Server> = SERVERS.iter().filter(|server| can_run(server)).collect();
    let mut config = String::new();
    let mut rows = Vec::new();
    for server in servers {
        for (kind, place) in PLACES {
            let socket = format!("{}-{kind}", server.name);
            config += &section(server, place).replace("{socket}", &socket);
            rows.push((server, socket));
        }
    }
    let site = Site::start(&config);
    let addresses = site.addresses();
    // Whoever has to name a port in a file of its own can do so only now that there is one.
    for (server, socket) in &rows {
        if let Some(text) = server.file {
            let (address, url) = match &addresses[socket] {
                Address::Tcp(address) => (address.to_string(), format!("tcp://{address}")),
                Address::Unix(path) => (format!("unix:{}", path.display()), format!("unix://{}", path.display())),
            };
            let file = site.home.file(&format!("{socket}.conf"));
            let text = text.replace("{address}", &address).replace("{url}", &url);
            fs::write(&file, text.replace("{file}", &file.display().to_string())).unwrap();
            site.ctl(&["start", socket]).expect(0);
        }
    }

    // A socket takes connections as soon as it is open, long before there is a server.
    let ask = || -> Vec<u32> {
        thread::scope(|scope| {
            let clients =
                rows.iter().map(|(_, socket)| scope.spawn(|| get(&addresses[socket], "/slow?ms=1"))).collect();
            let clients: Vec<thread::ScopedJoinHandle<'_, _>> = clients;
            let answers = rows.iter().zip(clients).map(|((_, socket), client)| {
                let answer = client.join().expect("a client");
                let pid = answer.unwrap_or_else(|failure| panic!("{socket} at {}: {failure:?}", addresses[socket]));
                assert!(site.runs(socket, pid), "{socket} is answered by {pid}, which is not of that watcher");
                pid
            });
            answers.collect()
        })
    };
    let before = ask();
    rows.iter().for_each(|(_, socket)| site.agent.comes_to(socket, "active"));
    site.ctl(&["reload", "--waiting"]).expect(0);
    // gunicorn removes its socket's path when it stops, though the path is not its own.
    let path = |address: &Address| match address {
        Address::Unix(path) => Some(path.clone()),
        Address::Tcp(_) => None,
    };
    let paths: Vec<PathBuf> = addresses.values().filter_map(path).collect();
    wait_for("all paths to be there", || paths.iter().all(|path| path.exists()).then_some(()));
    let after = ask();
    for ((_, socket), (before, after)) in rows.iter().zip(before.iter().zip(&after)) {
        println!("{socket} at {}: {before}, {after}", addresses[socket]);
        assert_ne!(before, after, "{socket} is answered by the process from before the reload");
    }
    rows.iter().for_each(|(_, socket)| site.agent.comes_to(socket, "active"));

    let home = site.end();
    assert!(!paths.iter().any(|path| path.exists()), "{paths:?}");
    drop(home);
}

/// A socket at this place and a watcher for it, both of the name `{socket}`.
fn section(server: &Server, place: &str) -> String {
    let cmd = server.cmd.replace("{fd}", "$(circus.sockets.{socket})").replace("{file}", "{home}/{socket}.conf");
    let is_said = ["use_sockets", "stdin_socket"].iter().any(|key| server.settings.contains(key));
    let sockets = if is_said { "" } else { "sockets = {socket}" };
    format!(
        "\n[socket:{{socket}}]\n{place}\n\n[watcher:{{socket}}]\ncmd = {cmd}\n{sockets}\n{settings}\n\
         autostart = {autostart}\nworking_dir = {programs}\ngraceful_timeout = 10\n",
        settings = server.settings,
        autostart = server.file.is_none(),
        programs = programs().display(),
    )
}

/// Whether the server is here; those of Ruby may be missing.
fn can_run(server: &Server) -> bool {
    let program = server.cmd.split(' ').next().expect("a command");
    let Some(program) = program.strip_prefix("{debian}/") else { return true };
    let is_here = installed("debian").join(program).exists();
    assert!(is_here || program != "nginx", "`make setup` found no nginx; remove .servers and run it again");
    if !is_here {
        println!("skipped: {}; `make setup` found no {program} in Debian's packages", server.name);
    }
    is_here
}
