//! Where requests go.

use std::net::{SocketAddr, ToSocketAddrs};

use crate::client::ClientError;

/// A server, as a URL names it.
#[derive(Clone, Debug)]
pub struct Target {
    /// The first address that the host's name has.
    pub address: SocketAddr,
    /// Host and port as requests name them.
    pub authority: String,
    /// Whether it is spoken to through TLS.
    pub tls: bool,
    /// What every request to it says: lines of `name: value\r\n`, names in lower case.
    pub headers: String,
}

impl Target {
    /// From `http://host[:port]` or `https://host[:port]`, without a path.
    pub fn from_url(url: &str) -> Result<Target, ClientError> {
        match Target::with_path(url)? {
            (target, path) if path == "/" => Ok(target),
            _ => Err(ClientError::Url { url: url.to_string() }),
        }
    }

    /// From a URL: the server, and the path with its query.
    pub fn with_path(url: &str) -> Result<(Target, String), ClientError> {
        let wrong = || ClientError::Url { url: url.to_string() };
        let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
        let tls = match scheme {
            "http" => false,
            "https" => true,
            _ => return Err(wrong()),
        };
        let (authority, path) = match rest.find(['/', '?']) {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        if authority.is_empty() || authority.contains(['#', '@', ' ']) || path.contains(['#', ' '])
        {
            return Err(wrong());
        }
        let path = if path.starts_with('/') { path.to_string() } else { format!("/{path}") };
        let has_port = authority.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok());
        let with_port = match (has_port, tls) {
            (true, _) => authority.to_string(),
            (false, true) => format!("{authority}:443"),
            (false, false) => format!("{authority}:80"),
        };
        let address = with_port.to_socket_addrs()?.next().ok_or_else(wrong)?;
        let (authority, headers) = (authority.to_string(), String::new());
        Ok((Target { address, authority, tls, headers }, path))
    }

    /// The host without its port, as a certificate names it.
    pub fn host(&self) -> &str {
        let host = match self.authority.rsplit_once(':') {
            Some((host, port)) if port.parse::<u16>().is_ok() => host,
            _ => &self.authority,
        };
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The head of a POST with a JSON body of so many bytes, appended to `out`.
    pub fn post(&self, path: &str, body_bytes: usize, out: &mut Vec<u8>) {
        self.head("POST ", path, out);
        out.extend_from_slice(b"content-type: application/json\r\ncontent-length: ");
        out.extend_from_slice(itoa::Buffer::new().format(body_bytes).as_bytes());
        out.extend_from_slice(b"\r\n\r\n");
    }

    /// A GET, appended to `out`.
    pub fn get(&self, path: &str, out: &mut Vec<u8>) {
        self.head("GET ", path, out);
        out.extend_from_slice(b"\r\n");
    }

    fn head(&self, method: &str, path: &str, out: &mut Vec<u8>) {
        let host = [" HTTP/1.1\r\nhost: ", &self.authority, "\r\n"].concat();
        for part in [method, path, &host, &self.headers] {
            out.extend_from_slice(part.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_addresses() {
        let target = Target::from_url("http://127.0.0.1:8080/").unwrap();
        assert_eq!(target.address, "127.0.0.1:8080".parse().unwrap());
        assert_eq!(Target::from_url("http://127.0.0.1").unwrap().address.port(), 80);
        let secure = Target::from_url("https://127.0.0.1").unwrap();
        assert_eq!((secure.address.port(), secure.tls, secure.host()), (443, true, "127.0.0.1"));
        assert_eq!(Target::from_url("http://[::1]:81").unwrap().host(), "::1");
        for url in ["127.0.0.1:80", "ftp://127.0.0.1", "http://", "http://127.0.0.1/x"] {
            assert!(matches!(Target::from_url(url), Err(ClientError::Url { .. })), "{url}");
        }
        let path = |url| Target::with_path(url).unwrap().1;
        assert_eq!(path("http://127.0.0.1/a/b?c=d"), "/a/b?c=d");
        assert_eq!(path("http://127.0.0.1?c=d"), "/?c=d");
    }
}
