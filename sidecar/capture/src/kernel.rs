//! Programs, removes and reads the table `inet postern` of the current network namespace.
//!
//! A change is one batch: the kernel takes all of it or nothing, and no packet sees a half.

use rustix::io::Errno;

use crate::error::CaptureError;
use crate::expr::Expr;
use crate::installed::{Base, ChainShape, Counters, Installed, Shape};
use crate::ruleset::{Chain, Rule, Ruleset, TABLE};
use crate::socket::{Object, Outcome, Socket};
use crate::wire::{Attributes, Writer, flags, read_text};

/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;
/// `NFPROTO_INET`.
const INET: u8 = 1;
/// `NFNL_MSG_BATCH_BEGIN`.
const BATCH_BEGIN: u16 = 0x10;
/// `NFNL_MSG_BATCH_END`.
const BATCH_END: u16 = 0x11;
/// `NFT_TABLE_F_DORMANT`.
const DORMANT: u32 = 1;
/// How often a read or a batch that others disturbed is tried.
const ATTEMPTS: usize = 8;

/// nf_tables message types (`NFT_MSG_*`).
mod message {
    pub(super) const NEW_TABLE: u16 = 0;
    pub(super) const GET_TABLE: u16 = 1;
    pub(super) const DELETE_TABLE: u16 = 2;
    pub(super) const NEW_CHAIN: u16 = 3;
    pub(super) const GET_CHAIN: u16 = 4;
    pub(super) const NEW_RULE: u16 = 6;
    pub(super) const GET_RULE: u16 = 7;
    pub(super) const GET_GENERATION: u16 = 16;
}

/// Programs the rules in the current network namespace, in place of those that are there.
///
/// One atomic step: other programs and packets see the old rules or the new ones. Doing it again changes nothing but
/// sets the counters back.
///
/// # Errors
/// When the process lacks `CAP_NET_ADMIN`, the kernel lacks a part, or another program owns the table.
pub fn apply(ruleset: &Ruleset) -> Result<(), CaptureError> {
    let mut batch = Batch::new();
    // Naming the table first makes the deletion succeed where there is none yet.
    batch.table("creating table `inet postern`", message::NEW_TABLE, None);
    batch.table(
        "replacing table `inet postern`",
        message::DELETE_TABLE,
        None,
    );
    let comment = ruleset.table_comment();
    batch.table(
        "creating table `inet postern`",
        message::NEW_TABLE,
        Some(&comment),
    );
    for chain in &ruleset.chains {
        batch.chain(chain);
        for rule in &chain.rules {
            batch.rule(chain, rule);
        }
    }
    match batch.commit()? {
        Committed::Yes => Ok(()),
        Committed::Refused(error, _) => Err(error),
    }
}

/// Removes the rules from the current network namespace; false when there were none.
///
/// # Errors
/// When the process lacks `CAP_NET_ADMIN` or another program owns the table.
pub fn remove() -> Result<bool, CaptureError> {
    let mut batch = Batch::new();
    batch.table("removing table `inet postern`", message::DELETE_TABLE, None);
    match batch.commit()? {
        Committed::Yes => Ok(true),
        Committed::Refused(_, Errno::NOENT) => Ok(false),
        Committed::Refused(error, _) => Err(error),
    }
}

/// What the current network namespace holds, compared with what its table says was programmed; none without the table.
///
/// Needs no configuration; finds rules that were removed, added, changed or switched off.
///
/// # Errors
/// When the process lacks `CAP_NET_ADMIN` or the kernel lacks nf_tables.
pub fn installed() -> Result<Option<Installed>, CaptureError> {
    let found = read()?;
    Ok(found.map(|table| Installed::against_comment(&table.shape, table.counters, &table.comment)))
}

/// What the current network namespace holds, compared with `expected`; none without the table.
///
/// # Errors
/// When the process lacks `CAP_NET_ADMIN` or the kernel lacks nf_tables.
pub fn check(expected: &Ruleset) -> Result<Option<Installed>, CaptureError> {
    let found = read()?;
    Ok(found.map(|table| Installed::against_ruleset(&table.shape, table.counters, expected)))
}

/// Messages that are carried out together or not at all.
struct Batch {
    writer: Writer,
    /// What each message does; the index is its sequence number.
    doing: Vec<String>,
}

enum Committed {
    Yes,
    Refused(CaptureError, Errno),
}

impl Batch {
    fn new() -> Self {
        let mut batch = Self {
            writer: Writer::default(),
            doing: Vec::new(),
        };
        batch.mark(BATCH_BEGIN, "changing the nftables rules");
        batch
    }

    fn mark(&mut self, kind: u16, doing: &str) {
        let [high, low] = SUBSYSTEM.to_be_bytes();
        let sequence = self.next(doing);
        self.writer.message(kind, flags::REQUEST, sequence, |w| {
            w.raw(&[0, 0, high, low]);
        });
    }

