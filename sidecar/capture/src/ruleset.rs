//! The rules of a configuration, as text for people and `nft`, and as nf_tables expressions for the kernel.
//!
//! Both come from the same [`Rule`] values, so that what `--dry-run` prints is what is programmed.

use std::fmt;
use std::net::IpAddr;

use crate::cidr::Cidr;
use crate::config::{CaptureConfig, ConfigError};
use crate::expr::{Expr, Header, Meta};
use crate::installed::Shape;

/// The table's name; its family is `inet`.
pub(crate) const TABLE: &str = "postern";
/// Before the chains that rewrite destinations for others (`dstnat`), where connection tracking already knows the packet.
const PRIORITY: i32 = -100;

/// The complete redirect rules of one network namespace; its `Display` is a script for `nft -f -`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    pub(crate) chains: [Chain; 2],
}

/// A base chain of type `nat` with policy `accept`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) name: &'static str,
    pub(crate) hook: Hook,
    pub(crate) priority: i32,
    pub(crate) rules: Vec<Rule>,
}

/// Where a chain sits (`NF_INET_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    Prerouting,
    Output,
}

/// One rule: when all matches hold, its verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    matches: Vec<Match>,
    verdict: Verdict,
    pub(crate) comment: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Match {
    Mark(u32),
    Uid(u32),
    FromLoopback,
    ToThisHost,
    To(Cidr),
    ToPort(u16),
    Tcp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Return,
    CountAndRedirect(u16),
}

impl Ruleset {
    /// The rules of a configuration.
    ///
    /// # Errors
    /// When the configuration would loop, capture nothing or open a way around the sidecar.
    pub fn new(config: &CaptureConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            chains: [
                Chain {
                    name: "output",
                    hook: Hook::Output,
                    priority: PRIORITY,
                    rules: output_rules(config),
                },
                Chain {
                    name: "prerouting",
                    hook: Hook::Prerouting,
                    priority: PRIORITY,
                    rules: prerouting_rules(config),
                },
            ],
        })
    }

    /// What the table says about itself, so that a change by somebody else shows without the configuration.
    pub(crate) fn table_comment(&self) -> String {
        Shape::of(self).table_comment()
    }
}

/// Connections that the application opens. The first rule that matches decides.
fn output_rules(config: &CaptureConfig) -> Vec<Rule> {
    let mut rules = Vec::new();
    let mut pass = |matches: Match, comment| rules.push(Rule::pass(matches, comment));
    if let Some(mark) = config.proxy_mark {
        pass(Match::Mark(mark), "the sidecar's own connections");
    }
    if let Some(uid) = config.proxy_uid {
        pass(Match::Uid(uid), "the sidecar's own connections");
    }
    for uid in distinct(&config.exclude_uids) {
        pass(Match::Uid(uid), "excluded user");
    }
    pass(Match::ToThisHost, "the workload to itself");
    for cidr in distinct(&config.exclude_cidrs) {
        pass(Match::To(cidr), "excluded network");
    }
    for port in distinct(&config.exclude_outbound_ports) {
        pass(Match::ToPort(port), "excluded port");
    }
    rules.push(Rule {
        matches: vec![Match::Tcp],
        verdict: Verdict::CountAndRedirect(config.outbound_port),
        comment: "outbound to the sidecar",
    });
    rules
}

/// Connections from outside to the workload. Those to the sidecar's capture ports and its admin port are redirected as
/// well; the sidecar refuses them.
fn prerouting_rules(config: &CaptureConfig) -> Vec<Rule> {
    let mut rules = vec![Rule::pass(Match::FromLoopback, "the workload to itself")];
    let mesh_ports = distinct(&config.mesh_ports);
    for port in &mesh_ports {
        rules.push(Rule::pass(Match::ToPort(*port), "the sidecar's own port"));
    }
    for port in distinct(&config.exclude_inbound_ports) {
        if !mesh_ports.contains(&port) {
            rules.push(Rule::pass(Match::ToPort(port), "excluded port"));
        }
    }
    rules.push(Rule {
        matches: vec![Match::ToThisHost, Match::Tcp],
        verdict: Verdict::CountAndRedirect(config.inbound_port),
        comment: "inbound to the sidecar",
    });
    rules
}

