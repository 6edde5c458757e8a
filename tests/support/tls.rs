//! Certificates of a test's own, made by openssl, and a real redis-server that shows them.

#![allow(unreachable_pub, dead_code)] // Included by several test files, each a crate of its own, which use a part.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::redis_server::{RedisServer, free_port};

/// How long a certificate is valid.
pub enum Valid {
    /// For this century.
    Now,
    /// It was, and is no more.
    Expired,
}

/// An authority that signs certificates.
pub struct Authority {
    dir: tempfile::TempDir,
}

/// A certificate and its key.
#[derive(Clone)]
pub struct Pair {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    /// A new one, which nobody trusts yet.
    pub fn new() -> Authority {
        let authority = Authority { dir: tempfile::tempdir().expect("a directory for certificates") };
        let settings = "[ca]\ndefault_ca = d\n[d]\ndatabase = index.txt\nserial = serial\nnew_certs_dir = .\ndefault_md = sha256\n\
                        policy = p\ncopy_extensions = copy\nunique_subject = no\n[p]\ncommonName = supplied\n";
        std::fs::write(authority.path().join("ca.cnf"), settings).expect("settings for openssl");
        std::fs::write(authority.path().join("index.txt"), "").expect("a database for openssl");
        authority.openssl(&["req", "-x509", "-subj", "/CN=authority", "-out", "ca.pem", "-keyout", "ca.key"], true);
        authority
    }

    /// The certificate that signs all others.
    pub fn certificate(&self) -> PathBuf {
        self.path().join("ca.pem")
    }

    /// A certificate for these names, as `IP:127.0.0.1` or `DNS:localhost`.
    pub fn sign(&self, file: &str, names: &str, valid: &Valid) -> Pair {
        let (request, key, cert) = (format!("{file}.csr"), format!("{file}.key"), format!("{file}.pem"));
        let names = format!("subjectAltName={names}");
        self.openssl(&["req", "-subj", "/CN=test", "-addext", &names, "-out", &request, "-keyout", &key], true);
        let (from, to) = match valid {
            Valid::Now => ("20000101000000Z", "20990101000000Z"),
            Valid::Expired => ("20000101000000Z", "20010101000000Z"),
        };
        let sign = ["ca", "-batch", "-config", "ca.cnf", "-cert", "ca.pem", "-keyfile", "ca.key", "-create_serial"];
        let period = ["-notext", "-startdate", from, "-enddate", to, "-in", &request, "-out", &cert];
        self.openssl(&[&sign[..], &period[..]].concat(), false);
        Pair { cert: self.path().join(cert), key: self.path().join(key) }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn openssl(&self, words: &[&str], new_key: bool) {
        let mut command = Command::new("openssl");
        command.args(words).current_dir(self.path());
        if new_key {
            command.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
        }
        let done = command.output().expect("openssl is installed");
        assert!(done.status.success(), "openssl {words:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

/// A redis-server that speaks TLS on a port of its own, beside the one on which it is looked after.
pub struct TlsServer {
    pub server: RedisServer,
    pub port: u16,
}

impl TlsServer {
    /// One that shows `pair`, and where `authority` is given wants certificates of its clients that it signed.
    pub fn start(pair: &Pair, authority: Option<&Authority>) -> TlsServer {
        let port = free_port();
        let (port_text, cert, key) = (port.to_string(), text(&pair.cert), text(&pair.key));
        let mut arguments = vec!["--tls-port", &port_text, "--tls-cert-file", &cert, "--tls-key-file", &key];
        let trusted = text(&authority.map_or_else(|| pair.cert.clone(), Authority::certificate));
        arguments.extend(["--tls-ca-cert-file", &trusted]);
        arguments.extend(["--tls-auth-clients", if authority.is_some() { "yes" } else { "no" }]);
        TlsServer { server: RedisServer::start_with(None, &arguments), port }
    }

    /// `rediss://…`, by this name of the host.
    pub fn url(&self, host: &str) -> String {
        format!("rediss://{host}:{}", self.port)
    }

    /// Shows another certificate from now on.
    pub fn show(&self, pair: &Pair) {
        let pair = ["CONFIG", "SET", "tls-cert-file", &text(&pair.cert), "tls-key-file", &text(&pair.key)];
        self.server.command(&pair);
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("a path in UTF-8").to_owned()
}
