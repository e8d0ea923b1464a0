//! From the functions that ran to a linker script. Pure.
//!
//! Names are told as they are and by patterns that leave out what changes from build to build: a script that is older than
//! the program still names most of what runs, and what it names in vain costs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Bytes of a name that a pattern keeps: enough to tell functions apart.
const KEPT: usize = 64;

/// Cryptography in assembly has sections without names, and runs by what the processor can, not as under callgrind: what a
/// handshake and a record with X25519MLKEM768, P-256 and AES-GCM need, but AES-GCM for AVX-512, which is large and lies apart.
const ASSEMBLY: [&str; 11] = [
    "aesni-gcm-x86_64",
    "aesni-x86_64",
    "curve25519_x25519",
    "ghash-x86_64",
    "mlkem",
    "p256",
    "rdrand",
    "sha256",
    "sha3_keccak",
    "sha512",
    "x86_64-mont.",
];

const HEAD: &str = "\
/* What of the sidecar's text lies next to each other, for it is what runs: see build.rs. Written by `mesh-bench text-order`. */
";

/// The functions of a program.
pub(super) struct Symbols<'a> {
    /// Address and size by name.
    by_name: BTreeMap<&'a str, (u64, u64)>,
}

impl<'a> Symbols<'a> {
    /// Reads what `nm -S` printed.
    pub(super) fn read(nm: &'a str) -> Self {
        let by_name = nm.lines().filter_map(|line| {
            let mut fields = line.split(' ');
            let address = u64::from_str_radix(fields.next()?, 16).ok()?;
            let size = u64::from_str_radix(fields.next()?, 16).ok()?;
            let is_text = matches!(fields.next()?, "t" | "T" | "w" | "W");
            is_text.then_some((fields.next()?, (address, size)))
        });
        Self {
            by_name: by_name.collect(),
        }
    }

    /// All names of functions of which one is known by: the linker's is not always the profiler's.
    pub(super) fn with_aliases(&self, names: &BTreeSet<String>) -> BTreeSet<&'a str> {
        let addresses: BTreeSet<u64> = names
            .iter()
            .filter_map(|name| self.by_name.get(name.as_str()))
            .map(|(address, _)| *address)
            .collect();
        let same = self
            .by_name
            .iter()
            .filter(|(_, (address, _))| addresses.contains(address));
        same.map(|(name, _)| *name).collect()
    }

    /// How many functions there are, of all or of some, and their bytes. What has several names counts once.
    pub(super) fn size(&self, some: Option<&BTreeSet<&str>>) -> (usize, u64) {
        let counted = self
            .by_name
            .iter()
            .filter(|(name, _)| some.is_none_or(|some| some.contains(**name)));
        let by_address: BTreeMap<u64, u64> = counted.map(|(_, at)| *at).collect();
        (by_address.len(), by_address.values().sum())
    }

    /// Bytes that each pattern takes without being asked to.
    fn wasted(&self, used: &BTreeSet<&str>) -> BTreeMap<String, u64> {
        let mut wasted = BTreeMap::new();
        for (name, (_, size)) in &self.by_name {
            let size = if used.contains(name) { 0 } else { *size };
            *wasted.entry(pattern(name)).or_default() += size;
        }
        wasted
    }
}

/// Names of the functions in a profile of callgrind's.
pub(super) fn functions(dump: &str) -> impl Iterator<Item = &str> {
    dump.lines().filter_map(|line| {
        let named = line
            .strip_prefix("fn=(")
            .or_else(|| line.strip_prefix("cfn=("))?;
        let (_, name) = named.split_once(") ")?;
        // A recursive function is told by its depth as well.
        Some(name.split_once('\'').map_or(name, |(name, _)| name))
    })
}

/// A glob for the name of a function in this and other builds, and for its instances of other types.
fn pattern(name: &str) -> String {
    let mut glob = String::new();
    let mut rest = match name.find("17h") {
        // The hash at the end of a name.
        Some(at) if name.starts_with("_ZN") => &name[..at + 3],
        _ => name,
    };
    let is_whole = rest.len() == name.len();
    // The version of aws-lc, before each of its names.
    if let Some((before, versioned)) = rest.split_once("aws_lc_")
        && versioned.starts_with(|c: char| c.is_ascii_digit())
    {
        glob.push_str(before);
        glob.push_str("aws_lc_*_");
        rest = versioned.trim_start_matches(|c: char| c.is_ascii_digit() || c == '_');
    }
    // The hash of a crate's version.
    while let Some((before, after)) = rest.split_once("Cs") {
        glob.push_str(before);
        let hash = after.find('_').filter(|length| (8..=12).contains(length));
        match hash {
            Some(length) if name.starts_with("_R") => {
                glob.push_str("Cs*");
                rest = &after[length..];
            }
            _ => {
                glob.push_str("Cs");
                rest = after;
            }
        }
    }
    glob.push_str(rest);
    if glob.len() > KEPT {
        glob.truncate(KEPT);
        glob.truncate(glob.trim_end_matches(['$', '*']).len());
        glob.push('*');
    } else if !is_whole {
        glob.push('*');
    }
    glob
}

