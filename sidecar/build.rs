//! Has the linker put the functions that run next to each other (`text_order.ld`).
//!
//! A sidecar needs a third of its text. Strewn over all of it, that third keeps all of it in memory, for the kernel maps what
//! lies around a page that is touched as well: 14.5 MB resident at the start became 10.6. Code that moved is missed until the order is
//! written anew, as before a release.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=text_order.ld");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|is| is == value);
    // What is built for tests is linked often, and not for long.
    if is("PROFILE", "release") && is("CARGO_CFG_TARGET_OS", "linux") && takes_scripts() {
        let folder = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        println!("cargo::rustc-link-arg-bins=-T{folder}/text_order.ld");
    }
}

/// Whether the linker is LLD or GNU ld, which take a script beside their own: what another one is has been said in the flags or
/// in its name. `POSTERN_TEXT_ORDER=off` leaves the order to any linker.
fn takes_scripts() -> bool {
    println!("cargo::rerun-if-env-changed=POSTERN_TEXT_ORDER");
    let of = |name| env::var(name).unwrap_or_default();
    let flags = of("CARGO_ENCODED_RUSTFLAGS");
    let mut named = flags.split(['\x1f', ' ']).filter_map(|flag| {
        let (_, linker) = flag.split_once("fuse-ld=")?;
        Some(linker)
    });
    let others = ["gold", "mold", "wild"];
    let linker = of("RUSTC_LINKER");
    of("POSTERN_TEXT_ORDER") != "off"
        && named.all(|linker| matches!(linker, "lld" | "bfd"))
        && !others.iter().any(|other| linker.ends_with(other))
}
