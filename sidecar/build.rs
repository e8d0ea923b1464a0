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
    // LLD and GNU ld take the script beside their own. What is built for tests is linked often, and not for long.
    if is("PROFILE", "release") && is("CARGO_CFG_TARGET_OS", "linux") {
        let folder = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        println!("cargo::rustc-link-arg-bins=-T{folder}/text_order.ld");
    }
}
