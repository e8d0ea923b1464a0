//! `sidecar capture`: programs, removes, shows and checks the rules that redirect an application's traffic.
//!
//! Arguments and exit codes only; the rules are `mesh-capture`'s. Runs in the init container or by hand, then exits.
