//! nf_tables expressions: the few that capture needs, as bytes for the kernel and back.
//!
//! A rule is a list of expressions; one that does not match ends the rule. Reading back is strict: an expression that
//! differs in anything from what [`Expr::write`] writes becomes [`Expr::Other`], so that comparing lists compares rules.

use crate::wire::{Attributes, Writer};

/// `NFT_REG_VERDICT`.
const VERDICT_REGISTER: u32 = 0;
/// `NFT_REG_1`: the only data register used.
const REGISTER: u32 = 1;
/// `NFT_RETURN`, as an unsigned number.
const RETURN: u32 = (-5_i32).cast_unsigned();

/// A packet's property (`NFT_META_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meta {
    /// The socket's mark; host byte order.
    Mark,
    /// The interface the packet came in by; 16 bytes, padded with NUL.
    InputName,
    /// The socket's user; host byte order.
    SocketUid,
    /// IPv4 or IPv6 (`NFPROTO_*`); one byte.
    Family,
    /// The transport protocol; one byte.
    Protocol,
}

impl Meta {
    const ALL: [Self; 5] = [
        Self::Mark,
        Self::InputName,
        Self::SocketUid,
        Self::Family,
        Self::Protocol,
    ];

    fn key(self) -> u32 {
        match self {
            Self::Mark => 3,
            Self::InputName => 6,
            Self::SocketUid => 10,
            Self::Family => 15,
            Self::Protocol => 16,
        }
    }
}

/// A packet header (`NFT_PAYLOAD_*_HEADER`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Header {
    /// IPv4 or IPv6.
    Network,
    /// TCP.
    Transport,
}

/// One expression. All data goes through register 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expr {
    /// Loads a property of the packet.
    Meta(Meta),
    /// Loads the kind of address (`RTN_*`) that the destination is.
    DestinationKind,
    /// Loads `length` bytes at `offset` of a header.
    Payload {
        header: Header,
        offset: u32,
        length: u32,
    },
    /// Clears the bits that the mask lacks.
    And(Vec<u8>),
    /// Goes on only when the register holds these bytes.
    Equal(Vec<u8>),
    /// Counts what comes here.
    Counter,
    /// Loads bytes.
    Load(Vec<u8>),
    /// Sends the connection to this machine at the port in the register.
    Redirect,
    /// Leaves the chain.
    Return,
    /// Anything that this crate does not write, by its kernel name.
    Other(String),
}

impl Expr {
    /// The name the kernel knows it by.
    fn name(&self) -> &str {
        match self {
            Self::Meta(_) => "meta",
            Self::DestinationKind => "fib",
            Self::Payload { .. } => "payload",
            Self::And(_) => "bitwise",
            Self::Equal(_) => "cmp",
            Self::Counter => "counter",
            Self::Load(_) | Self::Return => "immediate",
            Self::Redirect => "redir",
            Self::Other(name) => name,
        }
    }

