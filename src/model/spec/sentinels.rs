//! `redis+sentinel://[USER:PASSWORD@]HOST[:PORT],HOST[:PORT],…/MASTER[/DB]`, taken apart.

/// Sentinels, and the master that they watch.
#[derive(Clone, PartialEq, Eq)]
pub struct Sentinels {
    /// Where they are: `HOST:PORT`.
    pub at: Vec<String>,
    /// What they call the master.
    pub master: String,
    /// `redis` or `rediss`, for all connections.
    scheme: &'static str,
    /// `USER:PASSWORD@` for the master, as it stands in the URL, or nothing.
    login: String,
    /// The database, or nothing.
    database: String,
}

impl Sentinels {
    /// Nothing where `url` is of another kind.
    ///
    /// # Errors
    /// What is wrong with it, without what may be a password.
    pub fn parse(url: &str) -> Result<Option<Sentinels>, String> {
        let (scheme, rest) = match url.split_once("://") {
            Some(("redis+sentinel", rest)) => ("redis", rest),
            Some(("rediss+sentinel", rest)) => ("rediss", rest),
            _ => return Ok(None),
        };
        let (login, rest) = rest.rsplit_once('@').map_or(("", rest), |(login, rest)| (login, rest));
        let login = if login.is_empty() { String::new() } else { format!("{login}@") };
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (master, database) = path.split_once('/').unwrap_or((path, ""));
        if master.is_empty() || master.contains(|c: char| c.is_whitespace() || "?#%".contains(c)) {
            return Err("it names no master behind the sentinels, as in redis+sentinel://HOST,HOST/MASTER/0".into());
        }
        if !database.chars().all(|c| c.is_ascii_digit()) {
            return Err("its database is no number, as in redis+sentinel://HOST,HOST/MASTER/0".into());
        }
        const USUAL_PORT: u16 = 26379;
        let at: Option<Vec<String>> = hosts.split(',').map(|host| address(host, USUAL_PORT)).collect();
        let at = at.ok_or("a sentinel in it is not HOST, HOST:PORT or [IPV6]:PORT")?;
        Ok(Some(Sentinels { at, master: master.to_owned(), scheme, login, database: database.to_owned() }))
    }

    /// The URL of one of the sentinels. Who asks it logs in as somebody of its own.
    pub fn sentinel(&self, at: &str) -> String {
        format!("{}://{at}", self.scheme)
    }

    /// The URL of a server that the sentinels tell of.
    pub fn server(&self, host: &str, port: &str) -> String {
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        format!("{}://{}{host}:{port}/{}", self.scheme, self.login, self.database)
    }
}

/// `HOST:PORT`, where the port may be missing.
pub(super) fn address(text: &str, usual_port: u16) -> Option<String> {
    let ends = |text: &str| text.ends_with(']') || !text.contains(':');
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !ends(text) => (host, port.parse::<u16>().ok().filter(|port| *port > 0)?),
        _ => (text, usual_port),
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let good = match bare {
        Some(ip) => ip.contains(':') && ip.chars().all(|c| c.is_ascii_hexdigit() || ":.".contains(c)),
        None => !host.is_empty() && host.chars().all(|c| c.is_alphanumeric() || "-._".contains(c)),
    };
    good.then(|| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Sentinels {
        Sentinels::parse(url).unwrap().unwrap()
    }

    #[test]
    fn a_url_of_sentinels_is_taken_apart() {
        let all = parse("redis+sentinel://me:p%40w@s1,s2:7000,[::1]:26380/mymaster/3");
        assert_eq!(all.at, ["s1:26379", "s2:7000", "[::1]:26380"]);
        assert_eq!(all.master, "mymaster");
        assert_eq!(all.server("10.0.0.1", "6379"), "redis://me:p%40w@10.0.0.1:6379/3");
        assert_eq!(all.server("::1", "6379"), "redis://me:p%40w@[::1]:6379/3");
        assert_eq!(all.sentinel("s1:26379"), "redis://s1:26379");
        let tls = parse("rediss+sentinel://s1/mymaster");
        assert_eq!(tls.server("db", "6379"), "rediss://db:6379/");
        assert!(Sentinels::parse("redis://h").unwrap().is_none());
    }

    #[test]
    fn what_is_wrong_with_it_is_said_without_its_password() {
        for url in ["s1,s2", "s1/", "s1//0", "s1/m/x", ",s2/m", "s1:x/m", "s1:0/m", "[::x]/m", "s 1/m", "s1/m#0"] {
            let why = Sentinels::parse(&format!("redis+sentinel://:hunter2@{url}")).err().expect(url);
            assert!(!why.contains("hunter2"), "{why}");
        }
    }
}
