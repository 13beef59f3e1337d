//! [`Hosts`]: the hosts under which the page may be asked for.
//!
//! A site can have its own name point at a server that only its visitors reach (DNS rebinding). Their browsers then take
//! the server for that site, but say its name in each request.

use std::net::IpAddr;

use crate::config_error::ConfigError;

/// The host names and addresses that a request may name: loopback ones, and those that the author has given.
#[derive(Clone, Debug, Default)]
pub(super) struct Hosts(Vec<Host>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Address(IpAddr),
    /// In lower case.
    Name(Box<str>),
}

impl Hosts {
    pub(super) fn new(hosts: &[String]) -> Result<Self, ConfigError> {
        let parse = |text: &String| {
            let remedy = "write a host name or an address, without scheme and port, as in admin.example.com";
            Host::parse(text).ok_or_else(|| ConfigError::new("hosts", text, remedy))
        };
        hosts.iter().map(parse).collect::<Result<_, _>>().map(Self)
    }

    /// Returns whether an authority, such as `localhost:9000`, may be asked for. Any port may.
    pub(super) fn allow(&self, authority: &str) -> bool {
        let host = without_port(authority).and_then(Host::parse);
        host.is_some_and(|host| host.is_loopback() || self.0.contains(&host))
    }
}

impl Host {
    fn parse(text: &str) -> Option<Self> {
        let address = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = address.parse::<IpAddr>() {
            return Some(Self::Address(address.to_canonical()));
        }
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        let is_host = (1..=253).contains(&text.len()) && text.bytes().all(is_name);
        is_host.then(|| Self::Name(text.to_ascii_lowercase().into()))
    }

    fn is_loopback(&self) -> bool {
        match self {
            Self::Address(address) => address.is_loopback(),
            Self::Name(name) => &**name == "localhost",
        }
    }
}

fn without_port(authority: &str) -> Option<&str> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (authority, ""),
    };
    port.bytes().all(|digit| digit.is_ascii_digit()).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_and_the_given_hosts_are_allowed_at_any_port() {
        let hosts =
            Hosts::new(&["Admin.example.com".to_owned(), "10.1.2.3".to_owned(), "2001:db8::1".to_owned()]).unwrap();
        for good in [
            "localhost",
            "LOCALHOST:80",
            "127.0.0.1:9000",
            "127.1.2.3",
            "[::1]:9000",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "admin.example.com",
            "ADMIN.example.com:8443",
            "10.1.2.3:1",
            "[2001:DB8:0::1]:9",
        ] {
            assert!(hosts.allow(good), "{good}");
        }
        for bad in [
            "",
            ":80",
            "evil.example",
            "localhost.evil.example",
            "localhost.",
            "xlocalhost",
            "admin.example.com.",
            "admin.example.com:80:80",
            "user@localhost",
            "localhost:x",
            "10.1.2.4",
            "127.0.0.1.nip.io",
            "[::1",
            "localhost/",
            "localhost localhost",
        ] {
            assert!(!hosts.allow(bad), "{bad}");
        }
    }

    #[test]
    fn a_host_with_more_than_a_name_is_an_error() {
        for bad in ["", "http://admin.example.com", "admin.example.com:443", "*.example.com", "a b", "a/b"] {
            let error = Hosts::new(&[bad.to_owned()]).unwrap_err();
            assert_eq!(error.setting, "hosts");
        }
    }
}
