//! `redis+cluster://[USER:PASSWORD@]HOST[:PORT],HOST[:PORT],…[/0]`, taken apart.

use super::sentinels::address;

/// Some servers of a Redis Cluster: who knows one of them learns of all.
#[derive(Clone, PartialEq, Eq)]
pub struct Seeds {
    /// Where they are: `HOST:PORT`.
    pub at: Vec<String>,
    /// `redis` or `rediss`, for all connections.
    scheme: &'static str,
    /// `USER:PASSWORD@` for all servers, as it stands in the URL, or nothing.
    login: String,
}

impl Seeds {
    /// Nothing where `url` is of another kind.
    ///
    /// # Errors
    /// What is wrong with it, without what may be a password.
    pub fn parse(url: &str) -> Result<Option<Seeds>, String> {
        const USUAL_PORT: u16 = 6379;
        let (scheme, rest) = match url.split_once("://") {
            Some(("redis+cluster", rest)) => ("redis", rest),
            Some(("rediss+cluster", rest)) => ("rediss", rest),
            _ => return Ok(None),
        };
        let (login, rest) = rest.rsplit_once('@').map_or(("", rest), |(login, rest)| (login, rest));
        let login = if login.is_empty() { String::new() } else { format!("{login}@") };
        let (hosts, database) = rest.split_once('/').unwrap_or((rest, ""));
        if !matches!(database, "" | "0") {
            return Err("a cluster has no database but 0, as in redis+cluster://HOST,HOST,HOST/0".into());
        }
        let at: Option<Vec<String>> = hosts.split(',').map(|host| address(host, USUAL_PORT)).collect();
        let at = at.ok_or("a server in it is not HOST, HOST:PORT or [IPV6]:PORT")?;
        Ok(Some(Seeds { at, scheme, login }))
    }

    /// The URL of one server of the cluster, `HOST:PORT`.
    pub fn server(&self, at: &str) -> String {
        format!("{}://{}{at}", self.scheme, self.login)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_of_a_cluster_is_taken_apart() {
        let seeds = Seeds::parse("redis+cluster://me:p%40w@r1,r2:7000,[::1]:7001/0").unwrap().unwrap();
        assert_eq!(seeds.at, ["r1:6379", "r2:7000", "[::1]:7001"]);
        assert_eq!(seeds.server("10.0.0.1:6379"), "redis://me:p%40w@10.0.0.1:6379");
        let tls = Seeds::parse("rediss+cluster://r1").unwrap().unwrap();
        assert_eq!(tls.server("r1:6379"), "rediss://r1:6379");
        assert!(Seeds::parse("redis://h").unwrap().is_none());
        assert!(Seeds::parse("redis+sentinel://h/m").unwrap().is_none());
    }

    #[test]
    fn what_is_wrong_with_it_is_said_without_its_password() {
        for url in ["", ",", "r1,", "r1:x", "r1:0", "r1/1", "r1/0/x", "[::x]", "r 1", "r1#x"] {
            let why = Seeds::parse(&format!("redis+cluster://:hunter2@{url}")).err().expect(url);
            assert!(!why.contains("hunter2"), "{why}");
        }
    }
}
