//! Where Redis is and how an agent is let in: a spec becomes a client, anew for each connection.
//!
//! Invariants:
//! - What is in a file is read again for each connection, so that it may change while the agent runs: a rotated
//!   password or certificate takes effect at the next attempt, and no restart is needed.
//! - No password stands in a reason; the path of its file does.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, RedisError, TlsCertificates,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::sentinel::{self, Whereabouts};
use super::{reason, survey};
use crate::model::spec::{RedisSpec, Seeds, Sentinels, TlsFiles};
use crate::model::store::Failover;

/// The kernel gives a connection up whose bytes nobody acknowledges for so long.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest file that is taken for a password, in bytes.
const MAX_PASSWORD: u64 = 4096;
/// The longest file of certificates, in bytes: those of all public authorities are a quarter of it.
const MAX_PEM: u64 = 1 << 20;

/// A server to connect to.
#[derive(Debug)]
pub(super) struct Server {
    /// Connects to it.
    pub(super) client: Client,
    /// Host and port, or the path of its socket: what may be shown.
    pub(super) address: Arc<str>,
    /// Whom we say we are, where that is not `default`.
    user: Option<String>,
    password_file: Option<PathBuf>,
    /// How we trust and are trusted, where that is by certificates.
    tls: Option<TlsFiles>,
    /// How long it may be missed before another takes its place, where whoever leads to it says so.
    pub(super) failover: Option<Failover>,
}

impl Server {
    /// The server that `spec` names, or that its sentinels name, or any of its cluster, with the credentials of this
    /// moment. Looks no name up yet.
    ///
    /// # Errors
    /// Connections are cut off, the URL is none of Redis's, or a file cannot be read. The text repeats no secret.
    pub(super) async fn of(spec: &RedisSpec, whereabouts: &Whereabouts) -> Result<Server, String> {
        whereabouts.cut().check()?;
        let unusable = |why| format!("the Redis URL cannot be used: {why}");
        let url = spec.url.reveal();
        // Boxed: a sentinel, or a server of the cluster, is reached as any server is.
        if let Some(sentinels) = Sentinels::parse(url).map_err(unusable)? {
            let (master, failover) = Box::pin(sentinel::master(spec, &sentinels)).await?;
            return Ok(Server { failover, ..Server::of_one(&master).await? });
        }
        if let Some(seeds) = Seeds::parse(url).map_err(unusable)? {
            return Server::of_one(&Box::pin(survey::any(spec, &seeds, whereabouts)).await?).await;
        }
        Server::of_one(spec).await
    }

    /// [`Server::of`] a URL that names one server.
    pub(super) async fn of_one(spec: &RedisSpec) -> Result<Server, String> {
        let spec = spec.clone();
        // A file may lie on a disk that hangs.
        let read = tokio::task::spawn_blocking(move || Server::read(&spec)).await;
        read.unwrap_or_else(|error| Err(format!("how to reach Redis was not read: {error}")))
    }

    fn read(spec: &RedisSpec) -> Result<Server, String> {
        let unusable = |error: RedisError| format!("the Redis URL cannot be used: {error}");
        let info = spec.url.reveal().into_connection_info().map_err(unusable)?;
        // What the library would tell of itself interests nobody, and needs a right that the agent does not.
        let mut login = info.redis_settings().clone().set_skip_set_lib_name();
        if let (Some(user), None) = (&spec.username, login.username()) {
            login = login.set_username(user);
        }
        let password_file = spec.password_file.clone().filter(|_| login.password().is_none());
        if let Some(file) = &password_file {
            login = login.set_password(password(file)?);
        }
        let user = login.username().map(ToOwned::to_owned);
        let address = info.addr().to_string().into();
        let info: ConnectionInfo = info.set_redis_settings(login).set_tcp_settings(tcp());
        let tls = matches!(info.addr(), ConnectionAddr::TcpTls { .. }).then(|| spec.tls.clone());
        let client = match &tls {
            Some(files) => Client::build_with_tls(info, certificates(files)?),
            None => Client::open(info),
        };
        Ok(Server { client: client.map_err(unusable)?, address, user, password_file, tls, failover: None })
    }

    /// Why it let us not in, or could not be reached.
    pub(super) fn refusal(&self, error: &RedisError) -> String {
        if error.kind() != ErrorKind::AuthenticationFailed {
            return match &self.tls {
                Some(files) => reason::of_tls(error, &self.address, files),
                None => reason::of(error, &self.address),
            };
        }
        let file = self.password_file.as_ref().map(|file| format!(" in {}", file.display())).unwrap_or_default();
        let user = self.user.as_ref().map(|user| format!(" for user {user}, or no such user")).unwrap_or_default();
        format!("wrong password{file}{user} (WRONGPASS)")
    }
}

/// A dead host is noticed, and small messages are sent at once.
fn tcp() -> TcpSettings {
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5)).with_retries(3);
    TcpSettings::default().set_nodelay(true).set_keepalive(keepalive).set_user_timeout(TCP_USER_TIMEOUT)
}