    fn next(&mut self, doing: impl Into<String>) -> u32 {
        self.doing.push(doing.into());
        self.doing.len() as u32 - 1
    }

    fn push(&mut self, kind: u16, extra: u16, doing: String, content: impl FnOnce(&mut Writer)) {
        let sequence = self.next(doing);
        let flags = flags::REQUEST | extra;
        self.writer.message(nf_tables(kind), flags, sequence, |w| {
            w.raw(&[INET, 0, 0, 0]);
            content(w);
        });
    }

    fn table(&mut self, doing: &str, kind: u16, comment: Option<&str>) {
        let create = if kind == message::NEW_TABLE {
            flags::CREATE
        } else {
            0
        };
        self.push(kind, create, doing.to_owned(), |w| {
            w.text(table::NAME, TABLE);
            if let Some(comment) = comment {
                w.attribute(table::USERDATA, &user_comment(comment));
            }
        });
    }

    fn chain(&mut self, chain: &Chain) {
        let doing = format!("adding chain `{}` (type nat)", chain.name);
        self.push(message::NEW_CHAIN, flags::CREATE, doing, |w| {
            w.text(chain::TABLE, TABLE);
            w.text(chain::NAME, chain.name);
            w.nested(chain::HOOK, |w| {
                w.number(1, chain.hook.number());
                w.number(2, chain.priority.cast_unsigned());
            });
            w.number(chain::POLICY, 1);
            w.text(chain::TYPE, "nat");
        });
    }

    fn rule(&mut self, chain: &Chain, rule: &Rule) {
        let doing = format!("adding rule `{rule}` to chain `{}`", chain.name);
        let extra = flags::CREATE | flags::APPEND;
        self.push(message::NEW_RULE, extra, doing, |w| {
            w.text(rule::TABLE, TABLE);
            w.text(rule::CHAIN, chain.name);
            w.nested(rule::EXPRESSIONS, |w| {
                for expr in rule.expressions() {
                    expr.write(w);
                }
            });
            w.attribute(rule::USERDATA, &user_comment(rule.comment));
        });
    }

    fn commit(mut self) -> Result<Committed, CaptureError> {
        // One acknowledgement ends the wait; one for each of hundreds of rules would not fit the socket. It is not asked of
        // the closing message: kernels before 6.10 do not acknowledge that.
        self.writer.acknowledge_last();
        let last = self.doing.len() as u32 - 1;
        self.mark(BATCH_END, "changing the nftables rules");
        let bytes = self.writer.into_bytes();
        let doing = |sequence: u32| {
            let text = self.doing.get(sequence as usize);
            text.map_or("changing the nftables rules", String::as_str)
        };
        let mut attempt = 1;
        loop {
            // A fresh socket: answers that were left unread after a refusal must not be taken for those of a new try.
            let outcome = Socket::open()?.request(doing(0), &bytes, last)?;
            match outcome {
                Outcome::Objects(_) => return Ok(Committed::Yes),
                Outcome::Refused {
                    errno: Errno::INTR | Errno::AGAIN,
                    ..
                } if attempt < ATTEMPTS => attempt += 1,
                Outcome::Interrupted => attempt += 1,
                Outcome::Refused {
                    sequence,
                    errno,
                    explanation,
                } => {
                    // Without privilege the kernel refuses the batch as a whole, which is message 0; "not permitted" for one
                    // of its messages means that the table has another owner.
                    let error = match errno {
                        Errno::PERM if sequence > 0 => {
                            CaptureError::busy(doing(sequence), errno, explanation)
                        }
                        _ => CaptureError::new(doing(sequence), errno, explanation),
                    };
                    return Ok(Committed::Refused(error, errno));
                }
            }
        }
    }
}

/// The table as the kernel holds it.
struct Table {
    shape: Shape,
    counters: Counters,
    comment: String,
}

const READING: &str = "reading the nftables rules";

/// Reads the table as it was at one moment.
fn read() -> Result<Option<Table>, CaptureError> {
    for _ in 0..ATTEMPTS {
        // Tables, chains and rules are three answers; they belong together when no change came between.
        let before = generation()?;
        let (Some(tables), Some(chains), Some(rules)) = (
            dump(message::GET_TABLE)?,
            dump(message::GET_CHAIN)?,
            dump(message::GET_RULE)?,
        ) else {
            continue;
        };
        if generation()? != before {
            continue;
        }
        let mut tables = tables.iter().map(|(_, payload)| attributes(payload));
        let found = tables.find(|table| table.text(table::NAME).as_deref() == Some(TABLE));
        return Ok(found.map(|found| assemble(&found, &chains, &rules)));
    }
    Err(CaptureError::new(READING, Errno::AGAIN, None))
}