    /// Appends the list element (`NFTA_LIST_ELEM`) for this expression.
    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.nested(1, |w| {
            w.text(1, self.name());
            w.nested(2, |w| self.write_data(w));
        });
    }

    fn write_data(&self, w: &mut Writer) {
        match self {
            Self::Meta(meta) => {
                w.number(1, REGISTER);
                w.number(2, meta.key());
            }
            Self::DestinationKind => {
                w.number(1, REGISTER);
                w.number(2, fib::RESULT_ADDRESS_TYPE);
                w.number(3, fib::DESTINATION);
            }
            Self::Payload {
                header,
                offset,
                length,
            } => {
                w.number(1, REGISTER);
                w.number(2, header_base(*header));
                w.number(3, *offset);
                w.number(4, *length);
            }
            Self::And(mask) => {
                w.number(1, REGISTER);
                w.number(2, REGISTER);
                w.number(3, mask.len() as u32);
                w.nested(4, |w| w.attribute(1, mask));
                w.nested(5, |w| w.attribute(1, &vec![0; mask.len()]));
            }
            Self::Equal(value) => {
                w.number(1, REGISTER);
                w.number(2, 0);
                w.nested(3, |w| w.attribute(1, value));
            }
            Self::Load(value) => {
                w.number(1, REGISTER);
                w.nested(2, |w| w.attribute(1, value));
            }
            Self::Return => {
                w.number(1, VERDICT_REGISTER);
                w.nested(2, |w| w.nested(2, |w| w.number(1, RETURN)));
            }
            Self::Redirect => w.number(1, REGISTER),
            Self::Counter | Self::Other(_) => {}
        }
    }

    /// Reads the expression that a list element holds.
    pub(crate) fn read(element: &Attributes<'_>) -> Self {
        let name = element.text(1).unwrap_or_default();
        let data = element.inside(2);
        Self::read_data(&name, &data).unwrap_or(Self::Other(name))
    }

    fn read_data(name: &str, data: &Attributes<'_>) -> Option<Self> {
        let uses_register = |kind| data.number(kind) == Some(REGISTER);
        match name {
            "meta" if uses_register(1) => {
                let key = data.number(2)?;
                let meta = Meta::ALL.into_iter().find(|meta| meta.key() == key)?;
                Some(Self::Meta(meta))
            }
            "fib" if uses_register(1) => (data.number(2) == Some(fib::RESULT_ADDRESS_TYPE)
                && data.number(3) == Some(fib::DESTINATION))
            .then_some(Self::DestinationKind),
            "payload" if uses_register(1) => {
                let base = data.number(2)?;
                let mut headers = [Header::Network, Header::Transport].into_iter();
                Some(Self::Payload {
                    header: headers.find(|header| header_base(*header) == base)?,
                    offset: data.number(3)?,
                    length: data.number(4)?,
                })
            }
            "bitwise" if uses_register(1) && uses_register(2) => {
                let mask = data.inside(4).get(1)?.to_vec();
                let keeps = data.inside(5).get(1)?.iter().all(|byte| *byte == 0);
                // Operation 0 is mask-and-xor, the only one that older kernels have.
                let masks = data.number(6).unwrap_or(0) == 0;
                (keeps && masks).then_some(Self::And(mask))
            }
            "cmp" if uses_register(1) && data.number(2) == Some(0) => {
                Some(Self::Equal(data.inside(3).get(1)?.to_vec()))
            }
            "counter" => Some(Self::Counter),
            "immediate" if uses_register(1) => Some(Self::Load(data.inside(2).get(1)?.to_vec())),
            "immediate" => (data.number(1) == Some(VERDICT_REGISTER)
                && data.inside(2).inside(2).number(1) == Some(RETURN))
            .then_some(Self::Return),
            "redir" => {
                let to_one_port = data.number(2).is_none_or(|last| last == REGISTER);
                (uses_register(1) && to_one_port && data.number(3).unwrap_or(0) & !PORT_GIVEN == 0)
                    .then_some(Self::Redirect)
            }
            _ => None,
        }
    }

    /// The number of packets that a counter has seen.
    pub(crate) fn packets(element: &Attributes<'_>) -> Option<u64> {
        (element.text(1)? == "counter").then(|| element.inside(2).long(2))?
    }
}

/// `NF_NAT_RANGE_PROTO_SPECIFIED`, which the kernel adds to a redirect by itself.
const PORT_GIVEN: u32 = 2;

mod fib {
    /// `NFT_FIB_RESULT_ADDRTYPE`.
    pub(super) const RESULT_ADDRESS_TYPE: u32 = 3;
    /// `NFTA_FIB_F_DADDR`.
    pub(super) const DESTINATION: u32 = 2;
}