/// The password in `file`: all of it but the line end.
fn password(file: &Path) -> Result<String, String> {
    let unusable = |why: &str| format!("the password file {} {why}", file.display());
    let bytes = contents(file, MAX_PASSWORD).map_err(|why| unusable(&why))?;
    let text = String::from_utf8(bytes).map_err(|_| unusable("is not UTF-8"))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(unusable("is empty")),
        password => Ok(password.to_owned()),
    }
}

/// What `files` hold, with something in each of them.
fn certificates(files: &TlsFiles) -> Result<TlsCertificates, String> {
    let unusable = |key: &str, file: &Path, why: &str| format!("{key} {} {why}", file.display());
    let read = |key, file: &Path| contents(file, MAX_PEM).map_err(|why| unusable(key, file, &why));
    let certified = |key, file: &Path| {
        let pem = read(key, file)?;
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        match certificates {
            Ok(some) if !some.is_empty() => Ok(pem),
            _ => Err(unusable(key, file, "holds no certificate in PEM")),
        }
    };
    let root_cert = files.ca.as_ref().map(|file| certified("tls_ca", file)).transpose()?;
    let client_tls = match (&files.cert, &files.key) {
        (Some(cert), Some(key)) => {
            let client_cert = certified("tls_cert", cert)?;
            let client_key = read("tls_key", key)?;
            PrivateKeyDer::from_pem_slice(&client_key)
                .map_err(|_| unusable("tls_key", key, "holds no private key in PEM, or one under a passphrase"))?;
            Some(ClientTlsConfig { client_cert, client_key })
        }
        (Some(_), None) => return Err("tls_cert has no tls_key".into()),
        (None, Some(_)) => return Err("tls_key has no tls_cert".into()),
        (None, None) => None,
    };
    Ok(TlsCertificates { client_tls, root_cert })
}

/// All that is in `file`.
///
/// # Errors
/// What it is that keeps us from it, as the rest of a sentence.
fn contents(file: &Path, most: u64) -> Result<Vec<u8>, String> {
    let read = || {
        // Opened only where it is a file: a pipe would wait for its writer.
        if !file.metadata()?.is_file() {
            return Ok(Err("is no file".to_owned()));
        }
        let mut bytes = Vec::new();
        File::open(file)?.take(most + 1).read_to_end(&mut bytes)?;
        Ok(if bytes.len() as u64 > most { Err("is too long".to_owned()) } else { Ok(bytes) })
    };
    read().unwrap_or_else(|error: std::io::Error| Err(format!("cannot be read: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::spec::Secret;

    fn at(url: &str) -> RedisSpec {
        RedisSpec::at(Secret::new(url.into()))
    }

    #[test]
    fn a_url_that_cannot_be_used_is_refused_without_its_password() {
        for url in ["http://:hunter2@host", "redis+majority://:hunter2@host", "redis://:hunter2@[", "hunter2"] {
            let why = Server::read(&at(url)).unwrap_err();
            assert!(!why.contains("hunter2"), "{why}");
        }
        let server = Server::read(&at("redis://me:hunter2@db:6380/3")).unwrap();
        assert_eq!(&*server.address, "db:6380");
    }

    #[test]
    fn user_database_and_password_come_from_the_url_or_from_their_keys() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        std::fs::write(&file, "filed\n").unwrap();
        let login = |spec: &RedisSpec| {
            let client = Server::read(spec).unwrap().client;
            let login = client.get_connection_info().redis_settings().clone();
            (login.username().map(ToOwned::to_owned), login.password().map(ToOwned::to_owned), login.db())
        };
        let known = |user: &str, password: &str, db| (Some(user.to_owned()), Some(password.to_owned()), db);
        let keyed = |url| RedisSpec { username: Some("us".into()), password_file: Some(file.clone()), ..at(url) };
        assert_eq!(login(&at("redis://me:pw@db/3")), known("me", "pw", 3));
        assert_eq!(login(&at("unix:///run/redis.sock?db=3&user=me&pass=pw")), known("me", "pw", 3));
        assert_eq!(login(&keyed("unix:///run/redis.sock?db=3")), known("us", "filed", 3));
        assert_eq!(login(&keyed("redis://db")), known("us", "filed", 0));
        assert_eq!(login(&keyed("redis://me@db")), known("me", "filed", 0));
        assert_eq!(login(&keyed("redis://me:pw@db")), known("me", "pw", 0));
    }

    #[test]
    fn a_password_is_its_file_without_the_line_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        let holds = |bytes: &[u8]| {
            std::fs::write(&file, bytes).unwrap();
            password(&file)
        };
        assert_eq!(holds(b" p w \r\n").as_deref(), Ok(" p w "));
        assert_eq!(holds(b"pw").as_deref(), Ok("pw"));
        assert!(holds(b"\n").unwrap_err().ends_with("is empty"));
        assert!(holds(&[0xff]).unwrap_err().ends_with("is not UTF-8"));
        assert!(holds(&[b'x'; 5000]).unwrap_err().ends_with("is too long"));
        assert!(password(dir.path()).unwrap_err().ends_with("is no file"));
        let absent = password(&dir.path().join("absent")).unwrap_err();
        assert!(absent.contains("/absent cannot be read: No such file"), "{absent}");
    }
}