/// The values without repetitions, in the order in which they first appear.
fn distinct<T: Copy + PartialEq>(values: &[T]) -> Vec<T> {
    let mut seen = Vec::with_capacity(values.len());
    for value in values {
        if !seen.contains(value) {
            seen.push(*value);
        }
    }
    seen
}

impl Rule {
    fn pass(matches: Match, comment: &'static str) -> Self {
        Self {
            matches: vec![matches],
            verdict: Verdict::Return,
            comment,
        }
    }

    /// The kernel's form of the rule.
    pub(crate) fn expressions(&self) -> Vec<Expr> {
        let mut list = Vec::new();
        for matches in &self.matches {
            matches.push_to(&mut list);
        }
        match self.verdict {
            Verdict::Return => list.push(Expr::Return),
            Verdict::CountAndRedirect(port) => list.extend([
                Expr::Counter,
                Expr::Load(port.to_be_bytes().to_vec()),
                Expr::Redirect,
            ]),
        }
        list
    }
}

/// `NFPROTO_IPV4`.
const IPV4: u8 = 2;
/// `NFPROTO_IPV6`.
const IPV6: u8 = 10;
/// `IPPROTO_TCP`.
const TCP: u8 = 6;
/// `RTN_LOCAL`: an address of this host.
const LOCAL: u32 = 2;

impl Match {
    fn push_to(self, list: &mut Vec<Expr>) {
        match self {
            Self::Mark(mark) => list.extend([
                Expr::Meta(Meta::Mark),
                Expr::Equal(mark.to_ne_bytes().to_vec()),
            ]),
            Self::Uid(uid) => list.extend([
                Expr::Meta(Meta::SocketUid),
                Expr::Equal(uid.to_ne_bytes().to_vec()),
            ]),
            Self::FromLoopback => {
                let mut name = vec![0; 16];
                name[..2].copy_from_slice(b"lo");
                list.extend([Expr::Meta(Meta::InputName), Expr::Equal(name)]);
            }
            Self::ToThisHost => list.extend([
                Expr::DestinationKind,
                Expr::Equal(LOCAL.to_ne_bytes().to_vec()),
            ]),
            Self::Tcp => list.extend([Expr::Meta(Meta::Protocol), Expr::Equal(vec![TCP])]),
            Self::ToPort(port) => {
                Self::Tcp.push_to(list);
                list.extend([
                    Expr::Payload {
                        header: Header::Transport,
                        offset: 2,
                        length: 2,
                    },
                    Expr::Equal(port.to_be_bytes().to_vec()),
                ]);
            }
            Self::To(cidr) => push_network(cidr, list),
        }
    }
}

/// Compares as many whole bytes as the prefix has, or all of them under a mask: `nft` shows both as a prefix.
fn push_network(cidr: Cidr, list: &mut Vec<Expr>) {
    let (family, offset) = match cidr.address() {
        IpAddr::V4(_) => (IPV4, 16),
        IpAddr::V6(_) => (IPV6, 24),
    };
    list.extend([Expr::Meta(Meta::Family), Expr::Equal(vec![family])]);
    if cidr.prefix() == 0 {
        return;
    }
    let mut address = cidr.octets();
    let whole_bytes = cidr.prefix().is_multiple_of(8);
    if whole_bytes {
        address.truncate(usize::from(cidr.prefix() / 8));
    }
    list.push(Expr::Payload {
        header: Header::Network,
        offset,
        length: address.len() as u32,
    });
    if !whole_bytes {
        list.push(Expr::And(cidr.mask()));
    }
    list.push(Expr::Equal(address));
}

