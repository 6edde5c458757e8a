//! `redis+majority://[USER:PASSWORD@]HOST[:PORT],HOST[:PORT],HOST[:PORT],…[/DB]`, taken apart.

use std::collections::BTreeSet;

use super::sentinels::address;

/// Independent servers, of which most decide.
#[derive(Clone, PartialEq, Eq)]
pub struct Majority {
    /// Each one's own URL, `redis://` or `rediss://`.
    pub urls: Vec<String>,
}

impl Majority {
    /// With fewer than three no server may fail.
    const FEWEST: usize = 3;

    /// Nothing where `url` is of another kind.
    ///
    /// # Errors
    /// What is wrong with it, without what may be a password.
    pub fn parse(url: &str) -> Result<Option<Majority>, String> {
        let (scheme, rest) = match url.split_once("://") {
            Some(("redis+majority", rest)) => ("redis", rest),
            Some(("rediss+majority", rest)) => ("rediss", rest),
            _ => return Ok(None),
        };
        const USUAL_PORT: u16 = 6379;
        let (login, rest) = rest.rsplit_once('@').map_or(("", rest), |(login, rest)| (login, rest));
        let login = if login.is_empty() { String::new() } else { format!("{login}@") };
        let (hosts, database) = rest.split_once('/').unwrap_or((rest, ""));
        if !database.chars().all(|c| c.is_ascii_digit()) {
            return Err("its database is no number, as in redis+majority://HOST,HOST,HOST/0".into());
        }
        let hosts: Option<Vec<String>> = hosts.split(',').map(|host| address(host, USUAL_PORT)).collect();
        let hosts = hosts.ok_or("a server in it is not HOST, HOST:PORT or [IPV6]:PORT")?;
        if hosts.iter().collect::<BTreeSet<_>>().len() < hosts.len() {
            return Err("it names a server twice, whose word would count twice".into());
        }
        if hosts.len() < Self::FEWEST {
            return Err(format!("it names {}, and with fewer than three none may fail", hosts.len()));
        }
        let urls = hosts.iter().map(|host| format!("{scheme}://{login}{host}/{database}")).collect();
        Ok(Some(Majority { urls }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_of_several_servers_is_taken_apart() {
        let urls = |url| Majority::parse(url).unwrap().unwrap().urls;
        assert_eq!(
            urls("redis+majority://me:p%40w@a,b:7000,[::1]:7001/3"),
            ["redis://me:p%40w@a:6379/3", "redis://me:p%40w@b:7000/3", "redis://me:p%40w@[::1]:7001/3"]
        );
        assert_eq!(urls("rediss+majority://a,b,c")[2], "rediss://c:6379/");
        assert!(Majority::parse("redis://h").unwrap().is_none());
    }

    #[test]
    fn what_is_wrong_with_it_is_said_without_its_password() {
        for url in ["a", "a,b", "a,b,a", "a,a:6379,b", "a,b,", "a,b,c/x", "a,b,c:0", "a,b,c d"] {
            let why = Majority::parse(&format!("redis+majority://:hunter2@{url}")).err().expect(url);
            assert!(!why.contains("hunter2"), "{why}");
        }
    }
}