fn header_base(header: Header) -> u32 {
    match header {
        Header::Network => 1,
        Header::Transport => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_kind() -> Vec<Expr> {
        let mut all: Vec<_> = Meta::ALL.into_iter().map(Expr::Meta).collect();
        all.extend([
            Expr::DestinationKind,
            Expr::Payload {
                header: Header::Network,
                offset: 16,
                length: 4,
            },
            Expr::Payload {
                header: Header::Transport,
                offset: 2,
                length: 2,
            },
            Expr::And(vec![255, 128, 0, 0]),
            Expr::Equal(vec![10]),
            Expr::Counter,
            Expr::Load(15001_u16.to_be_bytes().to_vec()),
            Expr::Redirect,
            Expr::Return,
        ]);
        all
    }

    fn bytes_of(expr: &Expr) -> Vec<u8> {
        let mut writer = Writer::default();
        expr.write(&mut writer);
        writer.into_bytes()
    }

    #[test]
    fn every_expression_is_read_back_as_it_was_written() {
        for expr in every_kind() {
            let bytes = bytes_of(&expr);
            assert_eq!(Expr::read(&Attributes(&bytes).inside(1)), expr);
        }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_comparison_has_the_kernels_layout() {
        assert_eq!(
            bytes_of(&Expr::Equal(vec![6])),
            [
                44, 0, 1, 0x80, // NFTA_LIST_ELEM, nested
                8, 0, 1, 0, b'c', b'm', b'p', 0, // NFTA_EXPR_NAME
                32, 0, 2, 0x80, // NFTA_EXPR_DATA, nested
                8, 0, 1, 0, 0, 0, 0, 1, // NFTA_CMP_SREG: register 1
                8, 0, 2, 0, 0, 0, 0, 0, // NFTA_CMP_OP: equal
                12, 0, 3, 0x80, 5, 0, 1, 0, 6, 0, 0,
                0, // NFTA_CMP_DATA / NFTA_DATA_VALUE: TCP
            ]
        );
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_return_has_the_kernels_layout() {
        assert_eq!(
            bytes_of(&Expr::Return)[20..],
            [
                28, 0, 2, 0x80, // NFTA_EXPR_DATA
                8, 0, 1, 0, 0, 0, 0, 0, // NFTA_IMMEDIATE_DREG: the verdict register
                16, 0, 2, 0x80, // NFTA_IMMEDIATE_DATA
                12, 0, 2, 0x80, // NFTA_DATA_VERDICT
                8, 0, 1, 0, 255, 255, 255, 251, // NFTA_VERDICT_CODE: NFT_RETURN, -5
            ]
        );
    }

    #[test]
    fn what_differs_from_our_expressions_is_not_taken_for_one() {
        let element = |name: &str, data: fn(&mut Writer)| {
            let mut writer = Writer::default();
            writer.text(1, name);
            writer.nested(2, data);
            Expr::read(&Attributes(&writer.into_bytes()))
        };
        let other = |name: &str| Expr::Other(name.to_owned());
        let not_equal = element("cmp", |w| {
            w.number(1, 1);
            w.number(2, 1);
            w.nested(3, |w| w.attribute(1, &[6]));
        });
        assert_eq!(not_equal, other("cmp"));
        let accept = element("immediate", |w| {
            w.number(1, 0);
            w.nested(2, |w| w.nested(2, |w| w.number(1, 1)));
        });
        assert_eq!(accept, other("immediate"));
        let set_mark = element("meta", |w| {
            w.number(2, 3);
            w.number(3, 1);
        });
        assert_eq!(set_mark, other("meta"));
        let random_port = element("redir", |w| {
            w.number(1, 1);
            w.number(3, 2 | 4);
        });
        assert_eq!(random_port, other("redir"));
        assert_eq!(element("lookup", |_| {}), other("lookup"));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_from_the_kernel_can_cause_a_panic(bytes: Vec<u8>) {
            let _ = Expr::read(&Attributes(&bytes));
            let _ = Expr::packets(&Attributes(&bytes));
        }
    }
}