impl Hook {
    /// The kernel's number (`NF_INET_PRE_ROUTING`, `NF_INET_LOCAL_OUT`).
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Output => 3,
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prerouting => "prerouting",
            Self::Output => "output",
        })
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mark(mark) => write!(f, "meta mark {mark:#010x}"),
            Self::Uid(uid) => write!(f, "meta skuid {uid}"),
            Self::FromLoopback => f.write_str("iifname \"lo\""),
            Self::ToThisHost => f.write_str("fib daddr type local"),
            Self::To(cidr) => match (cidr.address(), cidr.prefix()) {
                (IpAddr::V4(_), 0) => f.write_str("meta nfproto ipv4"),
                (IpAddr::V6(_), 0) => f.write_str("meta nfproto ipv6"),
                (IpAddr::V4(_), _) => write!(f, "ip daddr {cidr}"),
                (IpAddr::V6(_), _) => write!(f, "ip6 daddr {cidr}"),
            },
            Self::ToPort(port) => write!(f, "tcp dport {port}"),
            Self::Tcp => f.write_str("meta l4proto tcp"),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for matches in &self.matches {
            write!(f, "{matches} ")?;
        }
        match self.verdict {
            Verdict::Return => f.write_str("return"),
            Verdict::CountAndRedirect(port) => write!(f, "counter redirect to :{port}"),
        }
    }
}

impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Naming the table first makes the deletion succeed where there is none yet.
        writeln!(f, "table inet {TABLE}\ndelete table inet {TABLE}")?;
        writeln!(f, "table inet {TABLE} {{")?;
        writeln!(f, "\tcomment \"{}\"", self.table_comment())?;
        for chain in &self.chains {
            writeln!(f, "\n\tchain {} {{", chain.name)?;
            writeln!(
                f,
                "\t\ttype nat hook {} priority {}; policy accept;",
                chain.hook, chain.priority
            )?;
            for rule in &chain.rules {
                writeln!(f, "\t\t{rule} comment \"{}\"", rule.comment)?;
            }
            writeln!(f, "\t}}")?;
        }
        writeln!(f, "}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expressions_of(text: &str) -> Vec<Expr> {
        let mut list = Vec::new();
        push_network(text.parse().unwrap(), &mut list);
        list
    }

    #[test]
    fn networks_are_compared_bytewise_or_under_a_mask() {
        let payload = |offset, length| Expr::Payload {
            header: Header::Network,
            offset,
            length,
        };
        let family = |family| [Expr::Meta(Meta::Family), Expr::Equal(vec![family])];
        let cases: [(&str, u8, Vec<Expr>); 6] = [
            ("0.0.0.0/0", IPV4, vec![]),
            ("::/0", IPV6, vec![]),
            (
                "10.0.0.0/8",
                IPV4,
                vec![payload(16, 1), Expr::Equal(vec![10])],
            ),
            (
                "10.1.2.3",
                IPV4,
                vec![payload(16, 4), Expr::Equal(vec![10, 1, 2, 3])],
            ),
            (
                "10.128.0.0/9",
                IPV4,
                vec![
                    payload(16, 4),
                    Expr::And(vec![255, 128, 0, 0]),
                    Expr::Equal(vec![10, 128, 0, 0]),
                ],
            ),
            (
                "fd00::/16",
                IPV6,
                vec![payload(24, 2), Expr::Equal(vec![0xfd, 0])],
            ),
        ];
        for (text, number, after) in cases {
            let expected: Vec<_> = family(number).into_iter().chain(after).collect();
            assert_eq!(expressions_of(text), expected, "{text}");
        }
    }

    #[test]
    fn repeated_values_make_one_rule() {
        let config = CaptureConfig {
            exclude_inbound_ports: vec![15008, 22, 22],
            exclude_outbound_ports: vec![25, 25],
            ..CaptureConfig::default()
        };
        let script = Ruleset::new(&config).unwrap().to_string();
        for port in [15008, 22, 25] {
            let rule = format!("tcp dport {port} return");
            assert_eq!(script.matches(&rule).count(), 1, "{rule}");
        }
    }

    #[test]
    fn comments_fit_what_nft_shows() {
        let config = CaptureConfig {
            exclude_uids: (0..500).collect(),
            ..CaptureConfig::default()
        };
        let ruleset = Ruleset::new(&config).unwrap();
        assert!(ruleset.table_comment().len() < 128);
        for rule in ruleset.chains.iter().flat_map(|chain| &chain.rules) {
            assert!(rule.comment.len() < 128);
        }
    }
}
