//! A repository's URL: `http://host[:port]/owner/slug`, or below any other path.
//!
//! Invariants: no user name, query or fragment; the path is kept as it was given, without slashes at its end.

use std::{fmt, str::FromStr};

/// A remote repository.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    /// Host name or address; an IPv6 address without its brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path, beginning with a slash unless empty.
    pub path: String,
    text: String,
}

impl Address {
    /// `host[:port]` in lower case, as given: what tokens are stored under, and what `Host` says.
    pub fn authority(&self) -> &str {
        let rest = &self.text[SCHEME.len()..];
        &rest[..rest.find('/').unwrap_or(rest.len())]
    }

    /// Whether what is sent there stays on this machine.
    pub fn is_loopback(&self) -> bool {
        matches!(self.host.as_str(), "localhost" | "127.0.0.1" | "::1")
    }

    /// The path of an endpoint: an absolute one as it is, else one below the repository.
    ///
    /// Errors: the text, if it leads to another server or is no path.
    pub fn endpoint(&self, reference: &str) -> Result<String, String> {
        let own = format!("{SCHEME}{}", self.authority());
        let path = match reference.strip_prefix(&own) {
            Some(path) => path.to_owned(),
            None if reference.contains("://") || reference.starts_with("//") => return Err(reference.to_owned()),
            None if reference.starts_with('/') => reference.to_owned(),
            None => format!("{}/{reference}", self.path),
        };
        if path.starts_with('/') && is_plain(&path) { Ok(path) } else { Err(reference.to_owned()) }
    }
}

impl Address {
    /// The endpoint of a bucket, as its user names it.
    ///
    /// Errors: why it is none that this client speaks to: over plain HTTP, on this machine.
    pub fn of_bucket(text: &str) -> Result<Address, String> {
        let address: Address = text.parse()?;
        match address.is_loopback() && address.path.is_empty() {
            true => Ok(address),
            false => Err(format!("'{text}' is not an endpoint on this machine (http://127.0.0.1:port)")),
        }
    }

    /// What a URL asks this server for; `None` if it leads to another.
    pub fn asked_by(&self, url: &str) -> Option<String> {
        let rest = url.strip_prefix(SCHEME)?;
        let (authority, path) = rest.split_at(rest.find('/')?);
        (authority.eq_ignore_ascii_case(self.authority()) && is_plain(path)).then(|| path.to_owned())
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        let text = text.trim_end_matches('/');
        let Some(rest) = text.strip_prefix(SCHEME) else {
            return Err(format!(
                "'{text}' is not an http:// address (for https put a TLS proxy on this machine before it)"
            ));
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':').unwrap_or(port)),
            None => authority.split_once(':').unwrap_or((authority, "")),
        };
        let port = if port.is_empty() { "80" } else { port };
        let port = port.parse().map_err(|_| format!("'{text}' has no port where one belongs"))?;
        if host.is_empty()
            || !is_plain(authority)
            || authority.contains('@')
            || !is_plain(path)
            || path.contains(['?', '#'])
        {
            return Err(format!("'{text}' is not the address of a repository (http://host:port/owner/name)"));
        }
        let text = format!("{SCHEME}{}{path}", authority.to_lowercase());
        Ok(Address { host: host.to_lowercase(), port, path: path.to_owned(), text })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

/// Nothing that could end a request line or a configuration's text.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'<' | b'>'))
}

const SCHEME: &str = "http://";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_address_has_host_port_and_path() {
        let address: Address = "http://Hub.example:8080/alice/etude/".parse().unwrap();
        assert_eq!((address.host.as_str(), address.port, address.path.as_str()), ("hub.example", 8080, "/alice/etude"));
        assert_eq!(
            (address.authority(), address.to_string()),
            ("hub.example:8080", "http://hub.example:8080/alice/etude".to_owned())
        );
        let address: Address = "http://[::1]/a/b".parse().unwrap();
        assert_eq!((address.host.as_str(), address.port, address.is_loopback()), ("::1", 80, true));
        for text in [
            "https://h/a",
            "h/a",
            "http://",
            "http:///a",
            "http://u:p@h/a",
            "http://h:x/a",
            "http://h/a?b",
            "http://h/a b",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_bucket_is_on_this_machine_and_only_its_own_addresses_lead_to_it() {
        let bucket = Address::of_bucket("http://localhost:9000").unwrap();
        let asked = bucket.asked_by("http://LocalHost:9000/bucket/key?X-Amz-Date=1");
        assert_eq!(asked.unwrap(), "/bucket/key?X-Amz-Date=1");
        for url in [
            "https://localhost:9000/x",
            "http://localhost:9001/x",
            "http://localhost/x",
            "http://127.0.0.1:9000/x",
            "http://localhost:9000@other/x",
            "http://localhost:9000",
            "http://localhost:9000/x y",
            "/x",
        ] {
            assert_eq!(bucket.asked_by(url), None, "{url}");
        }
        for text in ["http://bucket.example", "https://127.0.0.1", "http://127.0.0.1:9000/bucket", "127.0.0.1:9000"] {
            assert!(Address::of_bucket(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_endpoint_never_leads_to_another_server() {
        let address: Address = "http://h:1/a/b".parse().unwrap();
        assert_eq!(address.endpoint("refs").unwrap(), "/a/b/refs");
        assert_eq!(address.endpoint("/x/y?ticket=1").unwrap(), "/x/y?ticket=1");
        assert_eq!(address.endpoint("http://h:1/a/b/mpack/1").unwrap(), "/a/b/mpack/1");
        for reference in ["http://h:12/x", "http://other/x", "//other/x", "https://h:1/x", "http://h:1", "x\r\nHost: y"]
        {
            assert!(address.endpoint(reference).is_err(), "{reference}");
        }
    }
}