/// The script: first what runs at the start and what traffic needs beside it by their names, then by patterns: those of the
/// start, what takes most with it last, and those of traffic.
pub(super) fn write(
    symbols: &Symbols<'_>,
    start: &BTreeSet<&str>,
    traffic: &BTreeSet<&str>,
) -> String {
    let wasted = symbols.wasted(start);
    let patterns = |names: &BTreeSet<&str>| -> BTreeSet<String> {
        names.iter().map(|name| pattern(name)).collect()
    };
    let at_start = patterns(start);
    let mut by_waste: Vec<_> = at_start
        .iter()
        .map(|pattern| (wasted.get(pattern).copied().unwrap_or(0), pattern))
        .collect();
    by_waste.sort_unstable();

    let mut text = String::from(HEAD);
    text.push_str("SECTIONS {\n  .text.run : {\n");
    for file in ASSEMBLY {
        let _ = writeln!(text, "    *aws_lc_sys*:*{file}*(.text)");
    }
    // By their whole names those of a build like this one; what patterns take beside them then lies behind.
    for name in start.iter().chain(traffic) {
        if pattern(name) != **name {
            let _ = writeln!(text, "    *(.text*.{name})");
        }
    }
    for (_, pattern) in by_waste {
        let _ = writeln!(text, "    *(.text*.{pattern})");
    }
    text.push_str("  }\n  .text.traffic : {\n");
    for pattern in patterns(traffic).difference(&at_start) {
        let _ = writeln!(text, "    *(.text*.{pattern})");
    }
    // Beside the linker's own script, not in its place.
    text.push_str("  }\n} INSERT BEFORE .text;\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_leaves_out_what_changes_from_build_to_build() {
        for (name, expected) in [
            ("mi_malloc", "mi_malloc"),
            (
                "_ZN2h25proto4poll17h0123456789abcdefE",
                "_ZN2h25proto4poll17h*",
            ),
            (
                "_RNvCsfLfy6EI15iL_7___rustc14___rust_dealloc",
                "_RNvCs*_7___rustc14___rust_dealloc",
            ),
            (
                "AWS_LC_TRAMPOLINE_aws_lc_0_47_0_SHA256_Final",
                "AWS_LC_TRAMPOLINE_aws_lc_*_SHA256_Final",
            ),
            (
                "_ZN9aws_lc_rs4hmac4sign17h0123456789abcdefE",
                "_ZN9aws_lc_rs4hmac4sign17h*",
            ),
            // No hash of a crate.
            ("EVP_PKEY_CTX_Cs_free", "EVP_PKEY_CTX_Cs_free"),
        ] {
            assert_eq!(pattern(name), expected);
        }
        let long = format!("_ZN{}$LT$T$GT$17h0123456789abcdefE", "9abcdefghi".repeat(7));
        assert_eq!(pattern(&long).len(), KEPT + 1);
        assert!(pattern(&long).ends_with('*'));
    }

    #[test]
    fn functions_of_a_profile_are_found_once_per_line_and_without_their_depth() {
        let dump = "fl=(1) a.rs\nfn=(1) one\n1 2\ncfn=(2) two'2\ncalls=1 1\nfn=(1)\n";
        assert_eq!(functions(dump).collect::<Vec<_>>(), ["one", "two"]);
    }

    #[test]
    fn what_takes_most_with_it_comes_last_and_nothing_comes_twice() {
        let nm = "10 10 t _ZN1a17h1E\n20 10 t _ZN1a17h2E\n30 8 t _ZN1b17h3E\n38 8 T c\n38 8 T c_too\n40 1 d d\n";
        let symbols = Symbols::read(nm);
        assert_eq!(symbols.size(None), (4, 0x30));
        let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let start = symbols.with_aliases(&named(&["_ZN1a17h1E", "c", "malloc"]));
        assert_eq!(symbols.size(Some(&start)), (2, 0x18));
        let traffic = symbols.with_aliases(&named(&["_ZN1a17h2E", "_ZN1b17h3E"]));
        let script = write(&symbols, &start, &traffic);
        let lines: Vec<_> = script
            .lines()
            .filter(|line| line.contains("*(.text*."))
            .map(str::trim)
            .collect();
        assert_eq!(
            lines,
            [
                "*(.text*._ZN1a17h1E)",
                "*(.text*._ZN1a17h2E)",
                "*(.text*._ZN1b17h3E)",
                "*(.text*.c)",
                "*(.text*.c_too)",
                "*(.text*._ZN1a17h*)",
                "*(.text*._ZN1b17h*)"
            ]
        );
    }
}
