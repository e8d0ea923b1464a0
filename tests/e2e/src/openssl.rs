//! `openssl s_client`: a TLS client that is not ours.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};

/// Connects with TLS 1.3, says something, and stays until the server ends.
///
/// # Panics
/// `openssl` cannot be run.
#[must_use]
pub fn s_client(address: SocketAddr, options: &[&str], say: &[u8]) -> Output {
    let address = address.to_string();
    let mut child = Command::new("openssl")
        .args(["s_client", "-connect", &address, "-tls1_3", "-ign_eof"])
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl runs (apt-get install openssl)");
    let mut stdin = child.stdin.take().expect("piped");
    // A server that refuses may be gone already.
    let _ = stdin.write_all(say);
    let _ = stdin.flush();
    let output = child.wait_with_output().expect("it ends");
    drop(stdin);
    output
}

/// All that it printed.
#[must_use]
pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
