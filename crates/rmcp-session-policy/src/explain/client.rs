//! [`Client`]: what is kept of a client, for operators.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::admission::ClientKey;
use crate::context::ClientContext;

/// The bytes that are kept of a principal. It may come from a stranger, and each entry of the history keeps one.
const LONGEST: usize = 64;

/// What is kept of a client: its principal, else its address.
///
/// `Display` shows it to operators: a principal in quotes, with what does not print escaped; of an address the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    /// The principal, up to its 64th byte.
    Principal(Arc<str>),
    /// The beginning of a longer principal.
    LongPrincipal(Arc<str>),
    Address(IpAddr),
    Unknown,
}

impl Client {
    /// Copies nothing of a principal that is kept whole.
    pub(crate) fn of(context: Option<&ClientContext>) -> Self {
        let Some(context) = context else { return Self::Unknown };
        match (context.shared_principal(), context.peer()) {
            (Some(principal), _) if principal.len() <= LONGEST => Self::Principal(Arc::clone(principal)),
            (Some(principal), _) => Self::LongPrincipal(cut(principal, LONGEST).into()),
            (None, Some(address)) => Self::Address(address),
            (None, None) => Self::Unknown,
        }
    }
}

/// The first bytes of a text, up to the end of a character.
pub(super) fn cut(text: &str, longest: usize) -> &str {
    let mut end = longest.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // `Debug` of a text escapes quotes, controls, and marks that turn the direction of what follows.
            Self::Principal(principal) => write!(f, "{principal:?}"),
            Self::LongPrincipal(principal) => write!(f, "{principal:?}…"),
            Self::Address(address) => {
                let (network, bits) = ClientKey::prefix_of(*address);
                write!(f, "{network}/{bits}")
            }
            Self::Unknown => f.write_str("an unknown client"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(context: ClientContext) -> String {
        Client::of(Some(&context)).to_string()
    }

    #[test]
    fn an_operator_sees_the_principal_or_else_the_network() {
        let peer = |text: &str| ClientContext::new().with_peer(text.parse().unwrap());
        assert_eq!(shown(peer("10.1.2.3")), "10.1.2.0/24");
        assert_eq!(shown(peer("::ffff:10.1.2.3")), "10.1.2.0/24");
        assert_eq!(shown(peer("2001:db8:1:2:3:4:5:6")), "2001:db8:1::/48");
        assert_eq!(shown(peer("64:ff9b:1::192.0.2.1")), "64:ff9b:1::c000:200/120");
        assert_eq!(shown(peer("10.1.2.3").with_principal("alice")), "\"alice\"");
        assert_eq!(shown(ClientContext::new()), "an unknown client");
        assert_eq!(Client::of(None).to_string(), "an unknown client");
    }

    #[test]
    fn a_principal_is_one_line_and_bounded_whatever_is_in_it() {
        let evil = ClientContext::new().with_principal("a\r\nSet-Cookie: b\u{1b}[2J\u{202e}\"\u{0}<script>");
        let text = shown(evil);
        assert_eq!(text, r#""a\r\nSet-Cookie: b\u{1b}[2J\u{202e}\"\0<script>""#);
        // 63 bytes and characters of two: cut between two.
        let long = format!("{}{}", "a".repeat(63), "é".repeat(1_000_000));
        assert_eq!(shown(ClientContext::new().with_principal(&*long)), format!("\"{}\"…", "a".repeat(63)));
        let kept = Client::of(Some(&ClientContext::new().with_principal(&*long)));
        assert!(matches!(kept, Client::LongPrincipal(kept) if kept.len() <= LONGEST));
    }
}