/// The number that grows with every change of the namespace's rules.
fn generation() -> Result<Option<u32>, CaptureError> {
    let objects = ask(message::GET_GENERATION, flags::ACK)?.unwrap_or_default();
    let first = objects.first().map(|(_, payload)| attributes(payload));
    Ok(first.and_then(|generation| generation.number(1)))
}

/// All objects of the `inet` family that `kind` asks for; none when they changed meanwhile.
fn dump(kind: u16) -> Result<Option<Vec<Object>>, CaptureError> {
    ask(kind, flags::DUMP)
}

fn ask(kind: u16, extra: u16) -> Result<Option<Vec<Object>>, CaptureError> {
    let mut writer = Writer::default();
    writer.message(nf_tables(kind), flags::REQUEST | extra, 1, |w| {
        w.raw(&[INET, 0, 0, 0]);
    });
    match Socket::open()?.request(READING, &writer.into_bytes(), 1)? {
        Outcome::Objects(objects) => Ok(Some(objects)),
        Outcome::Interrupted => Ok(None),
        Outcome::Refused {
            errno, explanation, ..
        } => Err(CaptureError::new(READING, errno, explanation)),
    }
}

fn assemble(found: &Attributes<'_>, chains: &[Object], rules: &[Object]) -> Table {
    let mut counters = Counters::default();
    let mut shape = Shape {
        dormant: found.number(table::FLAGS).unwrap_or(0) & DORMANT != 0,
        chains: Vec::new(),
    };
    for (_, payload) in chains {
        let chain = attributes(payload);
        if chain.text(chain::TABLE).as_deref() == Some(TABLE) {
            shape.chains.push(read_chain(&chain));
        }
    }
    for (_, payload) in rules {
        let rule = attributes(payload);
        if rule.text(rule::TABLE).as_deref() != Some(TABLE) {
            continue;
        }
        let name = rule.text(rule::CHAIN).unwrap_or_default();
        let elements = rule.inside(rule::EXPRESSIONS).filter_map(Result::ok);
        let elements: Vec<_> = elements.map(|(_, value)| Attributes(value)).collect();
        let packets: u64 = elements.iter().filter_map(Expr::packets).sum();
        match name.as_str() {
            "output" => counters.outbound += packets,
            "prerouting" => counters.inbound += packets,
            _ => {}
        }
        if let Some(chain) = shape.chains.iter_mut().find(|chain| chain.name == name) {
            chain.rules.push(elements.iter().map(Expr::read).collect());
        }
    }
    Table {
        shape,
        counters,
        comment: found
            .get(table::USERDATA)
            .and_then(read_user_comment)
            .unwrap_or_default(),
    }
}

fn read_chain(chain: &Attributes<'_>) -> ChainShape {
    let hook = chain.inside(chain::HOOK);
    let number = hook.number(1);
    let priority = hook.number(2).map(u32::cast_signed);
    ChainShape {
        name: chain.text(chain::NAME).unwrap_or_default(),
        base: Base {
            kind: chain.text(chain::TYPE).unwrap_or_default(),
            hook: number.zip(priority),
            policy: chain.number(chain::POLICY),
        },
        rules: Vec::new(),
    }
}

/// The attributes after `struct nfgenmsg`.
fn attributes(payload: &[u8]) -> Attributes<'_> {
    Attributes(payload.get(4..).unwrap_or_default())
}

fn nf_tables(kind: u16) -> u16 {
    SUBSYSTEM << 8 | kind
}

/// A comment as `nft` stores it in user data: type 0, length, text with NUL.
fn user_comment(comment: &str) -> Vec<u8> {
    // nft shows at most 128 bytes; ours are far shorter, a test holds them to it.
    let mut data = vec![0, comment.len() as u8 + 1];
    data.extend_from_slice(comment.as_bytes());
    data.push(0);
    data
}

fn read_user_comment(mut data: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = data {
        let value = rest.get(..usize::from(*length))?;
        if *kind == 0 {
            return Some(read_text(value));
        }
        data = &rest[usize::from(*length)..];
    }
    None
}

/// `NFTA_TABLE_*`.
mod table {
    pub(super) const NAME: u16 = 1;
    pub(super) const FLAGS: u16 = 2;
    pub(super) const USERDATA: u16 = 6;
}

/// `NFTA_CHAIN_*`.
mod chain {
    pub(super) const TABLE: u16 = 1;
    pub(super) const NAME: u16 = 3;
    pub(super) const HOOK: u16 = 4;
    pub(super) const POLICY: u16 = 5;
    pub(super) const TYPE: u16 = 7;
}

/// `NFTA_RULE_*`.
mod rule {
    pub(super) const TABLE: u16 = 1;
    pub(super) const CHAIN: u16 = 2;
    pub(super) const EXPRESSIONS: u16 = 4;
    pub(super) const USERDATA: u16 = 7;
}
